"""pai-bench: the referee of pruning at initialisation.

`import pai_bench` is light: what needs torch, pandas or matplotlib is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pai_bench.data import DataSet, load_data
    from pai_bench.errors import UserError
    from pai_bench.execution import run
    from pai_bench.experiment.sweep import Sweep
    from pai_bench.masks import initial_weights, read_mask, remake_mask
    from pai_bench.models import create_model
    from pai_bench.pruning import Batch, Connectivity, Criterion, Mask, Scores, get_criterion
    from pai_bench.pruning.connectivity import connectivity
    from pai_bench.pruning.prune import prune
    from pai_bench.registry import backend, criterion, data_set, model
    from pai_bench.store import read_results

_HOMES = {
    "Batch": "pai_bench.pruning",
    "Connectivity": "pai_bench.pruning",
    "Criterion": "pai_bench.pruning",
    "DataSet": "pai_bench.data",
    "Mask": "pai_bench.pruning",
    "Scores": "pai_bench.pruning",
    "Sweep": "pai_bench.experiment.sweep",
    "UserError": "pai_bench.errors",
    "backend": "pai_bench.registry",
    "connectivity": "pai_bench.pruning.connectivity",
    "create_model": "pai_bench.models",
    "criterion": "pai_bench.registry",
    "data_set": "pai_bench.registry",
    "get_criterion": "pai_bench.pruning",
    "initial_weights": "pai_bench.masks",
    "load_data": "pai_bench.data",
    "model": "pai_bench.registry",
    "prune": "pai_bench.pruning",
    "read_mask": "pai_bench.masks",
    "read_results": "pai_bench.store",
    "remake_mask": "pai_bench.masks",
    "run": "pai_bench.execution",
}

__all__ = [
    "Batch",
    "Connectivity",
    "Criterion",
    "DataSet",
    "Mask",
    "Scores",
    "Sweep",
    "UserError",
    "backend",
    "connectivity",
    "create_model",
    "criterion",
    "data_set",
    "get_criterion",
    "initial_weights",
    "load_data",
    "model",
    "prune",
    "read_mask",
    "read_results",
    "remake_mask",
    "run",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        return metadata.version("pai-bench")
    if name not in _HOMES:
        raise AttributeError(f"module 'pai_bench' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
