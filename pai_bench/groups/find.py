"""Finding the groups of a network, and trying whether they can be removed."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pai_bench.graph import Connections
from pai_bench.graph.ties import Axis
from pai_bench.graph.tracing import tensors
from pai_bench.graph.units import Units
from pai_bench.groups.groups import GroupMask, Groups
from pai_bench.groups.shrink import shrink
from pai_bench.networks.private_copy import copied
from pai_bench.networks.wrappers import unwrapped
from pai_bench.support.randomness import random_state

logger = logging.getLogger(__name__)

TOLERANCE = {torch.float64: 1e-10}
"""How far outputs of a smaller network may be from those of the masked one, as a share of the largest."""

SINGLE = 1e-5
"""The same of other types."""


def find_groups(model: nn.Module, example_input: Tensor) -> Groups:
    """The groups of a network, found in the operations of one forward pass of an example, in evaluation mode.

    Additions and products tie elements, residual streams among them; concatenations, views, splits and shuffles of
    channels are followed element by element. Fixed are the network's inputs and outputs, what reaches a statistic over
    units, such as layer norm, and what meets an operation that is not known. Then one group of each sort is removed and
    the network is run: what its code counts on by number is fixed, too, with a warning.

    UserError for a network that cannot be traced.
    """
    traced = Connections(model, example_input)
    units = Units(traced.trace, traced.modules)
    reasons = dict(units.why_fixed)
    for axis in units.roots:
        labels = units.by_axis[axis]
        if len(labels) and bool((labels == labels[0]).all()):
            reasons.setdefault(int(labels[0]), []).append(f"all units of {axis.name!r} go together")
    groups, labels_of = numbered(traced, units, reasons)
    failing = cannot_be_removed(model, groups, example_input)
    for family, reason in failing:
        logger.warning("%d of %d groups are fixed: %s", len(family), groups.count, reason)
        for group in family.tolist():
            reasons.setdefault(labels_of[group], []).append(reason)
    return numbered(traced, units, reasons)[0] if failing else groups


def numbered(traced: Connections, units: Units, reasons: Mapping[int, Sequence[str]]) -> tuple[Groups, list[int]]:
    """The groups without a reason to stay, and the label of each."""
    order = {name: place for place, name in enumerate(traced.parameters)}
    roots = sorted(units.roots, key=lambda axis: (order.get(axis.name, -1), axis.dim))
    numbers: dict[int, int] = {}
    for axis in roots:
        for label in units.by_axis[axis].tolist():
            if label not in reasons:
                numbers.setdefault(label, len(numbers))
    labels = list(numbers)
    new = torch.full((1 + max((int(of.max()) for of in units.by_axis.values() if len(of)), default=0),), -1)
    new[labels] = torch.arange(len(labels))
    by_axis = {axis: new[of] for axis, of in units.by_axis.items()}
    network, flops = traced.modules[""], traced.flops
    groups = Groups(
        count=len(labels),
        by_axis={axis: groups for axis, groups in by_axis.items() if bool((groups >= 0).any())},
        roots=tuple(roots),
        consumers=frozenset(units.consumers),
        biases=dict(units.biases),
        gated=gated(units, by_axis, labels),
        fixed={
            axis: tuple(
                dict.fromkeys(r for label in units.by_axis[axis].unique().tolist() for r in reasons.get(label, ()))
            )
            for axis in (*roots, *sorted(units.kept_whole - units.roots))
            if bool((by_axis[axis] < 0).any())
        },
        shapes={name: tensor.shape for name, tensor in (*network.named_parameters(), *network.named_buffers())},
        flops=dict(flops.by_weight),
        other_flops=flops.total - sum(flops.by_weight.values()),
    )
    return groups, labels


def gated(units: Units, by_axis: Mapping[Axis, Tensor], labels: Sequence[int]) -> Tensor:
    """Which groups have a weight that reads what it makes, or are multiplied with other values: hidden units, heads."""
    found = torch.tensor([label in units.of_products for label in labels], dtype=torch.bool)
    for axis in units.roots:
        for other in units.consumers:
            if axis.name == other.name and axis.dim != other.dim:
                rows, columns = by_axis[axis], by_axis[other]
                both = rows[(rows >= 0) & torch.isin(rows, columns)]
                found[both] = True
    return found


def families(groups: Groups) -> list[Tensor]:
    """The groups that have slices of the same axes: if one can be removed, so can the others."""
    generator = np.random.default_rng(0)
    signatures = np.zeros(groups.count, dtype=np.uint64)
    for members in groups.by_axis.values():
        signatures[members[members >= 0].unique().numpy()] += generator.integers(2**63, dtype=np.uint64)
    _, family = np.unique(signatures, return_inverse=True)
    order = np.argsort(family, kind="stable")
    return [torch.from_numpy(part) for part in np.split(order, np.flatnonzero(np.diff(family[order])) + 1) if len(part)]


def cannot_be_removed(model: nn.Module, groups: Groups, example_input: Tensor) -> list[tuple[Tensor, str]]:
    """Families of which not even one group can be removed, and why. The last unit of a layer is not tried."""
    network, example = copied(unwrapped(model)).eval(), example_input
    if example.is_floating_point():
        generator = torch.Generator().manual_seed(0)
        example = torch.randn(example.shape, generator=generator).to(example)

    def search(chosen: Sequence[Tensor]) -> list[tuple[Tensor, str]]:
        """All at once; where that fails, the halves."""
        kept = torch.ones(groups.count, dtype=torch.bool)
        kept[[int(family[-1]) for family in chosen]] = False
        if not chosen or (reason := difference(network, GroupMask(groups, kept), example)) is None:
            return []
        if len(chosen) == 1:
            return [(chosen[0], reason)]
        half = len(chosen) // 2
        return search(chosen[:half]) + search(chosen[half:])

    found: list[tuple[Tensor, str]] = []
    rest = families(groups)
    while rest:
        left = {axis: len(groups.by_axis[axis].unique()) for axis in groups.roots if axis in groups.by_axis}
        now: list[Tensor] = []
        later: list[Tensor] = []
        for family in rest:
            axes = [axis for axis in left if bool((groups.by_axis[axis] == family[-1]).any())]
            room = all(left[axis] > 1 for axis in axes)
            (now if room else later).append(family)
            left |= {axis: left[axis] - 1 for axis in axes if room}
        if not now:
            break
        found += search(now)
        rest = later
    return found


@torch.no_grad()
def difference(network: nn.Module, mask: GroupMask, example: Tensor) -> str | None:
    """Why `network` without some groups is not what it is with zeros in their places; None if it is, as it should be.

    In evaluation mode: up to 1e-10 of the largest output in float64, and 1e-5 in other types.
    """
    with random_state(0):
        expected = list(tensors(mask.apply_(copied(network))(example)))
    try:
        with random_state(0):
            found = list(tensors(shrink(network, mask)(example)))
    except Exception as error:  # whatever a network's code raises
        return f"the network fails without some of them ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
    for first, second in zip(expected, found, strict=True):
        limit = TOLERANCE.get(first.dtype, SINGLE) * float(first.abs().max()) if first.numel() else 0.0
        if first.shape != second.shape or not bool(((first - second).abs() <= limit).all()):
            return "without some of them, the network computes something else than with zeros in their places"
    return None
