"""From numbers of each weight to one of each group."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pai_bench.graph.ties import Axis
from pai_bench.groups.groups import Groups


def by_slice(axis: Axis, values: Mapping[str, Tensor]) -> Tensor:
    """The sum of what lies in each slice along an axis of a weight, which has two dimensions or more."""
    value = values[axis.name]
    return value.sum([dim for dim in range(value.dim()) if dim != axis.dim])


def to_groups(groups: Groups, axis: Axis, slices: Tensor) -> Tensor:
    """The sum over the slices of each group along an axis, of shape (groups,)."""
    number = groups.by_axis[axis].to(slices.device)
    free = number >= 0
    return slices.new_zeros(groups.count).index_add(0, number[free], slices[free])


def root_sums(groups: Groups, values: Mapping[str, Tensor], *, bias: bool = True) -> list[Tensor]:
    """For each root axis with groups, sums of shape (groups,): over the rows of each group, and its biases with `bias`.

    `values`: parameter name -> tensor of its shape, such as w * g.
    """
    found, counted = [], set[Axis]()
    for axis in groups.roots:
        if axis in groups.by_axis and axis.name in values:
            total = to_groups(groups, axis, by_slice(axis, values))
            other = groups.biases.get(axis)
            if bias and other is not None and other in groups.by_axis and other.name in values and other not in counted:
                counted.add(other)  # once, whatever several weights share it
                total = total + to_groups(groups, other, values[other.name])
            found.append(total)
    return found


def consumer_sum(groups: Groups, values: Mapping[str, Tensor]) -> Tensor:
    """The sum over all columns that read each group, of shape (groups,); `values` as of `root_sums`."""
    zero = next(iter(values.values())).new_zeros(groups.count)
    axes = sorted(axis for axis in groups.consumers if axis in groups.by_axis and axis.name in values)
    return sum((to_groups(groups, axis, by_slice(axis, values)) for axis in axes), zero)


def gate_sensitivity(
    groups: Groups, products: Mapping[str, Tensor], *, gate: str = "producer", tied: str = "joint", bias: bool = True
) -> Tensor:
    """|dL/dc| at c = 1, of shape (groups,), with one gate c for each group, from the products w * g of all parameters.

    The gate stands behind the layers that make the group (``producer``): |sum of w * g over their rows and biases|, for
    several layers by `tied`; or before those that read it (``consumer``, and always for hidden units and heads): |sum
    of w * g over their columns|. Verdenius et al. 2020, arXiv:2006.00896.

    A weight that makes a unit in one use and reads it in another, as of tied embeddings, has one g for all its uses:
    there c multiplies the slices in all of them.
    """
    columns = consumer_sum(groups, products)
    if gate == "consumer":
        return columns.abs()
    rows = torch.stack(root_sums(groups, products, bias=bias))
    of_rows = {"joint": rows.sum(0).abs(), "sum": rows.abs().sum(0), "max": rows.abs().amax(0)}[tied]
    return torch.where(groups.gated.to(rows.device), columns.abs(), of_rows)
