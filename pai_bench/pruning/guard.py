"""The edges of scoring that no criterion should have to think about.

Every formula runs on a **replica**: a private copy of the network with the mask multiplied into its weights,
batch norm in the mode asked for and dropout off. Whatever a formula does to it, the caller's model is untouched. Random
states are put back, and the scores are checked before they leave.
"""

import copy
import functools
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pai_bench.errors import CriterionError, UserError
from pai_bench.pruning.criterion import Batch, BatchLike, BatchNormMode, Scores, as_batch, prunable_parameters
from pai_bench.randomness import random_state

if TYPE_CHECKING:
    from pai_bench.pruning.criterion import Criterion

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

Formula = Callable[[Any, nn.Module, Batch], Scores]

_ORIGINALS: "weakref.WeakKeyDictionary[nn.Module, nn.Module]" = weakref.WeakKeyDictionary()
"""Replica -> the caller's model that it was made from."""

_SCORING: "weakref.WeakKeyDictionary[nn.Module, tuple[Criterion, int]]" = weakref.WeakKeyDictionary()
"""Replica -> the criterion whose formula it was made for, and the seed that it was given."""


def guarded(formula: Formula) -> Formula:
    """The public `score` of a criterion, around the `formula` that its class defines."""

    @functools.wraps(formula)
    def score(self: "Criterion", model: nn.Module, batch: BatchLike) -> Scores:
        outer, seed = _SCORING.get(model, (None, 0))
        if outer is self:  # super().score(...), on the replica that self was given
            return formula(self, model, as_batch(batch))
        return score_masked(self, model, batch, seed=seed)

    score.__dict__["formula"] = formula
    return score


def score_masked(
    criterion: "Criterion",
    model: nn.Module,
    batch: BatchLike,
    mask: Mapping[str, Tensor] | None = None,
    *,
    seed: int = 0,
) -> Scores:
    """The scores of `criterion` for `model` under `mask`, without side effects.

    `seed` serves criteria with randomness of their own, unless their option ``seed`` says otherwise.
    """
    formula: Formula = vars(type(criterion).score)["formula"]
    batch = as_batch(batch)
    label = criterion.name or type(criterion).__name__
    seed = seed if criterion.seed is None else criterion.seed
    with random_state(seed), torch.inference_mode(False), torch.enable_grad():
        twin = replica(model, mask, criterion.bn)
        _SCORING[twin] = criterion, seed
        # a copy, since a network may begin with an operation in place
        scores = formula(criterion, twin, Batch(batch.inputs.clone(), batch.targets))
    return checked(scores, prunable_parameters(model), label)


def replica(model: nn.Module, mask: Mapping[str, Tensor] | None, bn: BatchNormMode) -> nn.Module:
    """A private copy of `model` for scoring, its prunable weights multiplied by `mask`."""
    prunable = prunable_parameters(model)
    memo: dict[int, Any] = {}
    for name, parameter in prunable.items():
        weight = parameter.detach().clone()
        if mask is not None:
            weight.masked_fill_(~mask[name], 0.0)
        memo[id(parameter)] = nn.Parameter(weight)
    try:
        twin = copy.deepcopy(model, memo)
    except Exception as error:  # whatever a module's own __deepcopy__ raises
        raise UserError(f"{type(model).__name__} cannot be copied for scoring: {error}") from error
    twin.requires_grad_(False)
    for name in prunable:
        twin.get_parameter(name).requires_grad_(True)
    for module in twin.modules():
        module.training = bn == "train" and isinstance(module, BATCH_NORMS)
    _ORIGINALS[twin] = _ORIGINALS.get(model, model)
    return twin


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The dense weights of the prunable parameters, also at positions that the current mask removes."""
    original = _ORIGINALS.get(model, model)
    return {name: parameter.detach().clone() for name, parameter in prunable_parameters(original).items()}


def checked(scores: Scores, prunable: Mapping[str, nn.Parameter], label: str) -> Scores:
    """`scores` in the model's order, or an error that names the criterion and the layer."""
    if not isinstance(scores, Mapping):
        raise CriterionError(f"{label} returned {type(scores).__name__}, not a dict of tensors by parameter name")
    for name in scores:
        if name not in prunable:
            raise CriterionError(f"{label} scored {name!r}, which is not a prunable parameter of this model")
    for name, parameter in prunable.items():
        if (score := scores.get(name)) is None:
            raise CriterionError(f"{label} gave no score for {name!r}")
        if score.shape != parameter.shape or score.device != parameter.device:
            got, want = (f"shape {tuple(t.shape)} on {t.device}" for t in (score, parameter))
            raise CriterionError(f"{label} scored {name!r} with {got}; the parameter has {want}")
        if not score.is_floating_point():
            raise CriterionError(f"{label} scored {name!r} with dtype {score.dtype}, which is not a float")
        if not bool(score.isfinite().all()):
            kind = "NaN" if bool(score.isnan().any()) else "infinite"
            raise CriterionError(f"{label} gave {kind} scores in {name!r}; nothing can be ranked by them")
    return {name: scores[name].detach() for name in prunable}
