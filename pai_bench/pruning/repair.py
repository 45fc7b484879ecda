"""Masks of effective connections only, and masks of a given effective density: policies that are off by default."""

from collections.abc import Callable, Mapping

from torch import Tensor

from pai_bench.graph.connectivity import Connections
from pai_bench.masks.mask import Mask
from pai_bench.masks.selection import select
from pai_bench.support.errors import UserError
from pai_bench.support.transfers import counts

TRIES = 100
"""Rounds in which `effective_only` replaces connections."""


def effective_only(mask: Mask, scores: Mapping[str, Tensor], connections: Connections) -> Mask:
    """`mask` with connections that lie on no path replaced, repeatedly, by those with the next-best scores.

    A connection is tried once. Ends when all connections are effective, or too few are left to try; returns the mask
    with the most effective connections. The number of connections stays the same.
    """
    tried = {name: keep.clone() for name, keep in mask.items()}
    best, most = mask, -1
    for _ in range(TRIES):
        effective = {
            n: keep.to(mask[n].device) for n, keep in connections.under(mask, paths=False).effective_mask.items()
        }
        used = sum(counts(effective.values()))
        if used > most:
            best, most = mask, used
        freed = mask.kept - used
        fresh = {name: ~seen for name, seen in tried.items()}
        if not freed or sum(counts(fresh.values())) < freed:
            break
        added = select(scores, freed, fresh)
        tried = {name: seen | added[name] for name, seen in tried.items()}
        mask = Mask({name: keep | added[name] for name, keep in effective.items()})
    return best


def with_effective_count(
    make: Callable[[int], Mask], connections: Connections, wanted: int, size: int, *, least: int = 1
) -> Mask:
    """The mask, of those that `make` returns for a count, whose number of effective connections is nearest to `wanted`.

    Counts from `least` to `size` are tried by bisection, which assumes that more connections never make fewer effective
    ones. This holds if each mask contains those of smaller counts, as with one ranking over all layers. Raises
    `UserError` if too few connections lie on a path.
    """
    masks: dict[int, tuple[int, Mask]] = {}

    def effective(count: int) -> int:
        if count not in masks:
            mask = make(count)
            masks[count] = sum(layer.effective for layer in connections.under(mask, paths=False).layers), mask
        return masks[count][0]

    low, high = max(wanted, least), size
    if effective(low) >= wanted:
        return masks[low][1]
    if effective(high) < wanted:
        raise UserError(f"only {effective(high)} of {size} connections lie on a path, not the {wanted} asked for")
    while high - low > 1:
        middle = (low + high) // 2
        if effective(middle) == wanted:
            return masks[middle][1]
        low, high = (middle, high) if effective(middle) < wanted else (low, middle)
    return min((masks[high], masks[low]), key=lambda pair: abs(pair[0] - wanted))[1]
