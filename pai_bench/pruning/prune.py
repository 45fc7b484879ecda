"""Pruning at initialisation, composed of criterion, schedule, selection and mask."""

from typing import Any

from torch import nn

from pai_bench.groups import find_groups
from pai_bench.groups.budget import SparsityOf
from pai_bench.masks import Mask, Schedule, Scope
from pai_bench.networks.layers import Prunable
from pai_bench.pruning.options import PruningOptions, Repair, Target
from pai_bench.pruning.pruner import Pruner
from pai_bench.pruning.structured import check_sort, prune_groups
from pai_bench.pruning.variant import Variant
from pai_bench.scoring import BatchLike, Criterion, StructuredCriterion, get_criterion
from pai_bench.scoring.batch import Loss, as_batch
from pai_bench.scoring.redraw import Draw
from pai_bench.support import spec
from pai_bench.support.errors import UserError


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
    min_per_layer: float = 0,
    repair: Repair = "none",
    loss: Loss | None = None,
    prunable: Prunable | None = None,
    sparsity_of: SparsityOf = "weights",
    draw: Draw | None = None,
    seed: int = 0,
) -> Mask:
    """The mask that keeps exactly ``round((1 - sparsity) * n)`` of the n prunable connections of `model`.

    A structured criterion removes whole units until at most that many are left. Of it the result is a `GroupMask`, from
    which `pai_bench.shrink` makes a smaller network; of one that ranks units and single weights together, a
    `CombinedMask`, with the exact number. The option ``ties`` of a criterion may keep more or fewer where scores are
    equal. The model is not changed: ``mask.apply_(model)`` sets the removed weights to zero.

    * `batch`: a `Batch` or ``(inputs, targets)``, on the device of the model.
    * `criterion`: a name with options, as in ``snip:bn=train``, or a `Criterion`.
    * `sparsity`: share of the connections that is removed, in [0, 1).
    * `schedule`, `scope`, `variant`, `target`, `min_per_layer`, `repair`: see `PruningOptions`.
    * `loss`: a function of the network's output and the targets, for networks that do not return logits.
    * `prunable`: names of the parameters to prune, or a predicate of name and parameter; by default all weights, also
      those of custom layers that multiply the data (`pai_bench.scoring.prunable`).
    * `sparsity_of`: of a structured criterion, what `sparsity` is a share of: ``weights``, ``nodes`` (units of all
      layers but the last) or ``flops``. At least so much is removed, group by group.
    * `draw`: a function of a seed that returns the same network with other weights, for ``score_init=redrawn``; by
      default each layer draws its own by ``reset_parameters``.
    * `seed`: of the criterion's and the variant's random numbers.

    Raises `UserError` for unknown names, values out of range and batches that do not fit the model, and its subclass
    `CriterionError` for scores that cannot be ranked.
    """
    if (chosen := get_criterion(criterion)).begins_dense:
        raise UserError(f"{chosen} prunes during training: pai_bench.run, or pai-bench run, trains the network, too")
    options = PruningOptions(
        schedule=schedule, scope=scope, variant=variant, target=target, min_per_layer=min_per_layer, repair=repair
    )
    which: dict[str, Any] = {"prunable": prunable, "sparsity_of": sparsity_of, "draw": draw, "seed": seed}
    return all_cuts(model, as_batch(batch, loss), chosen, sparsity, options, **which)


def all_cuts(
    model: nn.Module,
    batch: BatchLike,
    criterion: Criterion,
    sparsity: float,
    options: PruningOptions,
    *,
    prunable: Prunable | None = None,
    sparsity_of: SparsityOf = "weights",
    draw: Draw | None = None,
    seed: int = 0,
) -> Mask:
    """`prune`, also by the scores of a method that prunes during training."""
    seed, batch = spec.convert(seed, int, "seed"), as_batch(batch)
    check_sort(criterion, sparsity_of, options, chosen=prunable is not None)
    if isinstance(criterion, StructuredCriterion):
        resolved = options.of(criterion)
        return prune_groups(
            model,
            batch,
            criterion,
            sparsity,
            find_groups(model, batch.inputs[:1]),
            resolved.schedule,
            sparsity_of=sparsity_of,
            scope=resolved.scope,
            min_per_layer=resolved.min_per_layer,
            variant=resolved.variant,
            draw=draw,
            seed=seed,
        )
    with Pruner(model, criterion, options, prunable=prunable, draw=draw, seed=seed) as pruner:
        return pruner.to(batch, sparsity)
