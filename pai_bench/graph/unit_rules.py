"""What each operation of torch ties: the rules of `pai_bench.graph.units`.

What an element with a number holds may change in any way when its slice is removed, since the columns that read it go,
too. So what mixes elements with different numbers in one result, such as a norm over channels, makes them fixed.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from pai_bench.graph.flops import counted
from pai_bench.graph.operations import CHOICES, ELEMENTWISE, REDUCTIONS, SPLITS
from pai_bench.graph.rules import MOVED, move, moves
from pai_bench.graph.ties import NONE, Axis, Run, Stored, Ties, differ
from pai_bench.graph.tracing import Operation

Numbers = Tensor | Sequence[Tensor] | None
"""Those that the results of an operation carry, the first of them at least; None where a rule does not know."""

Rule = Callable[[Ties, Operation], Numbers]

EXTRA_CHANNELS = "extra_channels"
"""The attribute in which a module may hold the number of zero channels that it appends."""

RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operations of these names."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def numbers_of_results(ties: Ties, operation: Operation) -> Sequence[Tensor]:
    """What the results of an operation carry, after it has tied what it combines."""
    found = rule_of(operation)(ties, operation)
    if found is None:
        found = unknown(ties, operation)
    return [found] if isinstance(found, Tensor) else found


def rule_of(operation: Operation) -> Rule:
    """The rule of an operation, by its name or by what it does."""
    name = operation.name
    if name in RULES:
        return RULES[name]
    if name in REDUCTIONS:
        return reduced
    if moves(operation) and name not in CHOICES:
        return moved
    if operation.pointwise or name in ELEMENTWISE or name in CHOICES:
        return pointwise
    if name.startswith(("upsample_", "_upsample_")) or "pool" in name:
        return by_channel
    return unknown


def unknown(ties: Ties, operation: Operation) -> Sequence[Tensor]:
    """Fix all that an operation takes, and gives."""
    reason = f"{operation} is not known"
    for tensor in operation.given:
        if ties.stored(tensor) is not None:
            ties.whole(tensor)
        ties.fix(ties.numbers(tensor), reason)
    return [ties.fixed(reason)] * len(operation.results)


# Element by element


def pointwise(ties: Ties, operation: Operation) -> Numbers:
    """Every element belongs to all that it is made of: first of the data, then of the parameters that meet them."""
    shape = operation.results[0].shape
    carried = None
    for tensor in sorted(operation.given, key=ties.depends, reverse=True):
        numbers = ties.numbers(tensor) if carried is None or ties.depends(tensor) else beside(ties, tensor, carried)
        if numbers is not None:
            ties.tie(carried, numbers)
            carried = numbers.expand(shape) if carried is None else either(carried, numbers)
    return carried


def either(first: Tensor, second: Tensor) -> Tensor:
    """The first numbers, and the second ones where those are constants."""
    return torch.where(first < 0, second, first)


def beside(ties: Ties, tensor: Tensor, carried: Tensor) -> Tensor | None:
    """The numbers of a parameter that meets data with numbers element by element; None where it is not sliced.

    Of a map of channels and positions, say, the channels are tied to those of the data.
    """
    stored, runs = ties.stored(tensor), ties.runs(tensor)
    if stored is None or runs is None:
        return ties.numbers(tensor)
    running = [(place - tensor.dim(), run) for place, run in enumerate(runs) if run is not None]
    varying = [(dim, run) for dim, run in running if differ(carried, dim)]
    if not varying and bool((carried >= 0).any()):  # it runs along positions
        return None
    if len(varying) != 1 or len({run.dim for _, run in running}) < len(running):
        return ties.numbers(tensor)
    dim, run = varying[0]
    return along(ties, stored, run).view(-1, *(1,) * (-dim - 1)).expand(tensor.shape)


def along(ties: Ties, stored: Stored, run: Run) -> Tensor:
    """The numbers of the slices that a dimension of a view runs along."""
    return ties.slices(stored, run.dim)[run.places]


@rule("glu")
def _glu(ties: Ties, operation: Operation) -> Numbers:
    """One half of the elements times a function of the other."""
    numbers = ties.numbers(operation.arguments["self"])
    assert numbers is not None
    first, second = numbers.chunk(2, operation.arguments["dim"])
    ties.tie(first, second)
    return either(first, second)


# Moving


def moved(ties: Ties, operation: Operation) -> Numbers:
    """An operation that puts elements elsewhere does the same to their numbers."""
    if any(ties.numbers(t) is not None for name, t in operation.arguments.items() if name not in MOVED):
        return None

    def carried(tensor: Tensor) -> Tensor:
        numbers = ties.numbers(tensor)
        return torch.full(tensor.shape, NONE, dtype=torch.int32) if numbers is None else numbers

    try:
        found: Numbers = move(operation, carried, lambda _: NONE)
    except (RuntimeError, NotImplementedError):  # a move that takes no whole numbers
        return None
    return found


@rule("constant_pad_nd")
def _padded(ties: Ties, operation: Operation) -> Numbers:
    """Channels that a module appends are units of their own: one goes by a smaller padding."""
    numbers, pad = ties.numbers(operation.arguments["self"]), operation.arguments["pad"]
    padded = moved(ties, operation)
    assert isinstance(padded, Tensor)
    assert numbers is not None
    place = 2 * (numbers.dim() - 2)  # of the channels, after the positions
    if numbers.dim() < 2 or len(pad) < place + 2 or not any(pad[place : place + 2]):
        return padded
    before, after = pad[place : place + 2]
    axis = Axis(f"{operation.module}.{EXTRA_CHANNELS}", 0)
    if before == 0 and getattr(ties.modules.get(operation.module), EXTRA_CHANNELS, None) == after:
        appended = ties.numbered(axis, after).view(-1, *(1,) * (numbers.dim() - 2))
    else:
        appended = ties.fixed(f"{operation.module!r} pads by a number of channels that its code says")
        padded[:, :before] = appended
    padded[:, before + numbers.shape[1] :] = appended
    return padded


@rule("cat", "stack")
def _cat(ties: Ties, operation: Operation) -> Numbers:
    """Pieces that are put beside each other stay equally long along their other dimensions."""
    tensors = [tensor for tensor in operation.arguments["tensors"] if tensor.numel()]
    pieces = [numbers for tensor in tensors if (numbers := ties.numbers(tensor)) is not None]
    for first, second in pairwise(pieces):
        if operation.name == "cat":
            first, second = (piece.narrow(operation.arguments["dim"], 0, 1) for piece in (first, second))
        if any(differ(piece, dim) for piece in (first, second) for dim in range(piece.dim())):
            ties.tie(first, second)
    return moved(ties, operation)


@rule("embedding")
def _embedding(ties: Ties, operation: Operation) -> Numbers:
    indices, table = operation.arguments["indices"], operation.arguments["weight"]
    stored, runs = ties.stored(table), ties.runs(table)
    if stored is None or runs is None or runs[-1] is None:
        return None
    ties.fix(ties.numbers(indices), f"{operation} looks it up")
    return along(ties, stored, runs[-1])


# Products with weights


@rule("convolution", "_convolution")
def _convolution(ties: Ties, operation: Operation) -> Numbers:
    given = operation.arguments
    x, weight, groups, transposed = given["input"], given["weight"], given["groups"], given["transposed"]
    stored = ties.stored(weight)
    if stored is None or stored.tensor.shape[:2] != weight.shape[:2]:
        return None
    spatial = weight.dim() - 2
    channels = ties.numbers(x)
    if channels is None:
        channels = torch.full((x.shape[-spatial - 1],), NONE, dtype=torch.int32)
    else:
        place = x.dim() - spatial - 1
        channels = ties.tie_along(channels, *(dim for dim in range(x.dim()) if dim != place))
    into, out = (0, 1) if transposed else (1, 0)
    rows, columns = ties.slices(stored, out), ties.slices(stored, into)
    ties.tie(ties.numbers(given["bias"]), rows.repeat(groups) if transposed else rows)
    if groups > 1 and not transposed and weight.shape[1] == 1:  # depthwise: it passes each channel on by itself
        kernels = rows.view(groups, -1)
        ties.tie(kernels, channels.view(groups, 1))
        ties.tie_along(kernels, 1)
        return rows.view(-1, *(1,) * spatial)
    ties.roots.add(Axis(stored.name, out))
    ties.consumers.add(Axis(stored.name, into))
    # groups stay equal: the same position of each goes together
    ties.tie_along(channels.view(groups, -1), 0)
    ties.tie(channels, columns) if transposed else ties.tie(channels.view(groups, -1), columns)
    if transposed:
        ties.tie_along(columns.view(groups, -1), 0)
        rows = rows.repeat(groups)
    else:
        ties.tie_along(rows.view(groups, -1), 0)
    note_bias(ties, Axis(stored.name, out), given["bias"])
    return rows.view(-1, *(1,) * spatial)


def note_bias(ties: Ties, root: Axis, bias: Tensor | None) -> None:
    """Note a parameter that is added to the features of a root, one element to each."""
    stored = ties.stored(bias)
    if stored is not None and stored.tensor.dim() == 1:
        ties.biases[root] = Axis(stored.name, 0)


FACTORS = {
    **dict.fromkeys(("mm", "bmm"), ("self", "mat2", None)),
    **{"mv": ("self", "vec", None), "addmv": ("mat", "vec", "self"), "dot": ("self", "tensor", None)},
    **{
        "addmm": ("mat1", "mat2", "self"),
        "baddbmm": ("batch1", "batch2", "self"),
        "linear": ("input", "weight", "bias"),
    },
}
"""What a matrix product multiplies, and what it adds."""


@rule(*FACTORS)
def _matrix_product(ties: Ties, operation: Operation) -> Numbers:
    given, (left, right, other) = operation.arguments, FACTORS[operation.name]
    first, second, base = given[left], given[right], None if other is None else given[other]
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
    if runs is None or any(runs[:-2]):
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
    ties.roots.add(Axis(stored.name, row.dim))
    ties.consumers.add(Axis(stored.name, column.dim))
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
    ties.tie(rows, columns)
    return either(*torch.broadcast_tensors(rows, columns))


# Norms and reductions


@rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")
@rule("_native_batch_norm_legit_functional", "_batch_norm_no_update", "_batch_norm_with_update")
def _batch_norm(ties: Ties, operation: Operation) -> Numbers:
    """Channel by channel."""
    numbers = ties.numbers(operation.arguments["input"])
    if numbers is None:
        return None
    channels = ties.tie_along(numbers, *(dim for dim in range(numbers.dim()) if dim != 1))
    for name in ("weight", "bias", "running_mean", "running_var"):
        ties.tie(channels, ties.numbers(operation.arguments.get(name)))
    return [numbers]


@rule("native_layer_norm", "_fused_rms_norm", "normalisation", "native_group_norm")
def _norm_over_units(ties: Ties, operation: Operation) -> Numbers:
    """Statistics of fewer units are other statistics."""
    reason = f"a norm over units in {operation.module!r}"
    numbers, *others = (ties.numbers(tensor) for tensor in operation.given)
    for other in others:
        ties.fix(other, reason)
    if numbers is None:
        return None
    dims = len(operation.arguments.get("normalized_shape", numbers.shape[1:]))
    fix_mixed(ties, numbers, range(-dims, 0), reason)
    return [numbers]


def fix_mixed(ties: Ties, numbers: Tensor, dims: Sequence[int], reason: str) -> None:
    """Fix what differs along some dimensions."""
    dims = tuple(dim % numbers.dim() for dim in dims) if numbers.dim() else ()
    if dims and numbers.numel():
        smallest = torch.where(numbers < 0, torch.iinfo(numbers.dtype).max, numbers).amin(dims, keepdim=True)
        ties.fix(numbers[(numbers != smallest) | (numbers.amax(dims, keepdim=True) != smallest)], reason)


def reduced(ties: Ties, operation: Operation) -> Numbers:
    """A result over one unit is of that unit; over several, they are fixed."""
    given = operation.arguments
    if isinstance(given.get("other"), Tensor):  # the larger of two
        return pointwise(ties, operation)
    numbers, dims = ties.numbers(operation.given[0]), given.get("dim")
    if numbers is None or len(operation.given) > 1:
        return None
    dims = [dims] if isinstance(dims, int) else list(dims or range(numbers.dim()))
    fix_mixed(ties, numbers, dims, f"{operation} is taken over units")
    carried = numbers.amax(dims) if dims else numbers
    return [carried.reshape(result.shape) for result in operation.results]


@rule("_softmax", "_log_softmax", "_safe_softmax", "sort", "topk", "argsort", "cummax", "cummin", "cumsum", "cumprod")
@rule("logcumsumexp")
def _along_a_dimension(ties: Ties, operation: Operation) -> Numbers:
    numbers, dim = ties.numbers(operation.given[0]), operation.arguments.get("dim", -1)
    if numbers is None or len(operation.given) > 1:
        return None
    fix_mixed(ties, numbers, [dim], f"{operation} is taken over units")
    return [numbers.amax(dim, keepdim=True)] * len(operation.results)


def by_channel(ties: Ties, operation: Operation) -> Numbers:
    """Windows over positions, for each channel."""
    x, result = operation.given[0], operation.results[0]
    numbers = ties.numbers(x)
    if numbers is None or x.dim() < 3 or result.shape[:2] != x.shape[:2] or len(operation.given) > 1:
        return None
    channels = ties.tie_along(numbers, *range(2, x.dim()))
    return [channels.view(*x.shape[:2], *(1,) * (result.dim() - 2))] * len(operation.results)


# Views


def note_view(ties: Ties, operation: Operation) -> None:
    """Tie what a view asks to stay, and note which dimensions it divides."""
    source, name = operation.given[0], operation.name
    numbers = ties.numbers(source) if ties.depends(source) else None
    if numbers is None:
        return
    if operation.results[0].element_size() != source.element_size():
        ties.fix_memory(source, f"{operation} sees numbers of another size in the same memory")
        return
    if name in (*SPLITS, "unsafe_chunk", "chunk"):
        dim, count = operation.arguments["dim"] % numbers.dim(), len(operation.results)
        if count > 1 and differ(numbers, dim):
            equal = len({result.shape[dim] for result in operation.results}) == 1
            ties.tie_along(numbers.unflatten(dim, (count, -1)) if equal else numbers, dim)
    elif name in ("select", "slice", "narrow", "unbind", "diagonal", "unfold", "as_strided"):
        for dim in dimensions_in_parts(operation, numbers):
            ties.tie_along(numbers, dim)
    elif name in ("view", "_unsafe_view", "reshape", "unflatten", "_reshape_alias"):
        ties.divided += divided(numbers, operation.results[0].shape)


def dimensions_in_parts(operation: Operation, numbers: Tensor) -> list[int]:
    """The dimensions of units of which a view takes a part, so that the code counts them."""
    if operation.name in ("diagonal", "unfold", "as_strided"):
        return [dim for dim in range(numbers.dim()) if differ(numbers, dim)]
    dim = operation.arguments.get("dim", 0)
    if operation.name == "slice" and operation.results[0].shape[dim] == numbers.shape[dim]:
        return []
    return [dim] if differ(numbers, dim) else []


def divided(numbers: Tensor, shape: Sequence[int]) -> Iterator[Tensor]:
    """The numbers along each dimension that a view to a shape divides, in the shape of its parts (a, b, ...)."""
    old, new = list(numbers.shape), list(shape)
    i = j = 0
    while i < len(old) and j < len(new):
        first, second, left, right = i, j, old[i], new[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        sizes = [size for size in new[second:j] if size > 1]
        if len(sizes) > 1 and [size for size in old[first:i] if size > 1] != sizes:
            part = numbers[tuple(slice(None) if first <= dim < i else 0 for dim in range(numbers.dim()))]
            if bool((part != part.flatten()[0]).any()):
                yield part.reshape(sizes)
