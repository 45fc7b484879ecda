"""What is left of a network without some groups, in units, weights or operations, and how many groups may go."""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pai_bench.graph.ties import Axis
from pai_bench.groups.groups import GroupMask, Groups
from pai_bench.support.errors import UserError

SparsityOf = Literal["weights", "nodes", "flops"]
"""What a sparsity is the removed share of: weights, units (nodes) of all layers but the last, or operations."""


class Budget:
    """How much is left of a network as its groups are removed one after the other, the first of `order` first."""

    def __init__(self, groups: Groups, order: Tensor) -> None:
        self.groups = groups
        rank = torch.full((groups.count + 1,), torch.iinfo(torch.int64).max)
        rank[order] = torch.arange(len(order))
        self._ranks = {axis: np.sort(rank[of].numpy()) for axis, of in groups.by_axis.items()}
        self._rank = rank[:-1]

    def kept(self, removed: int) -> GroupMask:
        """The mask without the first `removed` groups."""
        return GroupMask(self.groups, self._rank >= removed)

    def left(self, sparsity_of: SparsityOf, removed: int) -> float:
        """Units, weights or operations without the first `removed` groups."""
        if sparsity_of not in get_args(SparsityOf):
            raise UserError(f"sparsity of {sparsity_of!r} is not one of {', '.join(get_args(SparsityOf))}")
        counts: dict[str, Callable[[int], float]] = {
            "weights": self._weights,
            "nodes": self._nodes,
            "flops": self._flops,
        }
        return counts[sparsity_of](removed)

    def _alive(self, axis: Axis, removed: int) -> int:
        ranks = self._ranks[axis]
        return len(ranks) - int(np.searchsorted(ranks, removed))

    def _size(self, name: str, removed: int) -> int:
        sizes = list(self.groups.shapes[name])
        for axis in self.groups.axes_of.get(name, ()):
            sizes[axis.dim] = self._alive(axis, removed)
        return int(np.prod(sizes, dtype=np.int64))

    def _weights(self, removed: int) -> float:
        return sum(self._size(name, removed) for name in self.groups.flops)

    def _flops(self, removed: int) -> float:
        groups = self.groups
        shares = (f * self._size(name, removed) / groups.shapes[name].numel() for name, f in groups.flops.items())
        products = (f * int((self._rank[of] >= removed).count_nonzero()) / len(of) for of, f in groups.products)
        return groups.other_flops + sum(shares) + sum(products)

    def _nodes(self, removed: int) -> float:
        return sum(
            (self._alive(axis, removed) if axis in self._ranks else self.groups.shapes[axis.name][axis.dim]) / rows
            for axis, rows in self.groups.rows_per_unit.items()
        )


def sparsities(mask: GroupMask) -> dict[SparsityOf, float]:
    """The shares of weights, units of all layers but the last, and operations that the groups of `mask` take away."""
    removed = (~mask.kept_groups).nonzero().squeeze(1)
    left = Budget(mask.groups, removed).left
    return {of: 1 - left(of, len(removed)) / left(of, 0) for of in get_args(SparsityOf)}


def removal_order(groups: Groups, scores: Tensor, least: int | Mapping[Axis, int] = 1) -> Tensor:
    """The groups in the order in which they are removed, without those that always stay.

    Lowest score first; among equals, the later one first. Of each layer the `least` best units stay, a number for all
    or for each.
    """
    values = scores.detach().to("cpu", torch.float64).numpy()
    order = np.lexsort((-np.arange(groups.count), values))
    place = np.empty(groups.count, dtype=np.int64)
    place[order] = np.arange(groups.count)
    stays = np.zeros(groups.count, dtype=bool)
    for axis, (free, fixed) in units_of_layers(groups).items():
        ranked, number = np.sort(place[free]), least if isinstance(least, int) else least[axis]
        stays[order[ranked[max(0, len(ranked) + fixed - number) :]]] = True
    return torch.from_numpy(order[~stays[order]])


def units_of_layers(groups: Groups) -> dict[Axis, tuple[NDArray[np.int64], int]]:
    """Of each layer that makes free units, their groups, and how many units are fixed.

    A unit may be several rows, such as those of the gates of a hidden unit.
    """
    found = {}
    for axis in groups.roots:
        if axis in groups.by_axis:
            rows = groups.by_axis[axis].numpy()
            free = np.unique(rows[rows >= 0])
            found[axis] = free, int((rows < 0).sum()) * len(free) // max(1, int((rows >= 0).sum()))
    return found


def ranked_by_layer(groups: Groups, scores: Tensor) -> Tensor:
    """In place of each score the share of its layer's units that go before the unit, or with it: in (0, 1].

    So the lowest of them are the same share of each layer. A layer is the units that are computed by the same weights.
    """
    layers = groups.alike(groups.roots).numpy()
    values = scores.detach().to("cpu", torch.float64).numpy()
    shares = np.empty(groups.count)
    for layer in range(int(layers.max()) + 1):
        units = np.flatnonzero(layers == layer)
        order = np.lexsort((-units, values[units]))
        shares[units[order]] = np.arange(1, len(units) + 1) / len(units)
    return torch.from_numpy(shares)


def keep_share(
    groups: Groups,
    scores: Tensor,
    density: float,
    *,
    sparsity_of: SparsityOf = "weights",
    least: int | Mapping[Axis, int] = 1,
    dense: float | None = None,
    asked: float | None = None,
) -> GroupMask:
    """The mask that keeps at most a share of the units, weights or operations of the `dense` network.

    The shortest list of groups is removed, lowest scores first, after which at most ``density * dense`` are left, of
    units ``round(density * dense)``. Without `dense`, it is of these groups' own network. Of each layer the `least`
    best units stay. UserError where the groups that have to stay are more than that, with the largest sparsity that can
    be reached; it calls the request a density of `asked`, if this is only a cut on the way to it.
    """
    if scores.shape != (groups.count,) or bool(scores.isnan().any()):
        raise UserError(f"there are to be {groups.count} scores that are numbers")
    order = removal_order(groups, scores, least)
    budget, count = Budget(groups, order), len(order)
    whole = budget.left(sparsity_of, 0) if dense is None else dense
    target = density * whole
    target = round(target) if sparsity_of == "nodes" else target * (1 + 1e-12)
    if (fewest := budget.left(sparsity_of, count)) > target:
        numbers = {least} if isinstance(least, int) else {*least.values()}
        number = f"{'up to ' * (len(numbers) > 1)}{max(numbers)} unit{'s' * (max(numbers) > 1)}"
        stay = f"{number} of every layer and what is fixed stay"
        sparsity = 1 - (density if asked is None else asked)
        raise UserError(
            f"a sparsity of {sparsity:g} of {sparsity_of} cannot be reached, since {stay}; the largest is "
            f"{math.floor(1e4 * (1 - fewest / whole)) / 1e4:g}"
        )
    reached = bisect_left(range(count), True, key=lambda removed: budget.left(sparsity_of, removed) <= target)
    return budget.kept(reached)
