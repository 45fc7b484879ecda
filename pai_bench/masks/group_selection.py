"""Selection of groups of weights, such as units or channels, under a budget of weights."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pai_bench.masks.device_selection import UNORDERED, common_dtype
from pai_bench.support.errors import UserError
from pai_bench.support.transfers import read_scalars


def top_groups(
    scores: Sequence[Tensor], sizes: Sequence[Tensor], budget: int, alive: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Masks (bool, of the scores' shapes) of the groups with the highest scores over all tensors together.

    Groups are kept in order of score, equal ones in order of position, as long as the sum of their `sizes` is at most
    `budget`. The first group that would exceed it ends the selection: no smaller one after it is kept.
    """
    if any(size.is_floating_point() or size.shape != score.shape for size, score in zip(sizes, scores, strict=True)):
        raise UserError("sizes must be whole numbers, one for each score")
    weights = _flat(sizes, torch.int64)
    values = _flat(scores, common_dtype(scores)).add(0.0)  # 0.0 and -0.0 are equal
    order, checks = values.sort(descending=True, stable=True).indices, [values.isnan().any(), (weights < 1).any()]
    if alive is not None:
        available = _flat(alive, torch.bool)
        order = order[available[order].sort(descending=True, stable=True).indices]  # those available first
        weights = weights * available
    unordered, too_small, total = read_scalars([*checks, weights.sum()])
    if unordered:
        raise UserError(UNORDERED)
    if too_small:
        raise UserError("sizes must be at least 1")
    if budget > total:
        raise UserError(f"{budget} connections cannot be kept of {total}")
    mask = torch.empty_like(values, dtype=torch.bool)
    mask[order] = weights[order].cumsum(0) <= budget
    if alive is not None:
        mask &= available
    parts = mask.split([score.numel() for score in scores])
    return [part.view(score.shape).to(score.device) for part, score in zip(parts, scores, strict=True)]


def _flat(tensors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1).to(tensors[0].device, dtype) for tensor in tensors])
