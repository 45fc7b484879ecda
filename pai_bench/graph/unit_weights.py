"""Values computed from parameters alone, such as weights times a mask: a part of `pai_bench.graph.units`."""

from typing import NamedTuple

from torch import Tensor, nn

from pai_bench.graph.operands import keeps_zeros
from pai_bench.graph.operations import CHOICES, ELEMENTWISE
from pai_bench.graph.ties import Run, Stored, Ties
from pai_bench.graph.tracing import Operation
from pai_bench.graph.unit_rules import along

COPIES = frozenset({"clone", "_to_copy"})


class Operand(NamedTuple):
    """A parameter or buffer in an operation."""

    tensor: Tensor
    stored: Stored
    runs: list[Run | None]


def note_computed(ties: Ties, operation: Operation) -> bool:
    """Take what is computed from parameters element by element for one of them; False where it is not.

    Their slices go together. A parameter of one dimension is followed as any value.
    """
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
    pairs = [
        (other.stored, run, own)
        for other in used
        for run, own in zip(reversed(other.runs), reversed(first.runs), strict=False)
        if run is not None
    ]
    for stored, run, own in pairs:
        if own is None:
            return False
        ties.tie(along(ties, stored, run), along(ties, first.stored, own))
    ties.store(result, first.stored._replace(values=result, runs=first.runs, keeps_zeros=zeros(first)))
    return True


def is_computed(ties: Ties, operation: Operation) -> bool:
    """Whether an operation gives one new tensor, element by element, that does not depend on the input."""
    name, results = operation.name, operation.results
    by_element = operation.pointwise or name in ELEMENTWISE or name in CHOICES or name in COPIES
    if not by_element or len(results) != 1 or any(map(ties.depends, operation.given)):
        return False
    memory = results[0].untyped_storage().nbytes()
    fills_memory = memory == results[0].numel() * results[0].element_size()
    return not operation.in_place or (fills_memory and ties.stored(results[0]) is None)


def has_all_dimensions(one: Operand) -> bool:
    """Whether a tensor has places along all of a parameter's dimensions, of which there are several."""
    long = [dim for dim, size in enumerate(one.stored.tensor.shape) if size > 1]
    return len(long) > 1 and sorted(run.dim for run in one.runs if run is not None) == long
