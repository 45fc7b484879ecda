"""What each operation of torch ties: the rules of `pai_bench.graph.units`.

What an element with a number holds may change in any way when its slice is removed, since the columns that read it go,
too. So what mixes elements with different numbers in one result, such as a norm over channels, makes them fixed.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from pai_bench.graph.operations import CHOICES, ELEMENTWISE, REDUCTIONS, registrar
from pai_bench.graph.rules import MOVED, move, moves
from pai_bench.graph.ties import NONE, Axis, Run, Stored, Ties, broadcast_over, differ
from pai_bench.graph.tracing import Operation, mapped

Numbers = Tensor | Sequence[Tensor] | None
"""Those that the results of an operation carry, the first of them at least; None where a rule does not know."""

Rule = Callable[[Ties, Operation], Numbers]

EXTRA_CHANNELS = "extra_channels"
"""The attribute in which a module may hold the number of zero channels that it appends."""

SHARED = "it is combined with several units at once"

RULES: dict[str, Rule] = {}
rule = registrar(RULES)


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
            carried = numbers if carried is None else combined(ties, carried, numbers)
    return None if carried is None else carried.expand(shape)


def combined(ties: Ties, first: Tensor, second: Tensor) -> Tensor:
    """What two values carry that are combined element by element: tied numbers, but for one unit that meets several."""
    for few, many in ((second, first), (first, second)):
        if broadcast_over(few, many):
            if ties.is_fixed(few) and not broadcast_over(few.contiguous(), many):  # it stands for several that stay
                break
            ties.fix(few, SHARED)
            return either(many, few)
    ties.tie(first, second)
    return either(first, second)


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
    if len(varying) != 1 or sum(run.dim == varying[0][1].dim for _, run in running) > 1:
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
        return torch.zeros(tensor.shape, dtype=torch.int32) if numbers is None else numbers - NONE

    try:
        found = move(operation, carried)  # in which constants, such as zeros that it writes, are zero
    except (RuntimeError, NotImplementedError):  # a move that takes no whole numbers
        return None
    shifted: Numbers = mapped(found, lambda numbers: numbers + NONE)
    return shifted


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
    shape = operation.arguments.get("normalized_shape", numbers.shape[1:])
    ties.fix_mixed(numbers, operation.arguments.get("dims", range(-len(shape), 0)), reason)
    return [numbers]


def reduced(ties: Ties, operation: Operation) -> Numbers:
    """A result over one unit is of that unit; over several, they are fixed."""
    given = operation.arguments
    if isinstance(given.get("other"), Tensor):  # the larger of two
        return pointwise(ties, operation)
    numbers, dims = ties.numbers(operation.given[0]), given.get("dim")
    if numbers is None:
        return None
    if not numbers.numel():  # of nothing: a constant
        return []
    dims = [dims] if isinstance(dims, int) else list(dims or range(numbers.dim()))
    ties.fix_mixed(numbers, dims, f"{operation} is taken over units")
    carried = numbers.amax(dims) if dims else numbers
    return [carried.reshape(result.shape) for result in operation.results]


@rule("_softmax", "_log_softmax", "_safe_softmax", "sort", "topk", "argsort", "cummax", "cummin", "cumsum", "cumprod")
@rule("logcumsumexp")
def _along_a_dimension(ties: Ties, operation: Operation) -> Numbers:
    numbers, dim = ties.numbers(operation.given[0]), operation.arguments.get("dim", -1)
    if numbers is None:
        return None
    if not numbers.numel():
        return []
    ties.fix_mixed(numbers, [dim], f"{operation} is taken over units")
    return [numbers.amax(dim, keepdim=True)] * len(operation.results)


def by_channel(ties: Ties, operation: Operation) -> Numbers:
    """Windows over positions, for each channel."""
    x, result = operation.given[0], operation.results[0]
    numbers = ties.numbers(x)
    if numbers is None or x.dim() < 3 or result.shape[:2] != x.shape[:2] or len(operation.given) > 1:
        return None
    channels = ties.tie_along(numbers, *range(2, x.dim()))
    return [channels.view(*x.shape[:2], *(1,) * (result.dim() - 2))] * len(operation.results)
