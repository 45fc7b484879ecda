"""How a number of connections is divided over the layers: a floor for each, or towards given counts."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pai_bench.masks.selection import apportion, select
from pai_bench.support.errors import UserError

Division = Callable[[int, list[int]], list[int]]
"""How a number of connections is divided over the layers, given how many each layer has left."""


def at_least(min_per_layer: float, size: int) -> int:
    """The number of a layer's `size` connections or units that stay: so many, or below 1 that share, rounded up."""
    return min(size, math.ceil(min_per_layer * size * (1 - 1e-12)) if min_per_layer < 1 else int(min_per_layer))


def floors(sizes: Mapping[str, int], left: Mapping[str, int], min_per_layer: float, count: int) -> dict[str, int]:
    """The connections that every layer, of its size, keeps, or all it has left; `count` must suffice for them."""
    floor = {name: min(at_least(min_per_layer, sizes[name]), available) for name, available in left.items()}
    if (needed := sum(floor.values())) > count:
        raise UserError(f"min_per_layer={min_per_layer:g} needs {needed} connections, but only {count} are to be kept")
    return floor


def select_with_floor(
    scores: Mapping[str, Tensor], count: int, floor: Mapping[str, int], alive: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """The best of every layer up to its `floor`, and the best of all others up to `count` in all."""
    best = select(scores, floor, alive)
    rest = {name: ~keep if alive is None else alive[name] & ~keep for name, keep in best.items()}
    others = select(scores, count - sum(floor.values()), rest)
    return {name: keep | others[name] for name, keep in best.items()}


def raise_to_floor(parts: Mapping[str, int], floor: Mapping[str, int]) -> dict[str, int]:
    """Counts per layer, none below its `floor`: what that takes, the others give in proportion to what they have."""
    above = [max(0, parts[name] - floor[name]) for name in parts]
    more = apportion(above, sum(parts.values()) - sum(floor.values()), above)
    return {name: floor[name] + extra for name, extra in zip(parts, more, strict=True)}


def towards(shapes: Mapping[str, torch.Size], final: list[int]) -> Division:
    """The division that ends at `final` connections per layer, and comes to it in proportion from the dense network."""
    above = [shape.numel() - kept for shape, kept in zip(shapes.values(), final, strict=True)]

    def division(count: int, left: list[int]) -> list[int]:
        room = [available - kept for available, kept in zip(left, final, strict=True)]
        return [kept + more for kept, more in zip(final, apportion(above, count - sum(final), room), strict=True)]

    return division
