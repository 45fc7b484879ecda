"""What products with weights, and of values, tie: a part of the rules (`pai_bench.graph.unit_rules`)."""

import torch
from torch import Tensor

from pai_bench.graph.flops import counted
from pai_bench.graph.operands import FACTORS
from pai_bench.graph.ties import NONE, Axis, Run, Stored, Ties, broadcast_over, differ
from pai_bench.graph.tracing import Operation
from pai_bench.graph.unit_rules import SHARED, Numbers, along, beside, either, rule


@rule("convolution", "_convolution")
def _convolution(ties: Ties, operation: Operation) -> Numbers:
    given = operation.arguments
    x, weight, groups, transposed = given["input"], given["weight"], given["groups"], given["transposed"]
    stored = ties.stored(weight)
    if stored is None or not is_whole(ties, stored, weight):
        return None
    spatial = weight.dim() - 2
    channels = ties.numbers(x)
    if channels is None:
        channels = torch.full((x.shape[-spatial - 1],), NONE, dtype=torch.int32)
    else:
        place = x.dim() - spatial - 1
        channels = ties.tie_along(channels, *(dim for dim in range(x.dim()) if dim != place))
    if groups > 1 and (weight.shape[0] == groups if transposed else weight.shape[1] == 1):
        return depthwise(ties, stored, operation, channels)
    into, out = (0, 1) if transposed else (1, 0)
    rows, columns = ties.slices(stored, out), ties.slices(stored, into)
    ties.tie(ties.numbers(given["bias"]), rows.repeat(groups) if transposed else rows)
    ties.note_product(stored.name, out, into)
    # groups stay equal: the same position of each goes together
    ties.tie_along(channels.view(groups, -1), 0)
    ties.tie(channels, columns) if transposed else ties.tie(channels.view(groups, -1), columns)
    if transposed:
        rows = rows.repeat(groups)
    else:
        ties.tie_along(rows.view(groups, -1), 0)
    note_bias(ties, Axis(stored.name, out), given["bias"])
    return rows.view(-1, *(1,) * spatial)


def is_whole(ties: Ties, stored: Stored, weight: Tensor) -> bool:
    """Whether a weight has all rows and columns of a parameter, its dimensions in their order."""
    runs = ties.runs(weight)
    in_order = runs is not None and all(run is None or run.dim == dim for dim, run in enumerate(runs))
    return in_order and stored.keeps_zeros and stored.tensor.shape[:2] == weight.shape[:2]


def depthwise(ties: Ties, stored: Stored, operation: Operation, channels: Tensor) -> Tensor:
    """A convolution with a group for each channel passes each on by itself, to as many as there are kernels for it."""
    groups, transposed = operation.arguments["groups"], operation.arguments["transposed"]
    kernels = ties.slices(stored, 0)
    ties.tie(kernels.view(groups, -1), channels.view(groups, 1))
    ties.tie_along(kernels.view(groups, -1), 1)
    outputs = kernels.repeat_interleave(stored.tensor.shape[1]) if transposed else kernels
    ties.tie(ties.numbers(operation.arguments["bias"]), outputs)
    return outputs.view(-1, *(1,) * (stored.tensor.dim() - 2))


def note_bias(ties: Ties, root: Axis, bias: Tensor | None) -> None:
    """Note a parameter that is added to the features of a root, one element to each."""
    stored = ties.stored(bias)
    if stored is not None and stored.tensor.dim() == 1:
        ties.biases[root] = Axis(stored.name, 0)


ADDED = {"addmm": "self", "addmv": "self", "baddbmm": "self", "linear": "bias"}
"""What a matrix product adds."""


@rule("mm", "bmm", "mv", "dot", *ADDED)
def _matrix_product(ties: Ties, operation: Operation) -> Numbers:
    given = operation.arguments
    first, second = (given[name] for name in FACTORS[operation.name])
    base = given[ADDED[operation.name]] if operation.name in ADDED else None
    a = first.unsqueeze(0) if first.dim() == 1 else first
    b = second.mT if operation.name == "linear" else second.unsqueeze(1) if second.dim() == 1 else second
    numbers = product(ties, a, b, base)
    if numbers is None:
        return None
    if ties.depends(a) and ties.depends(b):
        ties.multiplied.append((numbers.unique(), counted(operation)))
    numbers = numbers.expand(*torch.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    numbers = numbers.reshape(operation.results[0].shape)
    if base is not None:
        added = ties.numbers(base) if ties.depends(base) else beside(ties, base, numbers)
        ties.tie(added, numbers)
        numbers = numbers if added is None else either(numbers, added)
    return numbers


def product(ties: Ties, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """The numbers of a matrix product (..., M, K) x (..., K, N)."""
    if ties.depends(a) and ties.depends(b):
        return product_of_values(ties, a, b)
    if ties.depends(b):
        flipped = product(ties, b.mT, a.mT)
        if flipped is None or flipped.dim() > 1:
            return None if flipped is None else flipped.mT
        return flipped.unsqueeze(-1)
    numbers, stored, runs = ties.numbers(a), ties.stored(b), ties.runs(b)
    if stored is None:  # a constant matrix, or nothing that depends on anything
        return numbers[..., :1] if numbers is not None and not differ(numbers, -1) else None
    if runs is None or any(runs[:-2]) or not stored.keeps_zeros:
        return None
    column, row = (axis_of(stored, run, other) for run, other in ((runs[-2], runs[-1]), (runs[-1], runs[-2])))
    if column is None or row is None or column.dim == row.dim:
        return None
    columns, rows = along(ties, stored, column), along(ties, stored, row)
    if numbers is not None and differ(numbers, -2) and not differ(numbers, -1):  # it mixes positions, not units
        reason = f"{stored.name!r} is multiplied along another dimension than that of units"
        ties.fix(rows, reason)
        ties.fix(columns, reason)
        return numbers[..., :1]
    ties.note_product(stored.name, row.dim, column.dim)
    note_bias(ties, Axis(stored.name, row.dim), bias)
    if numbers is not None:
        ties.tie(numbers, columns)
        ties.tie_along(numbers, *range(numbers.dim() - 1))
    return rows


def axis_of(stored: Stored, run: Run | None, other: Run | None) -> Run | None:
    """What a dimension of a matrix runs along; of one place, the parameter's dimension that the other does not."""
    if run is not None:
        return run
    left = [dim for dim, size in enumerate(stored.tensor.shape) if size == 1 and (other is None or dim != other.dim)]
    return Run(left[0], torch.zeros(1, dtype=torch.int64)) if left else None


def product_of_values(ties: Ties, a: Tensor, b: Tensor) -> Tensor:
    """A product of two values: all that is summed over goes together, and with what it gives."""
    left, right = ties.numbers(a), ties.numbers(b)
    assert left is not None
    assert right is not None
    rows, columns = ties.tie_along(left, -1).unsqueeze(-1), ties.tie_along(right, -2).unsqueeze(-2)
    if broadcast_over(columns, rows, copied=not ties.is_fixed(columns)):  # keys and values that all heads share
        ties.fix(columns, SHARED)
    else:
        ties.tie(rows, columns)
    return either(*torch.broadcast_tensors(rows, columns))
