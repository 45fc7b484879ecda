"""Effective connections only, a policy that is off unless asked for.

And the search for the mask whose *effective* density is the one asked for.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from pai_bench.graph.connectivity import Connections
from pai_bench.masks.mask import Mask
from pai_bench.masks.selection import select
from pai_bench.support.errors import UserError
from pai_bench.support.transfers import counts

TRIES = 100
"""Rounds in which `effective_only` hands freed connections on."""


def effective_only(mask: Mask, scores: Mapping[str, Tensor], links: Connections) -> Mask:
    """`mask` with connections that lie on no path replaced by the best of those that were not kept, again and again.

    A connection that proves useless is not tried again. It ends when all are effective, or when no further connection
    becomes so; then the best that are left fill the mask up, so that as many connections are kept as before.
    """
    tried = {name: keep.clone() for name, keep in mask.items()}
    best, most = mask, -1
    for _ in range(TRIES):
        effective = {n: keep.to(mask[n].device) for n, keep in links.under(mask, paths=False).effective_mask.items()}
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
    make: Callable[[int], Mask], links: Connections, wanted: int, size: int, *, least: int = 1
) -> Mask:
    """The mask, of those that `make` gives for a count, whose number of effective connections is nearest to `wanted`.

    Counts below `least` are not tried. By bisection, which takes it that more connections never make fewer effective
    ones; so it is where one mask holds the next, as those of one ranking over all layers do.
    """
    found: dict[int, tuple[int, Mask]] = {}

    def effective(count: int) -> int:
        if count not in found:
            mask = make(count)
            found[count] = sum(layer.effective for layer in links.under(mask, paths=False).layers), mask
        return found[count][0]

    low, high = max(wanted, least), size
    if effective(low) >= wanted:
        return found[low][1]
    if effective(high) < wanted:
        raise UserError(f"only {effective(high)} of {size} connections lie on a path, not the {wanted} asked for")
    while high - low > 1:
        middle = (low + high) // 2
        if effective(middle) == wanted:
            return found[middle][1]
        low, high = (middle, high) if effective(middle) < wanted else (low, middle)
    return min((found[high], found[low]), key=lambda one: abs(one[0] - wanted))[1]
