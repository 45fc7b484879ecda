"""From numbers of each weight to one of each group."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pai_bench.graph.ties import Axis
from pai_bench.groups.groups import Groups


def by_slice(axis: Axis, values: Mapping[str, Tensor]) -> Tensor:
    """The sum of what lies in each slice along an axis."""
    value = values[axis.name]
    return value.sum([dim for dim in range(value.dim()) if dim != axis.dim]) if value.dim() > 1 else value


def to_groups(groups: Groups, axis: Axis, slices: Tensor) -> Tensor:
    """The sum over the slices of each group along an axis, of shape (groups,)."""
    number = groups.by_axis[axis].to(slices.device)
    free = number >= 0
    return slices.new_zeros(groups.count).index_add(0, number[free], slices[free])


def root_sums(groups: Groups, values: Mapping[str, Tensor], *, bias: bool = True) -> list[Tensor]:
    """For each root axis with groups, the sum over the rows of each group, and with `bias` over their biases."""
    found = []
    for axis in groups.roots:
        if axis in groups.by_axis:
            slices = by_slice(axis, values)
            if bias and (other := groups.biases.get(axis)) is not None and other.name in values:
                slices = slices + values[other.name]
            found.append(to_groups(groups, axis, slices))
    return found


def consumer_sum(groups: Groups, values: Mapping[str, Tensor]) -> Tensor:
    """The sum over all columns of each group."""
    axes = [axis for axis in groups.consumers if axis in groups.by_axis]
    device = next(iter(values.values())).device
    return sum(
        (to_groups(groups, axis, by_slice(axis, values)) for axis in sorted(axes)), torch.zeros((), device=device)
    )


def gate_sensitivity(
    groups: Groups, products: Mapping[str, Tensor], *, gate: str = "producer", tied: str = "joint", bias: bool = True
) -> Tensor:
    """|dL/dc| of each group, at c = 1, from the products w * g of all weights and biases."""
    columns = consumer_sum(groups, products)
    if gate == "consumer":
        return columns.abs()
    rows = torch.stack(root_sums(groups, products, bias=bias))
    of_rows = {"joint": rows.sum(0).abs(), "sum": rows.abs().sum(0), "max": rows.abs().amax(0)}[tied]
    return torch.where(groups.gated.to(rows.device), columns.abs(), of_rows)
