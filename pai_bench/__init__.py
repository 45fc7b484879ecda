"""pai-bench: the referee of pruning at initialisation.

`import pai_bench` is light: what needs torch, pandas or matplotlib is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pai_bench.data import DataSet, load_data
    from pai_bench.execution import Listener, run
    from pai_bench.experiment.masks import initial_weights, read_mask, remake_mask
    from pai_bench.experiment.sweep import Sweep
    from pai_bench.graph import Connectivity, connectivity
    from pai_bench.groups import GroupMask, Groups, find_groups, load_shrunk, save_shrunk, shrink
    from pai_bench.masks import Mask
    from pai_bench.models import create_model
    from pai_bench.pruning import Pruner, PruningOptions, prune
    from pai_bench.results import read_results
    from pai_bench.scoring import Batch, Criterion, MaskedModel, Scores, get_criterion
    from pai_bench.support.errors import UserError
    from pai_bench.support.registry import (
        backend,
        criterion,
        data_set,
        initialisation,
        metric,
        model,
        protocol,
        schedule,
    )

_HOMES = {
    "Batch": "pai_bench.scoring",
    "Connectivity": "pai_bench.graph",
    "Criterion": "pai_bench.scoring",
    "DataSet": "pai_bench.data",
    "GroupMask": "pai_bench.groups",
    "Groups": "pai_bench.groups",
    "Listener": "pai_bench.execution",
    "Mask": "pai_bench.masks",
    "MaskedModel": "pai_bench.scoring",
    "Pruner": "pai_bench.pruning",
    "PruningOptions": "pai_bench.pruning",
    "Scores": "pai_bench.scoring",
    "Sweep": "pai_bench.experiment.sweep",
    "UserError": "pai_bench.support.errors",
    "backend": "pai_bench.support.registry",
    "connectivity": "pai_bench.graph",
    "create_model": "pai_bench.models",
    "criterion": "pai_bench.support.registry",
    "data_set": "pai_bench.support.registry",
    "find_groups": "pai_bench.groups",
    "get_criterion": "pai_bench.scoring",
    "initialisation": "pai_bench.support.registry",
    "metric": "pai_bench.support.registry",
    "protocol": "pai_bench.support.registry",
    "schedule": "pai_bench.support.registry",
    "initial_weights": "pai_bench.experiment.masks",
    "load_data": "pai_bench.data",
    "load_shrunk": "pai_bench.groups",
    "model": "pai_bench.support.registry",
    "prune": "pai_bench.pruning",
    "read_mask": "pai_bench.experiment.masks",
    "read_results": "pai_bench.results",
    "remake_mask": "pai_bench.experiment.masks",
    "run": "pai_bench.execution",
    "save_shrunk": "pai_bench.groups",
    "shrink": "pai_bench.groups",
}

__all__ = [
    "Batch",
    "Connectivity",
    "Criterion",
    "DataSet",
    "GroupMask",
    "Groups",
    "Listener",
    "Mask",
    "MaskedModel",
    "Pruner",
    "PruningOptions",
    "Scores",
    "Sweep",
    "UserError",
    "backend",
    "connectivity",
    "create_model",
    "criterion",
    "data_set",
    "find_groups",
    "get_criterion",
    "initial_weights",
    "initialisation",
    "load_data",
    "load_shrunk",
    "metric",
    "model",
    "protocol",
    "prune",
    "read_mask",
    "read_results",
    "remake_mask",
    "run",
    "save_shrunk",
    "schedule",
    "shrink",
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
