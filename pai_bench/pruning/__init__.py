"""From scores to a mask in one or many cuts, independent of any experiment."""

import importlib
import warnings
from typing import Any

from pai_bench.pruning.options import PruningOptions
from pai_bench.pruning.prune import prune
from pai_bench.pruning.pruner import Pruner
from pai_bench.pruning.variant import Variant, get_variant

__all__ = ["Pruner", "PruningOptions", "Variant", "get_variant", "prune"]

MOVED = {
    **dict.fromkeys(("Exponential", "Halving", "Linear", "Mask", "OneShot", "Schedule", "Scope"), "pai_bench.masks"),
    **dict.fromkeys(("cut", "get_schedule", "select"), "pai_bench.masks"),
    **dict.fromkeys(("Connectivity", "LayerConnectivity"), "pai_bench.graph"),
    **dict.fromkeys(("AuthorsChoice", "Batch", "BatchLike", "BatchNormMode", "Criterion"), "pai_bench.scoring"),
    **dict.fromkeys(("CriterionError", "Scorer", "Scores", "added_later", "forward"), "pai_bench.scoring"),
    **dict.fromkeys(("get_criterion", "no_recomputation", "read_scalars", "redraw_"), "pai_bench.scoring"),
    "tensors": "pai_bench.scoring",
    **dict.fromkeys(("gradients", "hessian_gradient_product", "hessian_saliencies"), "pai_bench.scoring.functions"),
    **dict.fromkeys(("loss_and_gradients", "saliencies"), "pai_bench.scoring.functions"),
    **dict.fromkeys(("prunable_parameters", "uniform_scores", "weights"), "pai_bench.scoring.functions"),
}
"""What plug-ins imported from here before, and where it is now."""


def __getattr__(name: str) -> Any:
    if name not in MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = MOVED[name]
    cure = "a method of the model that a score is given" if home.endswith("functions") else f"from {home} import {name}"
    warnings.warn(f"pai_bench.pruning.{name} is deprecated: {cure}", DeprecationWarning, stacklevel=2)
    return getattr(importlib.import_module(home), name)
