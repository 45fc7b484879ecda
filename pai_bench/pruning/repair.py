"""Policies that keep a network connected, off unless asked for: a floor per layer, and effective connections only.

And the search for the mask whose *effective* density is the one asked for.
"""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

from torch import Tensor

from pai_bench.graph.connectivity import Connections
from pai_bench.masks.mask import Mask
from pai_bench.masks.selection import apportion, select
from pai_bench.support.errors import UserError
from pai_bench.support.transfers import counts

Target = Literal["direct", "effective"]
"""What a sparsity counts: connections removed, or connections that are removed or lie on no path."""

Repair = Literal["none", "effective-only"]
"""What is done with kept connections that lie on no path: nothing, or others are kept in their place."""

TRIES = 100
"""Rounds in which `effective_only` hands freed connections on."""


def check_policy(target: str, repair: str, min_per_layer: int) -> None:
    """Refuse what is not a policy."""
    for value, kind, name in ((target, Target, "target"), (repair, Repair, "repair")):
        if value not in get_args(kind):
            raise UserError(f"{name} {value!r} is not one of {', '.join(get_args(kind))}")
    if min_per_layer < 0:
        raise UserError(f"min_per_layer {min_per_layer} must not be negative")


def floors(left: Mapping[str, int], least: int, count: int) -> dict[str, int]:
    """`least` connections of every layer, or all that it has left; `count` must suffice for them."""
    found = {name: min(least, available) for name, available in left.items()}
    if (needed := sum(found.values())) > count:
        raise UserError(f"min_per_layer={least} needs {needed} connections, but only {count} are to be kept")
    return found


def select_with_floor(
    scores: Mapping[str, Tensor], count: int, floor: Mapping[str, int], alive: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """The best of every layer up to its `floor`, and the best of all others up to `count` in all."""
    best = select(scores, floor, alive)
    rest = {name: ~keep if alive is None else alive[name] & ~keep for name, keep in best.items()}
    others = select(scores, count - sum(floor.values()), rest)
    return {name: keep | others[name] for name, keep in best.items()}


def raise_to_floor(parts: Mapping[str, int], floor: Mapping[str, int], left: Mapping[str, int]) -> dict[str, int]:
    """Counts per layer, none below its `floor`: what that takes, the others give in proportion to what they have."""
    above = [max(0, parts[name] - floor[name]) for name in parts]
    room = [left[name] - floor[name] for name in parts]
    more = apportion(above, sum(parts.values()) - sum(floor.values()), room)
    return {name: floor[name] + extra for name, extra in zip(parts, more, strict=True)}


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
