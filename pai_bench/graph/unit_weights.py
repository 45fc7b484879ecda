"""Values computed from parameters alone, such as weights times a mask: a part of `pai_bench.graph.units`."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from pai_bench.graph.operands import keeps_zeros
from pai_bench.graph.operations import CHOICES, ELEMENTWISE
from pai_bench.graph.ties import Run, Stored, Ties, differ
from pai_bench.graph.tracing import Operation
from pai_bench.graph.unit_rules import along

COPIES = frozenset({"clone", "_to_copy"})
LOOKUPS = frozenset({"index", "index_select"})


class Operand(NamedTuple):
    """A parameter or buffer in an operation."""

    tensor: Tensor
    stored: Stored
    runs: list[Run | None]


def note_computed(ties: Ties, operation: Operation) -> bool:
    """Take what is computed from parameters element by element, or looked up, for one of them; False where it is not.

    Their slices go together. A parameter of one dimension is followed as any value.
    """
    if operation.name in LOOKUPS:
        return note_lookup(ties, operation)
    if not is_computed(ties, operation):
        return False
    result = operation.results[0]
    used = []
    for tensor in operation.given:
        stored, runs = ties.stored(tensor), ties.runs(tensor)
        if stored is not None and stored.tensor.numel() > 1:
            if runs is None:
                return False
            used.append(Operand(tensor, stored, runs))
    whole = [one for one in used if one.tensor.shape == result.shape and has_all_dimensions(one)]
    if not whole:
        return False

    def zeros(one: Operand) -> bool:
        return one.stored.keeps_zeros and keeps_zeros(operation, one.tensor)

    first = max(whole, key=lambda one: (zeros(one), isinstance(one.stored.tensor, nn.Parameter)))
    others = [one for one in used if one is not first]
    if others and any(dims_of(one.runs) != sorted(set(dims_of(one.runs))) for one in used):
        return False
    pairs = [
        (other.stored, run, own)
        for other in others
        for run, own in zip(reversed(other.runs), reversed(first.runs), strict=False)
        if run is not None
    ]
    if any(own is None for *_, own in pairs):
        return False
    for stored, run, own in pairs:
        assert own is not None
        ties.tie(along(ties, stored, run), along(ties, first.stored, own))
    ties.store(result, first.stored._replace(values=result, runs=first.runs, keeps_zeros=zeros(first)))
    return True


def note_lookup(ties: Ties, operation: Operation) -> bool:
    """Take a table that is read at constant places, such as one of relative positions, for the parameter that it is."""
    table, result = operation.arguments["self"], operation.results[0]
    stored, runs = ties.stored(table), ties.runs(table)
    if stored is None or runs is None or any(map(ties.depends, operation.given)):
        return False
    if not has_all_dimensions(Operand(table, stored, runs)):
        return False
    moving: list[Run | None] = [None] * result.dim()
    for dim, run in enumerate(runs):
        if run is not None:
            places = run.places.view(-1, *(1,) * (table.dim() - dim - 1)).expand(table.shape)
            read = operation.function(**{**operation.arguments, "self": places})
            for along_dim in range(read.dim()):
                if differ(read, along_dim):
                    if moving[along_dim] is not None:
                        return False
                    moving[along_dim] = Run(run.dim, read.movedim(along_dim, 0).flatten(1)[:, 0])
    ties.store(result, stored._replace(values=result, runs=moving))
    return True


def is_computed(ties: Ties, operation: Operation) -> bool:
    """Whether an operation gives one new tensor, element by element, that does not depend on the input."""
    name, results = operation.name, operation.results
    by_element = operation.pointwise or name in ELEMENTWISE or name in CHOICES or name in COPIES
    if not by_element or len(results) != 1 or any(map(ties.depends, operation.given)):
        return False
    if not operation.in_place:
        return True
    stored, whole = ties.stored(results[0]), results[0].untyped_storage().nbytes()
    own = stored is None or stored.values is not stored.tensor  # a constant, or what was computed before
    return own and whole == results[0].numel() * results[0].element_size()


def has_all_dimensions(one: Operand) -> bool:
    """Whether a tensor has places along all of a parameter's dimensions, of which there are several."""
    long = [dim for dim, size in enumerate(one.stored.tensor.shape) if size > 1]
    return len(long) > 1 and sorted(set(dims_of(one.runs))) == long


def dims_of(runs: Sequence[Run | None]) -> list[int]:
    """The dimensions of a parameter that the dimensions of a tensor run along, in their order."""
    return sorted(run.dim for run in runs if run is not None)
