"""The mechanism of pruning at initialisation, independent of any experiment."""

from pai_bench.pruning.connectivity import Connectivity, LayerConnectivity
from pai_bench.pruning.criterion import (
    AuthorsChoice,
    Batch,
    BatchLike,
    BatchNormMode,
    Criterion,
    Scores,
    Spare,
    prunable_parameters,
    uniform_scores,
)
from pai_bench.pruning.gradients import (
    forward,
    gradients,
    hessian_gradient_product,
    hessian_saliencies,
    loss_and_gradients,
    no_recomputation,
    saliencies,
    spare,
)
from pai_bench.pruning.guard import Scorer, overwritten, weights
from pai_bench.pruning.lookup import get_criterion
from pai_bench.pruning.mask import Mask
from pai_bench.pruning.prune import cut, prune
from pai_bench.pruning.redraw import redraw_
from pai_bench.pruning.schedule import Exponential, Halving, Linear, OneShot, Schedule, get_schedule
from pai_bench.pruning.selection import Scope, select
from pai_bench.pruning.tracing import tensors
from pai_bench.pruning.transfers import read_scalars
from pai_bench.pruning.variant import Variant, get_variant
from pai_bench.support.errors import CriterionError
from pai_bench.support.spec import added_later

__all__ = [
    "AuthorsChoice",
    "Batch",
    "BatchLike",
    "BatchNormMode",
    "Connectivity",
    "Criterion",
    "CriterionError",
    "Exponential",
    "Halving",
    "LayerConnectivity",
    "Linear",
    "Mask",
    "OneShot",
    "Schedule",
    "Scope",
    "Scorer",
    "Scores",
    "Spare",
    "Variant",
    "added_later",
    "cut",
    "forward",
    "get_criterion",
    "get_schedule",
    "get_variant",
    "gradients",
    "hessian_gradient_product",
    "hessian_saliencies",
    "loss_and_gradients",
    "no_recomputation",
    "overwritten",
    "prunable_parameters",
    "prune",
    "read_scalars",
    "redraw_",
    "saliencies",
    "select",
    "spare",
    "tensors",
    "uniform_scores",
    "weights",
]
