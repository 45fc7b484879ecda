"""A network and what is left of it: scored and cut once, or many times, also between steps of training."""

import logging
from collections.abc import Mapping
from numbers import Real
from typing import Any, get_args

import torch
from torch import Tensor, nn

from pai_bench.graph import Connections
from pai_bench.masks import Mask, Scope
from pai_bench.masks.allocation import Division, at_least, towards
from pai_bench.masks.cutting import cut
from pai_bench.masks.selection import apportion, kept_count
from pai_bench.networks.layers import Prunable
from pai_bench.pruning.options import PruningOptions
from pai_bench.pruning.repair import effective_only, with_effective_count
from pai_bench.scoring import Batch, BatchLike, Criterion, Scorer, Scores, get_criterion
from pai_bench.scoring.batch import as_batch
from pai_bench.scoring.prunable import default_names
from pai_bench.scoring.redraw import Draw
from pai_bench.support import spec, transfers
from pai_bench.support.errors import CriterionError, UserError, no_sparsity

logger = logging.getLogger(__name__)

SINGLE = ("none", "reinit", "invert")
"""Variants that a single cut can have."""


class Pruner:
    """Makes masks of one network by one criterion, one cut at a time. The network itself is not changed.

    ``pruner.cut(batch, density)`` scores the network under the current `mask`, which is None before the first cut, and
    keeps the highest scores; ``pruner.to(batch, sparsity)`` makes all cuts of the schedule. If the network was trained
    after a cut, call `renew` before the next one, which then scores the new weights. A context manager, which frees
    the private copy of the network at its end.

    Parameters are those of `prune`. Raises `UserError` for unknown names and for options that conflict.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: str | Criterion,
        options: PruningOptions | None = None,
        *,
        prunable: Prunable | None = None,
        draw: Draw | None = None,
        seed: int = 0,
    ) -> None:
        self.model, self.criterion, self.seed = model, get_criterion(criterion), seed
        self.options = (PruningOptions() if options is None else options).of(self.criterion)
        self.mask: Mask | None = None
        self._state: dict[str, Any] = {}
        """What the criterion keeps from cut to cut."""
        self._prunable, self._draw = prunable, draw
        self._scorer: Scorer | None = None
        self._division: Division | None = None

    def __enter__(self) -> "Pruner":
        return self

    def __exit__(self, *error: object) -> None:
        self.renew()

    def renew(self) -> None:
        """Free the copy of the network. The next cut scores the weights that the network has then, under `mask`."""
        if self._scorer is not None:
            self._scorer.__exit__(None)
            self._scorer = None

    def cut(self, batch: BatchLike, density: float) -> Mask:
        """Score the network under the current mask, and keep the share `density`, in (0, 1], of its connections.

        Raises `UserError` for another density, and for options that only a whole pruning has: a target, a repair, and
        the variants that shuffle or have a quota.
        """
        if not 0 < density <= 1:
            raise UserError(f"density {density:g} is outside (0, 1]: it is the share of connections that is kept")
        variant = self.options.variant
        if self.options.target != "direct" or self.options.repair != "none" or variant.name not in SINGLE:
            raise UserError(f"a single cut has no target, repair or variant {variant}: Pruner.to makes all cuts")
        self._cut(as_batch(batch), density)
        assert self.mask is not None
        return self.mask

    def to(self, batch: BatchLike, sparsity: float) -> Mask:
        """The mask of a sparsity in [0, 1), after all cuts of the schedule, beginning with the whole network.

        Raises `UserError` for another sparsity.
        """
        self.mask = self._all_cuts(as_batch(batch), checked_sparsity(sparsity))
        return self.mask

    def _all_cuts(self, batch: Batch, sparsity: float) -> Mask:
        options, example = self.options, batch.inputs[:1]
        needed = options.target == "effective" or options.repair != "none"
        connections = Connections(self.model, example) if needed else None
        if connections is None or options.target == "direct":
            return self._to(batch, sparsity, connections)
        sizes = [shape.numel() for shape in self.scorer(batch).shapes.values()]
        size, least = sum(sizes), sum(at_least(options.min_per_layer, layer_size) for layer_size in sizes)
        repaired = connections if options.repair != "none" else None
        return with_effective_count(
            lambda count: self._to(batch, 1 - count / size, repaired),
            connections,
            kept_count(1 - sparsity, size),
            size,
            least=max(1, least),
        )

    def _to(self, batch: Batch, sparsity: float, connections: Connections | None) -> Mask:
        """All cuts, from the whole network on; with `connections`, those that lie on no path are replaced."""
        self.renew()
        self.mask, self._state, self._division, variant = None, {}, None, self.options.variant
        if variant.quota is not None:
            reference = Pruner(
                self.model, variant.quota, prunable=list(self.scorer(batch).shapes), draw=self._draw, seed=self.seed
            )
            with reference:
                counts = reference.to(batch, sparsity).kept_per_layer()
            self._division = towards(self.scorer(batch).shapes, list(counts.values()))
        scores: Scores = {}
        for density in self.options.schedule.densities(1 - sparsity):
            scores = self._cut(batch, density)
        assert self.mask is not None  # a schedule has at least one density
        if connections is not None:
            self.mask = effective_only(self.mask, scores, connections)
        return Mask(variant.arrange(dict(self.mask), self.seed))

    def _cut(self, batch: Batch, density: float) -> Scores:
        """Make a cut, and return the scores that it was made by."""
        scorer, options = self.scorer(batch), self.options
        if self._division is None:
            self._division = by_scope(self.criterion, scorer.shapes, options.scope)
        alive = None if options.schedule.returns else self.mask
        scores = scored(scorer, batch, density, self.mask, invert=options.variant.inverted)
        division, ties = self._division, self.criterion.ties
        least = options.min_per_layer
        self.mask = cut(scores, density, alive=alive, division=division, min_per_layer=least, ties=ties)
        return scores

    def scorer(self, batch: Batch) -> Scorer:
        """The scorer of the private copy of the network, made at first use."""
        if self._scorer is None:
            if self._prunable is None:
                self._prunable = default_names(self.model, batch.inputs[:1], biases=self.criterion.biases)
            self._scorer = Scorer(
                self.criterion,
                self.model,
                seed=self.seed,
                only=self._prunable,
                draw=self._draw,
                returns=self.options.schedule.returns,
            )
            self._scorer.model.state = self._state
        return self._scorer


def scored(
    scorer: Scorer, batch: Batch, density: float, mask: Mapping[str, Tensor] | None = None, *, invert: bool = False
) -> Scores:
    """The scores under `mask` that a cut to `density` ranks by; with `invert`, their negatives."""
    scores = scorer.score(batch, mask)
    size = sum(score.numel() for score in scores.values())
    if kept_count(density, size) < size and (mask is None or removes_nothing(mask)):
        report_zeros(scores, scorer.label)
    return {name: -score for name, score in scores.items()} if invert else scores


def removes_nothing(mask: Mapping[str, Tensor]) -> bool:
    """Whether a mask keeps every connection."""
    if transfers.on_host(*mask.values()):
        return all(bool(kept.all()) for kept in mask.values())  # mostly, the first layer answers
    return all(transfers.read_scalars(kept.all() for kept in mask.values()))


def report_zeros(scores: Mapping[str, Tensor], label: str) -> None:
    """Name the layers of the given network that cannot be ranked since all their scores are zero; refuse if all are."""
    sums = transfers.read_scalars(score.sum() for score in scores.values())  # which is quick
    names = [name for name, whole in zip(scores, sums, strict=True) if not whole]
    some = transfers.read_scalars(scores[name].any() for name in names)
    zero = [name for name, nonzero in zip(names, some, strict=True) if not nonzero]
    if len(zero) == len(scores):
        raise CriterionError(f"{label}: all scores are zero, in {zero[0]!r} and every other layer: nothing to rank by")
    if zero:
        logger.warning("%s: all scores are zero in %s; position decides there", label, ", ".join(zero))


def by_scope(criterion: Criterion, shapes: Mapping[str, torch.Size], scope: Scope) -> Division | None:
    """The division of a named scope: the same share of every layer, or the criterion's own proportions."""
    if scope not in get_args(Scope):
        raise UserError(f"scope {scope!r} is not one of {', '.join(get_args(Scope))}")
    if scope == "global":
        return None
    if scope == "layerwise":
        proportions = [shape.numel() for shape in shapes.values()]
    else:
        own = criterion.proportions(shapes)
        proportions = [own[name] for name in shapes]
    return lambda count, left: apportion(proportions, count, left)


def checked_sparsity(value: float | str, sparsity_of: str = "weights") -> float:
    """`value`, a number or the text of one, if it is a sparsity: a share of `sparsity_of`, for the message."""
    sparsity: float = value if isinstance(value, Real) else spec.convert(value, float, "sparsity")
    if not 0 <= sparsity < 1:
        raise no_sparsity(sparsity, sparsity_of)
    return sparsity
