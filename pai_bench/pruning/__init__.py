"""The mechanism of pruning at initialisation, independent of any experiment."""

from pai_bench.errors import CriterionError
from pai_bench.pruning.criterion import (
    Batch,
    BatchLike,
    BatchNormMode,
    Criterion,
    Scores,
    prunable_parameters,
)
from pai_bench.pruning.gradients import gradients, hessian_gradient_product, loss_and_gradients
from pai_bench.pruning.guard import weights
from pai_bench.pruning.lookup import get_criterion
from pai_bench.pruning.mask import Mask
from pai_bench.pruning.prune import cut, prune
from pai_bench.pruning.schedule import Exponential, Halving, Linear, OneShot, Schedule, get_schedule
from pai_bench.pruning.selection import Scope, select

__all__ = [
    "Batch",
    "BatchLike",
    "BatchNormMode",
    "Criterion",
    "CriterionError",
    "Exponential",
    "Halving",
    "Linear",
    "Mask",
    "OneShot",
    "Schedule",
    "Scope",
    "Scores",
    "cut",
    "get_criterion",
    "get_schedule",
    "gradients",
    "hessian_gradient_product",
    "loss_and_gradients",
    "prunable_parameters",
    "prune",
    "select",
    "weights",
]
