"""Structured pruning: from the scores of groups to those that stay, in one or many cuts."""

import torch
from torch import nn

from pai_bench.groups import GroupMask, Groups, shrink
from pai_bench.groups.budget import Budget, SparsityOf, keep_share
from pai_bench.masks import Schedule
from pai_bench.pruning.options import PruningOptions
from pai_bench.pruning.pruner import SINGLE, checked_sparsity
from pai_bench.pruning.variant import get_variant
from pai_bench.scoring import Criterion
from pai_bench.scoring.batch import BatchLike, as_batch
from pai_bench.scoring.redraw import Draw
from pai_bench.scoring.structured import GroupScorer, StructuredCriterion
from pai_bench.support.errors import UserError


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
        f"scope {options.scope}": options.scope not in (None, "global"),
        f"min_per_layer {options.min_per_layer}": options.min_per_layer != 0,
        f"variant {variant}": variant.name not in SINGLE,
        f"ties={criterion.ties}": criterion.ties != "position",
        "biases=true": criterion.biases,
        "a choice of the weights to prune": chosen,
    }
    for option, is_given in of_single_weights.items():
        if is_given:
            raise UserError(f"{option} is for criteria of single weights: {criterion} removes whole units")


def prune_groups(
    model: nn.Module,
    batch: BatchLike,
    criterion: StructuredCriterion,
    sparsity: float,
    groups: Groups,
    schedule: Schedule,
    *,
    sparsity_of: SparsityOf = "weights",
    invert: bool = False,
    draw: Draw | None = None,
    seed: int = 0,
) -> GroupMask:
    """The groups that stay after all cuts of a schedule; the smaller network is scored again before each.

    `sparsity` is the share of weights, units or operations of the dense network that is removed, at least: groups are
    removed one after the other, lowest score first, until what is left is no more than asked for.
    """
    batch, density = as_batch(batch), 1 - checked_sparsity(sparsity)
    mask = groups.all_kept()
    dense = Budget(groups, torch.arange(0)).left(sparsity_of, 0)
    for share in schedule.densities(density):
        remaining, again = mask.remaining(), None if draw is None else shrunk_draw(draw, mask)
        network = model if bool(mask.kept_groups.all()) else shrink(model, mask)
        with GroupScorer(criterion, network, remaining, seed=seed, draw=again) as scorer:
            scores = scorer.score(batch)
        cut = keep_share(remaining, -scores if invert else scores, share, sparsity_of=sparsity_of, dense=dense)
        kept = mask.kept_groups.clone()
        kept[mask.kept_groups] = cut.kept_groups
        mask = GroupMask(groups, kept)
    return mask


def shrunk_draw(draw: Draw, mask: GroupMask) -> Draw:
    """The network as `draw` gives it, without what `mask` removes."""
    return lambda seed: shrink(draw(seed), mask)
