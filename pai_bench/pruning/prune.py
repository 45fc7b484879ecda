"""Pruning at initialisation, composed of criterion, schedule, selection and mask."""

from torch import nn

from pai_bench.masks import Mask, Schedule, Scope
from pai_bench.networks.layers import Prunable
from pai_bench.pruning.options import PruningOptions, Repair, Target
from pai_bench.pruning.pruner import Pruner
from pai_bench.pruning.variant import Variant
from pai_bench.scoring import BatchLike, Criterion, get_criterion
from pai_bench.scoring.batch import Loss, as_batch
from pai_bench.scoring.redraw import Draw
from pai_bench.support import spec


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
    seed = spec.convert(seed, int, "seed")
    chosen, batch = get_criterion(criterion), as_batch(batch, loss)
    options = PruningOptions(
        schedule=schedule, scope=scope, variant=variant, target=target, min_per_layer=min_per_layer, repair=repair
    )
    with Pruner(model, chosen, options, prunable=prunable, draw=draw, seed=seed) as pruner:
        return pruner.to(batch, sparsity)
