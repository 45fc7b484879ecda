"""Pruning at initialisation, composed of criterion, schedule, selection and mask."""

import logging
from collections.abc import Mapping

from torch import Tensor, nn

from pai_bench.errors import UserError
from pai_bench.pruning.criterion import BatchLike, Criterion, as_batch
from pai_bench.pruning.guard import score_masked
from pai_bench.pruning.lookup import get_criterion
from pai_bench.pruning.mask import Mask
from pai_bench.pruning.schedule import Schedule, get_schedule
from pai_bench.pruning.selection import Scope, kept_count, select

logger = logging.getLogger(__name__)


def prune(
    model: nn.Module,
    batch: BatchLike,
    criterion: str | Criterion = "snip",
    sparsity: float = 0.9,
    *,
    schedule: str | Schedule | None = None,
    scope: Scope = "global",
    seed: int = 0,
) -> Mask:
    """The mask that keeps exactly ``round((1 - sparsity) * n)`` of the n prunable connections of `model`.

    `schedule` overrides the criterion's own. The model itself is not changed: ``mask.apply_(model)`` does that.
    """
    check_sparsity(sparsity)
    chosen = get_criterion(criterion)
    cuts = chosen.schedule if schedule is None else get_schedule(schedule)
    batch = as_batch(batch)
    mask: Mask | None = None
    for density in cuts.densities(1 - sparsity):
        alive = None if cuts.returns else mask
        mask = cut(model, batch, chosen, density, mask, alive=alive, scope=scope, seed=seed)
    assert mask is not None  # a schedule has at least one density
    return mask


def cut(
    model: nn.Module,
    batch: BatchLike,
    criterion: Criterion,
    density: float,
    mask: Mapping[str, Tensor] | None = None,
    *,
    alive: Mapping[str, Tensor] | None = None,
    scope: Scope = "global",
    seed: int = 0,
) -> Mask:
    """One step of `prune`: score `model` under `mask`, keep the best connections, among those `alive` if given."""
    scores = score_masked(criterion, model, batch, mask, seed=seed)
    zero = [name for name, score in scores.items() if not score.any()]
    if zero and mask is None:  # said once, of the network as it was given
        logger.warning("%s: all scores are zero in %s; position decides there", criterion, ", ".join(zero))
    count = kept_count(density, sum(score.numel() for score in scores.values()))
    return Mask(select(scores, count, scope, alive))


def check_sparsity(sparsity: float) -> None:
    """Refuse what is not a sparsity."""
    if not 0 <= sparsity < 1:
        raise UserError(f"sparsity {sparsity:g} is outside [0, 1): it is the share of weights removed")
