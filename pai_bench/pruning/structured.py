"""Structured pruning: from the scores of groups to those that stay, in one or many cuts."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from pai_bench.groups import Axis, GroupMask, Groups, shrink
from pai_bench.groups.budget import Budget, SparsityOf, keep_share, ranked_by_layer, units_of_layers
from pai_bench.groups.combined import CombinedMask, composed, keep_items, keep_weights
from pai_bench.masks import Mask, Schedule, Scope
from pai_bench.masks.allocation import at_least
from pai_bench.masks.selection import kept_count
from pai_bench.pruning.options import PruningOptions
from pai_bench.pruning.pruner import SINGLE, checked_sparsity
from pai_bench.pruning.variant import Variant, get_variant
from pai_bench.scoring import Criterion
from pai_bench.scoring.batch import BatchLike, as_batch
from pai_bench.scoring.redraw import Draw
from pai_bench.scoring.structured import CombinedCriterion, CombinedScores, GroupScorer, StructuredCriterion
from pai_bench.support.errors import UserError, check_least
from pai_bench.support.identity import stream
from pai_bench.support.randomness import random_state

NO_VARIANT = Variant()


def check_sort(criterion: Criterion, sparsity_of: SparsityOf, options: PruningOptions, *, chosen: bool = False) -> None:
    """Raise UserError for options of single weights with a structured criterion, and the other way round.

    `chosen` says whether the weights to prune were chosen by name.
    """
    if not criterion.structured:
        if sparsity_of != "weights":
            raise UserError(f"sparsity of {sparsity_of} is for structured criteria: {criterion} removes single weights")
        return
    variant = get_variant(options.variant)
    of_single_weights = {
        f"target {options.target}": options.target != "direct",
        f"repair {options.repair}": options.repair != "none",
        f"scope {options.scope}": options.scope not in (None, "global", "layerwise"),
        f"variant {variant}": variant.name not in (*SINGLE, "shuffle"),
        f"ties={criterion.ties}": criterion.ties != "position",
        "biases=true": criterion.biases,
        "a choice of the weights to prune": chosen,
    }
    for option, is_given in of_single_weights.items():
        if is_given:
            raise UserError(f"{option} is for criteria of single weights: {criterion} removes whole units")
    not_of_both = {
        f"sparsity of {sparsity_of}": sparsity_of != "weights",
        f"scope {options.scope}": options.scope == "layerwise",
        f"min_per_layer {options.min_per_layer}": options.min_per_layer != 0,
        f"variant {variant}": variant.name == "shuffle",
    }
    for option, is_given in not_of_both.items():
        if criterion.combined and is_given:
            raise UserError(f"{option} has no meaning for {criterion}, which ranks single weights and units together")


@dataclass(frozen=True, kw_only=True)
class GroupPruner:
    """Cuts the groups of a network by a criterion, one cut at a time. The network itself is not changed.

    Parameters are those of `prune_groups`.
    """

    criterion: StructuredCriterion
    groups: Groups
    sparsity: float
    sparsity_of: SparsityOf = "weights"
    scope: Scope = "global"
    min_per_layer: float = 0
    variant: Variant = NO_VARIANT
    draw: Draw | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(self.min_per_layer)

    def cut(self, network: nn.Module, mask: GroupMask, batch: BatchLike, density: float) -> GroupMask:
        """The mask of one cut of `network`, from which `mask` has been removed, to a `density` of the whole one.

        It is a mask of the groups that the network still has; with `mask`, it is ``composed(mask, cut)``.
        """
        remaining, again = mask.remaining(), None if self.draw is None else shrunk_draw(self.draw, mask)
        with GroupScorer(self.criterion, network, remaining, seed=self.seed, draw=again) as scorer:
            scores = scorer.score(as_batch(batch), left := mask.shrunk())
        scores = -scores if self.variant.inverted else scores
        if isinstance(self.criterion, CombinedCriterion):
            return combined_cut(self.criterion, remaining, scores, density * self._dense, left)
        scores = ranked_by_layer(remaining, scores) if self.scope == "layerwise" else scores
        return keep_share(
            remaining,
            scores,
            density,
            sparsity_of=self.sparsity_of,
            least=self._least,
            dense=self._dense,
            asked=1 - self.sparsity,
        )

    @cached_property
    def _dense(self) -> float:
        """What the whole network has."""
        return Budget(self.groups, torch.arange(0)).left(self.sparsity_of, 0)

    @cached_property
    def _least(self) -> dict[Axis, int]:
        """The units that each layer keeps at least."""
        return {
            axis: max(1, at_least(self.min_per_layer, len(free) + fixed))
            for axis, (free, fixed) in units_of_layers(self.groups).items()
        }


def prune_groups(
    model: nn.Module,
    batch: BatchLike,
    criterion: StructuredCriterion,
    sparsity: float,
    groups: Groups,
    schedule: Schedule,
    **options: Any,
) -> GroupMask:
    """The groups that stay after all cuts of a schedule; the smaller network is scored again before each.

    `sparsity` is the share of weights, units or operations of the dense network that is removed, at least: groups are
    removed one after the other, lowest score first, until what is left is no more than asked for. With the scope
    ``layerwise``, they are the lowest of each layer, the same share of each. Of each layer at least `min_per_layer`
    units stay, or below 1 that share of them, and at least one. `options` are those of `GroupPruner`.

    Of a `CombinedCriterion`, it is the share of weights, exactly, and the result is a `CombinedMask`.
    """
    sparsity = checked_sparsity(sparsity, options.get("sparsity_of", "weights"))
    pruner, mask = GroupPruner(criterion=criterion, groups=groups, sparsity=sparsity, **options), groups.all_kept()
    for density in schedule.densities(1 - sparsity):
        network = model if bool(mask.kept_groups.all()) else shrink(model, mask)
        mask = composed(mask, pruner.cut(network, mask, batch, density))
    return shuffled(mask, pruner.seed) if pruner.variant.name == "shuffle" else mask


def shuffled(mask: GroupMask, seed: int) -> GroupMask:
    """`mask`, permuted at random among units of one layer that are read by the same layers: of the same size."""
    alike, kept = mask.groups.alike(mask.groups.by_axis), mask.kept_groups.clone()
    with random_state(stream(seed, "shuffle")):
        for kind in range(int(alike.max()) + 1):
            units = (alike == kind).nonzero().squeeze(1)
            kept[units] = kept[units[torch.randperm(len(units))]]
    return GroupMask(mask.groups, kept)


def combined_cut(
    criterion: CombinedCriterion, groups: Groups, scores: CombinedScores, target: float, left: Mask | None
) -> CombinedMask:
    """The mask that keeps so many weights as are the `target`; `left` are those that earlier cuts have left."""
    alive = None if left is None else {name: kept.to(scores.groups.device) for name, kept in left.items()}
    size = sum(score.numel() for score in scores.weights.values()) if left is None else left.kept
    if criterion.count == "published":
        items = kept_count(min(1.0, target / max(1, size)), size + groups.count)
        return keep_items(groups, scores.groups, scores.weights, items, alive)
    return keep_weights(groups, scores.groups, scores.weights, min(round(target), size), alive)


def shrunk_draw(draw: Draw, mask: GroupMask) -> Draw:
    """The network as `draw` gives it, without what `mask` removes."""
    return lambda seed: shrink(draw(seed), mask)
