"""Finding the groups of a network in the ties of its trace."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pai_bench.graph.connectivity import Connections, check_example
from pai_bench.graph.ties import Axis
from pai_bench.graph.units import OUTPUT, Units
from pai_bench.groups.groups import Groups
from pai_bench.groups.removable import cannot_be_removed
from pai_bench.support.precision import arithmetic

logger = logging.getLogger(__name__)


def find_groups(model: nn.Module, example_input: Tensor) -> Groups:
    """The groups of a network, found in the operations of one forward pass of an example, in evaluation mode.

    Additions and products tie elements, residual streams among them; concatenations, views, splits and shuffles of
    channels are followed element by element. Fixed are the network's inputs and outputs, what reaches a statistic over
    units, such as layer norm, and what meets an operation that is not known. Then groups of each sort are removed from
    a copy with random weights, and it is run: what the network's code counts on by number is fixed, too, with a
    warning.

    UserError for a network that cannot be traced, and for an example that is empty or no tensor.
    """
    check_example(example_input)
    with arithmetic("fp32", example_input.device), arithmetic("fp32", torch.device("cpu")):
        return _find(model, example_input)


def _find(model: nn.Module, example_input: Tensor) -> Groups:
    traced = Connections(model, example_input)
    units = Units(traced.trace, traced.modules)
    reasons = dict(units.why_fixed)
    for axis in units.roots:
        labels = units.by_axis[axis]
        if axis.name not in traced.parameters:
            for label in labels.unique().tolist():
                reasons.setdefault(label, []).append(f"{axis.name!r} is no parameter, so that nothing scores its units")
        if len(labels) and bool((labels == labels[0]).all()):
            reasons.setdefault(int(labels[0]), [f"all units of {axis.name!r} go together"])
    groups, labels_of = numbered(traced, units, reasons)
    failing = cannot_be_removed(model, groups, example_input, unseen=has_unseen(traced)) if groups.count else []
    counts = Counter[str]()
    for family, reason in failing:
        counts[reason] += len(family.members)
        for group in family.members.tolist():
            reasons.setdefault(labels_of[group], []).append(reason)
    for reason, count in counts.items():
        logger.warning("%d of %d groups are fixed: %s", count, groups.count, reason)
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
    fixed = {
        axis: tuple(dict.fromkeys(r for label in units.by_axis[axis].unique().tolist() for r in reasons.get(label, ())))
        for axis in (*roots, *sorted(units.kept_whole - units.roots))
        if bool((by_axis[axis] < 0).any())
    }
    groups = Groups(
        count=len(labels),
        by_axis={axis: groups for axis, groups in by_axis.items() if bool((groups >= 0).any())},
        roots=tuple(roots),
        consumers=frozenset(units.consumers),
        biases=dict(units.biases),
        gated=gated(units, by_axis, labels),
        rows_per_unit={
            axis: rows for axis, rows in rows_per_unit(units, roots).items() if OUTPUT not in fixed.get(axis, ())
        },
        fixed=fixed | in_unknown(traced, units, by_axis, reasons),
        shapes={name: tensor.shape for name, tensor in (*network.named_parameters(), *network.named_buffers())},
        flops=dict(flops.shares),
        products=(products := products_of_groups(units, new, len(traced.trace.input))),
        other_flops=flops.total - sum(flops.shares.values()) - sum(count for _, count in products),
    )
    return groups, labels


def in_unknown(
    traced: Connections, units: Units, by_axis: Mapping[Axis, Tensor], reasons: Mapping[int, Sequence[str]]
) -> dict[Axis, tuple[str, ...]]:
    """The weights that make no units and have no groups, and why, of those that the network multiplies by."""
    made = {axis.name for axis in units.roots | units.kept_whole}
    made |= {axis.name for axis, groups in by_axis.items() if bool((groups >= 0).any())}
    found = {}
    for name in traced.flops.by_weight:
        if name not in made:
            axis, why = Axis(name, 0), dict[str, None]()
            if axis in units.by_axis and traced.parameters[name].dim() > 2:  # a kernel is fixed as what it filters
                labels = units.by_axis[axis].unique().tolist()
                why = dict.fromkeys(reason for label in labels for reason in reasons.get(label, ()))
            found[axis] = tuple(why) or ("it is used in an operation that is not known to make units",)
    return found


def products_of_groups(units: Units, new: Tensor, examples: int) -> tuple[tuple[Tensor, float], ...]:
    """The products of values with values that have groups: these, and the operations for one example."""
    found = []
    for labels, flops in units.of_products:
        groups = new[sorted(labels)]
        if bool((groups >= 0).all()) and len(groups):
            found.append((groups, flops / examples))
    return tuple(found)


def gated(units: Units, by_axis: Mapping[Axis, Tensor], labels: Sequence[int]) -> Tensor:
    """Which groups are hidden units or heads, whose values are not linear in the weights that make them.

    Hidden units are read by the weight that makes them; heads are multiplied with other values.
    """
    multiplied = {label for of, _ in units.of_products for label in of}
    found = torch.tensor([label in multiplied for label in labels], dtype=torch.bool)
    for axis, rows in hidden_rows(units, by_axis).items():
        found[by_axis[axis][rows & (by_axis[axis] >= 0)]] = True
    return found


def hidden_rows(units: Units, numbers: Mapping[Axis, Tensor]) -> dict[Axis, Tensor]:
    """For each axis of rows of a weight that is used several times, which of them (bool) its own columns read.

    Those are of recurrent layers. A weight that is used once, as f in h + f(h), reads units, but not its own results.
    """
    found = {}
    for axis in units.roots:
        if units.uses[axis.name] > 1:
            columns = [numbers[a] for a in units.consumers if a.name == axis.name and a.dim != axis.dim]
            found[axis] = torch.isin(numbers[axis], torch.cat(columns))
    return found


def rows_per_unit(units: Units, roots: Sequence[Axis]) -> dict[Axis, int]:
    """The rows of each unit of the layers, whether or not their units are fixed.

    Without the weights that recurrent layers multiply their own state with, since others make the same units.
    """
    labels = units.apart_by_axis
    hidden = hidden_rows(units, labels)
    recurrent = {axis for axis, rows in hidden.items() if bool(rows.any())}
    made = torch.cat([torch.empty(0, dtype=torch.int64), *(labels[axis] for axis in roots if axis not in recurrent)])
    several = torch.cat([units.multiplied_apart, *(labels[axis][rows] for axis, rows in hidden.items())])
    found = {}
    for axis in roots:
        of = labels[axis]
        if axis not in recurrent or not bool(torch.isin(of, made).all()):
            found[axis] = len(of) // max(1, len(of.unique())) if bool(torch.isin(of, several).all()) else 1
    return found


def has_unseen(traced: Connections) -> bool:
    """Whether a network has parameters that it does not use in evaluation mode, as those of an auxiliary classifier."""
    seen = {traced.trace.memory(tensor) for operation in traced.trace.operations for tensor in operation.given}
    return any(traced.trace.memory(parameter) not in seen for parameter in traced.parameters.values())
