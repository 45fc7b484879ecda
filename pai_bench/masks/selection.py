"""Selection: from scores to exactly k kept connections.

The highest scores are kept. Of equal scores, the first by position are kept (in parameter order, then by flat index),
unless `with_ties` keeps or removes all. `top` works block by block, so that it needs memory for the masks and a small
share of the scores only. Scores on another device than the processor are ranked there
(`pai_bench.masks.device_selection`). Groups of weights are selected in `pai_bench.groups.budget`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pai_bench.masks.device_selection import DIRECT, SIGMAS, UNORDERED, common_dtype, tops
from pai_bench.support import transfers
from pai_bench.support.arrays import on_cpu
from pai_bench.support.errors import UserError
from pai_bench.support.transfers import read_scalars

Scope = Literal["global", "layerwise", "quota"]

Ties = Literal["position", "keep", "remove"]

BLOCK = 2**20
"""Scores that are compared at a time."""


def kept_count(density: float, size: int) -> int:
    """How many of `size` connections a density keeps: ``round(density * size)``, with Python's `round`."""
    return round(density * size)


def apportion(weights: Sequence[int], count: int, limits: Sequence[int]) -> list[int]:
    """Divide `count` in proportion to `weights`, rounded by largest remainder, no part above its limit.

    A part that would exceed its limit is set to it, and the rest is divided again among the others. The sum of the
    parts is exactly `count`, which must not exceed the sum of the limits.
    """
    if not 0 <= count <= sum(limits):
        raise UserError(f"{count} connections cannot be divided over layers that hold {sum(limits)}")
    parts, free, rest = list(limits), list(range(len(weights))), count
    while True:
        if not any(weights[i] for i in free):  # the rest is divided by size
            weights = limits
        total = sum(weights[i] for i in free)
        over = {i for i in free if weights[i] * rest > limits[i] * total}
        if not over:
            break
        rest -= sum(limits[i] for i in over)
        free = [i for i in free if i not in over]
    total = total or 1
    for i in free:
        parts[i] = rest * weights[i] // total
    by_remainder = sorted(free, key=lambda i: (-(rest * weights[i] % total), i))
    for i in by_remainder[: count - sum(parts)]:
        parts[i] += 1
    return parts


@on_cpu
def select(
    scores: Mapping[str, Tensor],
    count: int | Mapping[str, int],
    alive: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Masks (bool, of the scores' shapes) that keep the connections with the highest scores.

    * `scores`: parameter name -> score. Equal scores are kept in order of position: first of the name, then of the
      flat index.
    * `count`: how many are kept, exactly, over all tensors together; or for each name, each tensor ranked by itself.
    * `alive`: only connections that are ``True`` there can be kept.

    Raises `UserError` for NaN, and for a count above the number of connections that can be kept.
    """
    names = [([name], count[name]) for name in scores] if isinstance(count, Mapping) else [(list(scores), count)]
    rankings = [
        ([scores[name] for name in group], kept, None if alive is None else [alive[name] for name in group])
        for group, kept in names
    ]
    masks = [top(*ranking) for ranking in rankings] if transfers.on_host(*scores.values()) else tops(rankings)
    return dict(zip(scores, (mask for group_masks in masks for mask in group_masks), strict=True))


def with_ties(
    scores: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    ties: Literal["keep", "remove"],
    alive: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """`masks` of the highest scores over all tensors together, with all kept that equal the lowest score kept.

    Or with all removed that equal the highest score removed. Where nothing ties at the threshold, neither changes.
    """
    dtype, keep, ends = common_dtype(list(scores.values())), ties == "keep", []
    for name, mask in masks.items():
        side = mask if keep else ~mask if alive is None else alive[name] & ~mask
        inside = scores[name].masked_fill(~side, math.inf if keep else -math.inf)
        ends += [inside.amin() if keep else inside.amax(), side.any()]
    (*values,) = read_scalars(ends)
    if not any(values[1::2]):  # nothing is kept, or nothing removed
        return dict(masks)
    end, above = (min(values[::2]), torch.ge) if keep else (max(values[::2]), torch.gt)
    result = {name: above(score.to(dtype), end) for name, score in scores.items()}
    return result if alive is None else {name: mask & alive[name] for name, mask in result.items()}


def top(scores: Sequence[Tensor], count: int, alive: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Masks (bool, of the scores' shapes) of the `count` highest scores over all tensors together, on a processor.

    A sample of the scores gives a bracket that holds the threshold, almost surely; one pass keeps what lies above the
    bracket and collects the few scores inside, among which the choice is exact. A bracket that proves wrong is moved.
    """
    masks = [_empty_mask(score) for score in scores]
    available = sum(score.numel() for score in scores) if alive is None else sum(map(_count, alive))
    if count > available:
        raise UserError(f"{count} connections cannot be kept of {available}")
    if count in (0, available):
        for i, mask in enumerate(masks):
            mask.fill_(count > 0) if alive is None or not count else mask.copy_(alive[i])
        return masks
    blocks = list(_blocks(scores, masks, alive))
    sample = _sample(scores, alive)
    if sample.isnan().any():
        raise UserError(UNORDERED)
    position = len(sample) * (available - count) / available  # of the threshold, among the sorted sample
    spread = SIGMAS * math.sqrt(position * (1 - position / max(1, len(sample)))) + 2
    low, high = _at(sample, position - spread), _at(sample, position + spread)
    while True:
        above, inside = _divide(blocks, low, high)
        missing, candidates = count - above, sum(len(part.values) for part in inside)
        spread *= 8
        if missing < 0:  # the threshold is `high` or higher
            low, high = high, _at(sample, position + spread)
        elif missing <= candidates:
            if missing:
                _keep(inside, _best(inside, missing))
            return masks
        else:  # the threshold is `low` or lower
            _keep(inside, None)
            missing = _keep_equal(blocks, low, missing - candidates)
            if not missing:
                return masks
            if low == -math.inf:
                raise UserError(UNORDERED)
            low, high = _at(sample, position - spread), low


@dataclass(frozen=True)
class _Block:
    """A piece of the scores, with flat views of the mask and of what can be kept there."""

    raw: Tensor
    dtype: torch.dtype
    mask: Tensor
    alive: Tensor | None

    @property
    def scores(self) -> Tensor:
        """The scores, flat, in the common type. Not cached, to save memory."""
        return self.raw.reshape(-1).to(self.dtype)


@dataclass(frozen=True)
class _Inside:
    """The scores of a block that lie inside the bracket, by position."""

    mask: Tensor
    positions: Tensor
    values: Tensor


def _blocks(scores: Sequence[Tensor], masks: Sequence[Tensor], alive: Sequence[Tensor] | None) -> Iterator[_Block]:
    dtype = common_dtype(scores)
    for i, (score, mask) in enumerate(zip(scores, masks, strict=True)):
        score = score.detach()
        if score.is_contiguous():
            pieces = score.view(-1).split(BLOCK)
        else:  # whole rows at a time
            pieces = score.split(max(1, BLOCK * len(score) // score.numel()))
        sizes = [piece.numel() for piece in pieces]
        lives = [None] * len(sizes) if alive is None else alive[i].reshape(-1).split(sizes)
        for piece, flat, live in zip(pieces, mask.view(-1).split(sizes), lives, strict=True):
            yield _Block(piece, dtype, flat, live)


def _empty_mask(score: Tensor) -> Tensor:
    return torch.from_numpy(np.empty(score.shape, dtype=bool))  # NumPy uses huge pages, which are allocated faster


def _sample(scores: Sequence[Tensor], alive: Sequence[Tensor] | None) -> Tensor:
    """Scores at regular distances, from each tensor its share; empty for few scores, which need no sample."""
    total = sum(score.numel() for score in scores)
    if total <= DIRECT:
        return torch.empty(0)
    sizes = [score.numel() for score in scores]
    # two thirds in the exponent balance the sample against the scores inside the bracket that it gives
    shares = apportion(sizes, int(total ** (2 / 3)), sizes)
    dtype, parts = common_dtype(scores), []
    for i, (score, share) in enumerate(zip(scores, shares, strict=True)):
        if share:
            step = score.numel() // share
            while math.gcd(step, score.numel()) > 1:  # else some rows, columns or kernel positions are left out
                step -= 1
            values = _every(step, score.detach())
            parts.append((values if alive is None else values[_every(step, alive[i])]).to(dtype))
    return torch.cat(parts)


def _every(step: int, tensor: Tensor) -> Tensor:
    """The elements of `tensor` at flat positions `step` apart, without a flat copy of it."""
    if tensor.is_contiguous():
        return tensor.view(-1)[::step]
    places = torch.arange(0, tensor.numel(), step, device=tensor.device)
    return tensor[torch.unravel_index(places, tensor.shape)]


def _at(sample: Tensor, position: float) -> float:
    """The score at a position of the sample, if it were sorted; infinite outside it."""
    if not 0 <= position < len(sample):
        return math.copysign(math.inf, position - len(sample) / 2 if len(sample) else position)
    return float(sample.kthvalue(int(position) + 1).values)


def _divide(blocks: Sequence[_Block], low: float, high: float) -> tuple[int, list[_Inside]]:
    """Keep the scores above a bracket, and count them; collect those strictly between `low` and `high`.

    `high` itself counts as above, except where it equals `low`.
    """
    counts, inside = [], []
    for block in blocks:
        scores = block.scores
        (torch.gt if low == high else torch.ge)(scores, high, out=block.mask)
        if block.alive is not None:
            block.mask.logical_and_(block.alive)
        counts.append(_count(block.mask))
        if low < high:
            between = (scores > low).logical_xor_(block.mask)
            if block.alive is not None:
                between.logical_and_(block.alive)
            places = positions(between)
            inside.append(_Inside(block.mask, places, scores[places]))
    return sum(counts), inside


def _count(mask: Tensor) -> int:
    """The number of ``True``. NumPy takes half the time of torch."""
    return int(np.count_nonzero(mask.numpy()))


def positions(mask: Tensor) -> Tensor:
    """The indices at which a flat mask on a processor is ``True``."""
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def _best(inside: Sequence[_Inside], count: int) -> Tensor:
    """The `count` highest of the collected scores, at least 1, as a mask."""
    values = torch.cat([candidates.values for candidates in inside])
    threshold = values.kthvalue(len(values) - count + 1).values
    keep = values > threshold
    ties = (values == threshold).nonzero().squeeze(1)
    keep[ties[: count - int(keep.count_nonzero())]] = True
    return keep


def _keep(inside: Sequence[_Inside], chosen: Tensor | None) -> None:
    """Keep the `chosen` of the collected scores, or all."""
    parts = [None] * len(inside) if chosen is None else chosen.split([len(candidates.values) for candidates in inside])
    for candidates, part in zip(inside, parts, strict=True):
        candidates.mask[candidates.positions] = True if part is None else part


def _keep_equal(blocks: Sequence[_Block], value: float, count: int) -> int:
    """Keep the first `count` scores that equal `value`; returns how many are missing."""
    for block in blocks:
        if not count:
            break
        equal = block.scores == value
        if block.alive is not None:
            equal.logical_and_(block.alive)
        if (number := int(equal.count_nonzero())) > count:
            equal[equal.nonzero().squeeze(1)[count:]] = False
            number = count
        block.mask.logical_or_(equal)
        count -= number
    return count
