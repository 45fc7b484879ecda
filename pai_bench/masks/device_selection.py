"""Selection of the highest scores on a device, with few transfers to the host.

A sample of the scores gives a bracket that contains the threshold almost surely. The scores above it, inside and at its
two ends are counted in one pass, and the counts, read at once, give the position of the threshold. A ranking is a
generator that yields the scalars that it needs, so that those of several rankings are read together.
"""

import functools
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pai_bench.support.errors import UserError
from pai_bench.support.transfers import count, packed, read_scalars

Ranking = Generator[list[Tensor], list[Any], list[Tensor]]
"""Yields scalars on the device, is sent their values, and returns masks."""

Group = tuple[Sequence[Tensor], int, Sequence[Tensor] | None]
"""Scores that are ranked together, how many are to be kept, and which can be."""

DIRECT = 2**14
"""At most so many scores are selected from directly, without a sample."""

SIGMAS = 4.0
"""Half the width of the bracket, in standard deviations of the sampled threshold's position."""

SMALL, PIECE = 2**22, 2**24
"""Tensors with fewer scores than the first are joined to pieces of at most the second."""

CHUNK = 2**20
"""Equal scores that are numbered at a time, a multiple of 1024."""


UNORDERED = "the scores hold NaN; nothing can be ranked by them"


def common_dtype(scores: Sequence[Tensor]) -> torch.dtype:
    """The type in which scores of several types are compared."""
    return functools.reduce(torch.promote_types, (score.dtype for score in scores))


def tops(groups: Sequence[Group]) -> list[list[Tensor]]:
    """For each of some groups, masks of the highest scores in it; equal ones are kept by position."""
    rankings = [top(*group) for group in groups]
    masks: dict[int, list[Tensor]] = {}
    values: dict[int, Any] = dict.fromkeys(range(len(rankings)))  # None starts a generator
    while values:
        requests: dict[int, list[Tensor]] = {}
        for i, sent in values.items():
            try:
                requests[i] = rankings[i].send(sent)
            except StopIteration as end:
                masks[i] = end.value
        read = iter(read_scalars(scalar for scalars in requests.values() for scalar in scalars))
        values = {i: [next(read) for _ in scalars] for i, scalars in requests.items()}
    return [masks[i] for i in range(len(rankings))]


def top(scores: Sequence[Tensor], wanted: int, alive: Sequence[Tensor] | None) -> Ranking:
    """Masks (bool, of the scores' shapes) of the `wanted` highest scores over all tensors together."""
    pieces = _pieces(scores, alive)
    sample, seen = _sample(pieces)
    available, sampled = sum(score.numel() for score in scores), len(sample)
    if seen is not None:
        *left, sampled = yield [*(count(p.alive) for p in pieces if p.alive is not None), seen]
        available = sum(left)
    if wanted > available:
        raise UserError(f"{wanted} connections cannot be kept of {available}")
    if wanted in (0, available):
        flat = [piece.among(torch.full_like(piece.scores, wanted > 0, dtype=torch.bool)) for piece in pieces]
    else:
        flat = yield from _ranked(pieces, wanted, _Bracket(sample, sampled, sampled * wanted / available))
    parts = [part for piece, mask in zip(pieces, flat, strict=True) for part in mask.split(piece.sizes)]
    return [part.view(score.shape) for part, score in zip(parts, scores, strict=True)]


@dataclass(frozen=True)
class _Piece:
    """Scores of a tensor, or of a few in a row, flat, in the common type; and which can be kept."""

    sizes: list[int]
    scores: Tensor
    alive: Tensor | None

    def among(self, mask: Tensor) -> Tensor:
        """`mask`, in place, without connections that cannot be kept."""
        return mask if self.alive is None else mask.logical_and_(self.alive)

    def above(self, value: Tensor) -> Tensor:
        """Scores higher than `value`."""
        return self.among(self.scores > value.to(self.scores.device))

    def at(self, value: Tensor) -> Tensor:
        """Scores equal to `value`."""
        return self.among(self.scores == value.to(self.scores.device))

    def between(self, low: Tensor, high: Tensor) -> Tensor:
        """Scores higher than `low` and lower than `high`."""
        return self.above(low).logical_and_(self.scores < high.to(self.scores.device))

    def regions(self, low: Tensor, high: Tensor) -> Iterator[Tensor]:
        """Scores higher than `high`, equal to it, between, and equal to `low`, in this order."""
        yield self.above(high)
        yield self.at(high)
        yield self.between(low, high)
        yield self.at(low)


def _pieces(scores: Sequence[Tensor], alive: Sequence[Tensor] | None) -> list[_Piece]:
    """Each large tensor as a view, and small ones joined, in their order."""
    dtype = common_dtype(scores)
    groups: list[list[int]] = []
    for i, score in enumerate(scores):
        joined = [scores[j].numel() for j in groups[-1]] if groups else [PIECE]
        near = bool(groups) and scores[groups[-1][0]].device == score.device
        if near and max(*joined, score.numel()) < SMALL and sum(joined) + score.numel() <= PIECE:
            groups[-1].append(i)
        else:
            groups.append([i])

    def flat(tensors: Sequence[Tensor], group: list[int]) -> Tensor:
        rows = [tensors[i].detach().reshape(-1) for i in group]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    return [
        _Piece([scores[i].numel() for i in g], flat(scores, g).to(dtype), None if alive is None else flat(alive, g))
        for g in groups
    ]


def _sample(pieces: Sequence[_Piece]) -> tuple[Tensor, Tensor | None]:
    """Scores at regular distances, the highest first, and how many of them can be kept; the others come last."""
    total, home = sum(len(piece.scores) for piece in pieces), pieces[0].scores.device
    step = int(total ** (1 / 3))
    while any(step % prime == 0 for prime in (2, 3, 5, 7)):  # else some rows, columns or positions are left out
        step -= 1
    some = slice(0) if total <= DIRECT else slice(None, None, step)
    values = torch.cat([piece.scores[some].to(home) for piece in pieces])
    if pieces[0].alive is None:
        return values.sort(descending=True).values, None
    alive = torch.cat([piece.alive[some].to(home) for piece in pieces if piece.alive is not None])
    return values.masked_fill_(~alive, -math.inf).sort(descending=True).values, alive.sum()


class _Bracket:
    """Two scores that the threshold probably lies between."""

    def __init__(self, sample: Tensor, sampled: int, position: float) -> None:
        self._sample, self._sampled, self._position = sample, sampled, position
        self._spread = SIGMAS * math.sqrt(position * (1 - position / max(1, sampled))) + 2
        self.low, self.high = self._at(position + self._spread), self._at(position - self._spread)
        self.unordered = sample.isnan().any()

    def _at(self, position: float) -> Tensor:
        """The score at a position of the sample; infinite outside it."""
        if 0 <= position < self._sampled:
            return self._sample[int(position)]
        return self._sample.new_full((), -math.inf if position > 0 else math.inf)

    def rise(self) -> None:
        """Move above the highest score inside."""
        self._spread *= 8
        self.low, self.high = self.high, self._at(self._position - self._spread)

    def sink(self) -> None:
        """Move below the lowest score inside."""
        self._spread *= 8
        self.low, self.high = self._at(self._position + self._spread), self.low


def _ranked(pieces: Sequence[_Piece], wanted: int, bracket: _Bracket) -> Ranking:
    """Flat masks of the `wanted` highest scores, which are some and not all."""
    while True:
        low, high = bracket.low, bracket.high
        flags = [bracket.unordered.sum(), low.isneginf().sum(), (low == high).sum()]
        regions = [count(mask) for piece in pieces for mask in piece.regions(low, high)]
        unordered, lowest, empty, *counts = yield [*flags, *regions]
        above, at_high, inside, at_low = (counts[i::4] for i in range(4))
        missing = [wanted - sum(above)]  # how many are missing if all of a region, and those above it, are kept
        for region in (at_high, inside, [] if empty else at_low):
            missing.append(missing[-1] - sum(region))
        if unordered or (lowest and missing[3] > 0):
            raise UserError(UNORDERED)
        if missing[0] <= 0:
            bracket.rise()
        elif missing[1] <= 0:
            return (yield from _equal(pieces, high, at_high, missing[0]))
        elif missing[2] <= 0:
            return _best(pieces, low, high, inside, missing[1])
        elif missing[3] <= 0:
            return (yield from _equal(pieces, low, at_low, missing[2]))
        else:
            bracket.sink()


def _best(pieces: Sequence[_Piece], low: Tensor, high: Tensor, inside: list[int], wanted: int) -> list[Tensor]:
    """Masks of all from `high` on, and of the best `wanted` of the `inside` of each piece."""
    places = [
        torch.nonzero_static(piece.between(low, high), size=size).squeeze(1)
        for piece, size in zip(pieces, inside, strict=True)
    ]
    values = torch.cat([piece.scores[indices].to(low.device) for piece, indices in zip(pieces, places, strict=True)])
    order = values.add_(0.0).sort(descending=True, stable=True).indices  # 0.0 and -0.0 are equal
    keep = torch.zeros_like(order, dtype=torch.bool).index_fill_(0, order[:wanted], True)
    masks = [piece.above(high).logical_or_(piece.at(high)) for piece in pieces]
    for mask, indices, part in zip(masks, places, keep.split(inside), strict=True):
        mask[indices] = part.to(mask.device)
    return masks


def _equal(pieces: Sequence[_Piece], value: Tensor, sizes: list[int], wanted: int) -> Ranking:
    """Masks of all above `value`, and of the first `wanted` that equal it; `sizes` is their number in each piece."""
    masks = []
    for piece, size in zip(pieces, sizes, strict=True):
        mask, kept = piece.above(value), min(size, wanted)
        if kept:
            equal = piece.at(value)
            mask.logical_or_(equal if kept == size else (yield from _first(equal, kept)))
        masks.append(mask)
        wanted -= kept
    return masks


def _first(mask: Tensor, wanted: int) -> Generator[list[Tensor], list[Any], Tensor]:
    """`mask`, in place, with only the first `wanted` of its ``True``."""
    start, chunks = 0, len(mask) // CHUNK
    if len(mask) > CHUNK:  # a cumulative sum of all would take eight times the memory
        ends = packed(mask[: chunks * CHUNK]).view(chunks, -1).sum(1).cumsum(0)
        whole = ends <= wanted
        full, before = yield [whole.sum(), (ends * whole).max()]
        start, wanted = full * CHUNK, wanted - before
    part = mask[start : start + CHUNK]
    part.logical_and_(part.cumsum(0) <= wanted)
    mask[start + CHUNK :].zero_()
    return mask
