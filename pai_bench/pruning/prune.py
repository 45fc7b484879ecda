"""Pruning at initialisation, composed of criterion, schedule, selection and mask."""

import logging
from collections.abc import Callable, Mapping
from numbers import Real
from typing import get_args

import torch
from torch import Tensor, nn

from pai_bench.graph.connectivity import Connections
from pai_bench.masks.mask import Mask
from pai_bench.masks.schedule import Schedule, get_schedule
from pai_bench.masks.selection import Scope, Ties, apportion, kept_count, select, with_ties
from pai_bench.networks.layers import Prunable, prunable_parameters
from pai_bench.pruning.repair import (
    Repair,
    Target,
    check_policy,
    effective_only,
    floors,
    raise_to_floor,
    select_with_floor,
    with_effective_count,
)
from pai_bench.pruning.variant import Variant, get_variant
from pai_bench.scoring.batch import Batch, BatchLike, Loss, Scores, as_batch
from pai_bench.scoring.criterion import Criterion
from pai_bench.scoring.lookup import get_criterion
from pai_bench.scoring.prunable import scored as scored_parameters
from pai_bench.scoring.redraw import Draw
from pai_bench.scoring.scorer import Scorer
from pai_bench.support import spec, transfers
from pai_bench.support.errors import CriterionError, UserError

logger = logging.getLogger(__name__)

Division = Callable[[int, list[int]], list[int]]
"""How a number of connections is divided over the layers, given how many each layer has left."""


def prune(
    model: nn.Module,
    batch: BatchLike,
    criterion: str | Criterion = "snip",
    sparsity: float = 0.9,
    *,
    schedule: str | Schedule | None = None,
    scope: Scope | None = None,
    variant: str | Variant = "none",
    target: Target = "direct",
    min_per_layer: int = 0,
    repair: Repair = "none",
    loss: Loss | None = None,
    prunable: Prunable | None = None,
    draw: Draw | None = None,
    seed: int = 0,
) -> Mask:
    """The mask that keeps exactly ``round((1 - sparsity) * n)`` of the n prunable connections of `model`.

    A criterion's option ``ties`` may keep more or fewer where scores are equal. The model itself is not changed:
    ``mask.apply_(model)`` does that.

    * `schedule`, `scope`: in place of the criterion's own.
    * `variant`: a sanity variant (`pai_bench.pruning.variant`). ``reinit`` gives the criterion's mask; the weights
      are the caller's to draw again, for example by `redraw_`.
    * `target`: with ``effective``, `sparsity` is of connections that lie on a path (`pai_bench.connectivity`): fewer
      are removed, until the effective density is the one asked for, or as near as bisection comes to it.
    * `min_per_layer`: so many connections of every layer are kept at least, those with its highest scores.
    * `repair`: with ``effective-only``, connections that lie on no path give their place to those with the next-best
      scores (`pai_bench.pruning.repair`). The example that is traced is the first of `batch`.
    * `loss`: a function of the network's output and the targets, for networks that do not return logits.
    * `prunable`: names of the parameters to prune, or a predicate of name and parameter; default: all weights, also
      those of layers of one's own that multiply the data (`pai_bench.scoring.prunable`).
    * `draw`: a function of a seed that returns the same network with other weights, for ``score_init=redrawn``; by
      default every layer draws its own by ``reset_parameters``.
    """
    sparsity = checked_sparsity(sparsity)
    min_per_layer, seed = spec.convert(min_per_layer, int, "min_per_layer"), spec.convert(seed, int, "seed")
    check_policy(target, repair, min_per_layer)
    chosen, batch, kind = get_criterion(criterion), as_batch(batch, loss), get_variant(variant)
    check_ties(chosen, kind, target, repair, min_per_layer)
    cuts = get_schedule(chosen.schedule if schedule is None else schedule)
    if kind.quota is not None and scope not in (None, "quota"):
        raise UserError(f"scope {scope} and variant {kind} both divide the connections over the layers; give one")
    if repair != "none":
        ranked = kind.kind in ("none", "reinit", "invert") and (scope or chosen.scope) == "global" and not min_per_layer
        if not ranked:
            raise UserError(f"repair {repair} ranks all layers together: not with this scope, variant or min_per_layer")
    if prunable is None:
        prunable = scored_parameters(model, batch.inputs[:1], biases=chosen.biases)
    linked = Connections(model, batch.inputs[:1]) if target == "effective" or repair != "none" else None
    if linked is not None and target == "effective":
        layers = prunable_parameters(model, biases=chosen.biases, only=prunable).values()
        size, least = sum(p.numel() for p in layers), sum(min(min_per_layer, p.numel()) for p in layers)
        options = {"schedule": cuts, "scope": scope, "variant": kind, "min_per_layer": min_per_layer, "repair": repair}

        def of(count: int) -> Mask:
            more = {**options, "prunable": prunable, "draw": draw, "seed": seed}
            return prune(model, batch, chosen, 1 - count / size, **more)  # type: ignore[arg-type]

        return with_effective_count(of, linked, kept_count(1 - sparsity, size), size, least=max(1, least))
    mask: Mask | None = None
    with Scorer(chosen, model, seed=seed, only=prunable, draw=draw, returns=cuts.returns) as scorer:
        if kind.quota is None:
            division = by_scope(chosen, scorer.shapes, scope or chosen.scope)
        else:
            reference = prune(model, batch, kind.quota, sparsity, prunable=list(scorer.shapes), draw=draw, seed=seed)
            division = towards(scorer.shapes, list(reference.kept_per_layer().values()))
        for density in cuts.densities(1 - sparsity):
            alive = None if cuts.returns else mask
            scores = scored(scorer, batch, density, mask, invert=kind.inverted)
            mask = cut(scores, density, alive=alive, division=division, min_per_layer=min_per_layer, ties=chosen.ties)
        assert mask is not None  # a schedule has at least one density
        if linked is not None:
            mask = effective_only(mask, scores, linked)
    return Mask(kind.arrange(dict(mask), seed))


def scored(
    scorer: Scorer, batch: Batch, density: float, mask: Mapping[str, Tensor] | None = None, *, invert: bool = False
) -> Scores:
    """The scores under `mask` that a cut to `density` ranks by; with `invert`, their negatives."""
    scores = scorer.score(batch, mask)
    size = sum(score.numel() for score in scores.values())
    if kept_count(density, size) < size and (mask is None or removes_nothing(mask)):
        report_zeros(scores, scorer.label)
    return {name: -score for name, score in scores.items()} if invert else scores


def cut(
    scores: Scores,
    density: float,
    *,
    alive: Mapping[str, Tensor] | None = None,
    division: Division | None = None,
    min_per_layer: int = 0,
    ties: Ties = "position",
) -> Mask:
    """One step of `prune`: keep the best connections, among those `alive` if given.

    `division` gives every layer its count; without, all layers are ranked together.
    """
    count = kept_count(density, sum(score.numel() for score in scores.values()))
    if ties == "remove" and alive is not None:  # earlier cuts may have left fewer
        left = transfers.counts(alive[name] for name in scores)
        if division is None:
            count = min(count, sum(left))
        else:  # what a layer lacks does not go to the others
            limited = list(map(min, division(count, [score.numel() for score in scores.values()]), left))
            division = lambda _count, _left: limited  # noqa: E731
    mask = _cut(scores, count, alive, division, min_per_layer)
    if ties == "position":
        return Mask(mask)
    found: dict[str, Tensor] = {}
    for names in [list(scores)] if division is None else [[name] for name in scores]:
        ranked, kept = ({name: of[name] for name in names} for of in (scores, mask))
        found |= with_ties(ranked, kept, ties, alive)
    return Mask(found)


def _cut(
    scores: Scores, count: int, alive: Mapping[str, Tensor] | None, division: Division | None, min_per_layer: int
) -> dict[str, Tensor]:
    """The mask that keeps exactly `count` connections."""
    if division is None and not min_per_layer:
        return select(scores, count, alive)
    left = {name: score.numel() for name, score in scores.items()}
    if alive is not None:
        left = dict(zip(left, transfers.counts(alive[name] for name in left), strict=True))
    floor = floors(left, min_per_layer, count)
    if division is None:
        return select_with_floor(scores, count, floor, alive)
    parts = dict(zip(scores, division(count, list(left.values())), strict=True))
    return select(scores, raise_to_floor(parts, floor, left) if min_per_layer else parts, alive)


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
        given = criterion.proportions(shapes)
        proportions = [given[name] for name in shapes]
    return lambda count, left: apportion(proportions, count, left)


def towards(shapes: Mapping[str, torch.Size], final: list[int]) -> Division:
    """The division that ends at `final` connections per layer, and comes to it in proportion from the dense network."""
    above = [shape.numel() - kept for shape, kept in zip(shapes.values(), final, strict=True)]

    def division(count: int, left: list[int]) -> list[int]:
        room = [available - kept for available, kept in zip(left, final, strict=True)]
        return [kept + more for kept, more in zip(final, apportion(above, count - sum(final), room), strict=True)]

    return division


def check_ties(criterion: Criterion, variant: Variant, target: str, repair: str, min_per_layer: int) -> None:
    """Refuse an exact number of connections to criteria that keep more or fewer where scores are equal."""
    for one in (criterion, variant.quota):
        if one is None or one.ties == "position":
            continue
        if target == "effective" or repair != "none" or min_per_layer or variant.quota is not None:
            raise UserError(
                f"{one} may keep more or fewer; target, repair, min_per_layer and quota need the exact number"
            )


def checked_sparsity(given: float | str) -> float:
    """`given`, a number or the text of one, if it is a sparsity."""
    sparsity: float = given if isinstance(given, Real) else spec.convert(given, float, "sparsity")
    if not 0 <= sparsity < 1:
        raise UserError(f"sparsity {sparsity:g} is outside [0, 1): it is the share of weights removed")
    return sparsity
