"""What passes through each operation of torch, in counts of ways: the rules of `pai_bench.graph.reachability`."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pai_bench.graph.operations import (
    CHOICES,
    CONSTANTS,
    DATA_DEPENDENT,
    ELEMENTWISE,
    MOVES,
    PACKED,
    REDUCING_MOVES,
    REDUCTIONS,
    SPLITS,
    SUMMING_MOVES,
    registrar,
)
from pai_bench.graph.state import ReachState
from pai_bench.graph.tracing import Operation, mapped, tensors
from pai_bench.support.errors import UserError

Rule = Callable[[ReachState, Operation], Any]
"""A function that returns the reaches of an operation's results, or None where they are not known."""

RULES: dict[str, Rule] = {}
rule = registrar(RULES)

MOVED = ("self", "tensors", "src", "source", "values", "input", "data", "other", "tensor", "value", "padding_value")
"""Arguments whose elements are moved. The others determine the positions."""

CONSTANT_VALUES = ("value", "padding_value")
"""Arguments that may be a number, which is written at given positions."""


def reaches(state: ReachState, operation: Operation) -> Any:
    """The reaches of an operation's results, when one of its arguments at least depends on the input."""
    index = operation.arguments["mask"] if operation.name == "masked_select" else operation.arguments.get("indices")
    dependent = [tensor for tensor in tensors(index) if state.reach(tensor) is not None]
    if operation.name in DATA_DEPENDENT or any(tensor.dtype is torch.bool for tensor in dependent):
        raise UserError(f"the network does different things for different data ({operation})")
    result = rule_for(operation)(state, operation)
    if result is None:
        state.unknown.setdefault(operation.name, operation.module)
        result = everything(state, operation)
    return result


def rule_for(operation: Operation) -> Rule:
    """The rule of an operation, by its name or by its kind."""
    name = operation.name
    if name in RULES:
        return RULES[name]
    if name in CONSTANTS:
        return lambda _state, _operation: ()
    if name in REDUCING_MOVES and operation.arguments.get("reduce") is not None:
        return moved_and_reduced
    if moves(operation) or name in SUMMING_MOVES:
        return moved
    if operation.pointwise or name in ELEMENTWISE:
        return pointwise
    if name.startswith(("upsample_", "_upsample_")):
        return resampled
    return unknown


def unknown(_state: ReachState, _operation: Operation) -> None:
    """No rule."""


# Moving


def moves(operation: Operation) -> bool:
    """Whether an operation only puts elements elsewhere."""
    return operation.is_view or operation.copies_view or operation.name in MOVES


def move(
    operation: Operation, value: Callable[[Tensor], Tensor], constant: Callable[[float], float] = lambda number: 0
) -> Any:
    """The operation done to the `value` of what it moves, and to the `constant` of a number that it writes."""
    arguments = dict(operation.arguments)
    for name in MOVED:
        if name in arguments:
            arguments[name] = mapped(arguments[name], value)
    if "alpha" in arguments:
        arguments["alpha"] = 1
    for name in CONSTANT_VALUES:
        if isinstance(number := arguments.get(name), (int, float)):
            arguments[name] = constant(number)
    if operation.name in ("clone", "_to_copy", "contiguous"):
        return arguments["self"].clone()
    if operation.name == "copy":
        return arguments["src"]
    if operation.name == "detach":  # the gradients of training do not matter here
        return arguments["self"]
    if operation.name in SPLITS:  # views, each of which may be written to
        dim, ends = arguments["dim"], accumulate(result.shape[arguments["dim"]] for result in operation.results)
        pairs = zip(ends, operation.results, strict=True)
        return [arguments["self"].narrow(dim, end - result.shape[dim], result.shape[dim]) for end, result in pairs]
    return operation.function(**arguments)


def fixed_places(state: ReachState, operation: Operation) -> bool:
    """Whether the positions to which an operation moves elements depend on no data, weight or random number."""
    places = [argument for name, argument in operation.arguments.items() if name not in MOVED]
    return all(state.fixed(tensor) for tensor in tensors(places))


def moved(state: ReachState, operation: Operation) -> Any:
    """An operation that puts elements elsewhere: it does the same to their reaches."""
    if not fixed_places(state, operation):
        return pointwise(state, operation) if operation.name in CHOICES else None
    result = move(operation, lambda tensor: reach_or_zero(state, tensor))
    if operation.name in PACKED:
        return result[0]
    return state.binarize(result) if sums(operation) else result


def sums(operation: Operation) -> bool:
    """Whether an operation that moves elements may put several in one place."""
    return operation.name in SUMMING_MOVES or bool(operation.arguments.get("accumulate"))


def moved_and_reduced(state: ReachState, operation: Operation) -> Any:
    """What is combined in one place depends on each of its parts, whichever way they are combined."""
    arguments = operation.arguments
    dim, index, source = arguments["dim"], arguments["index"], arguments.get("src", arguments.get("source"))
    if not state.fixed(index):
        return None
    combined = reach_or_zero(state, arguments["self"])
    indexed = operation.name == "index_reduce"
    if not arguments.get("include_self", True):
        combined = combined.index_fill(dim, index, 0) if indexed else combined.scatter(dim, index, 0)
    state.countable = False
    if isinstance(source, Tensor):
        reach = reach_or_zero(state, source)
        combined = combined.index_add(dim, index, reach) if indexed else combined.scatter_add(dim, index, reach)
    return state.binarize(combined)


def reach_or_zero(state: ReachState, tensor: Tensor) -> Tensor:
    """The reach of `tensor`, zero for a constant."""
    return torch.zeros(tensor.shape) if (reach := state.reach(tensor)) is None else reach


# Element by element


def pointwise(state: ReachState, operation: Operation) -> Any:
    """Every element passes what it is made of."""
    inputs = operation.given
    reached = [tensor for tensor in inputs if state.reach(tensor) is not None]
    binarized = state.binarize(added(operation.results[0], [reach_or_zero(state, tensor) for tensor in reached]))
    if len(reached) > 1:
        state.countable &= operation.name in ("add", "sub")
    if operation.name == "add" and len(reached) == 2 and reached[0].shape == reached[1].shape:
        state.record_sum(operation, reached, binarized)
    return with_biases(state, binarized, [t for t in inputs if state.reach(t) is None])


def added(result: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """The sum of some tensors that are broadcast to the shape of `result`."""
    if len(parts) == 1 and parts[0].shape == result.shape:
        return parts[0]
    total = torch.zeros(result.shape)
    for part in parts:
        total = total + part
    return total


def total(parts: Sequence[Tensor]) -> Tensor:
    """The sum of all elements of some tensors."""
    return torch.stack([torch.zeros(()), *(part.sum() for part in parts)]).sum()


def with_biases(state: ReachState, reach: Tensor, added_to_it: Sequence[Any]) -> Tensor:
    """A kept bias is no path, but counts as effective where the unit that it is added to lies on one."""
    for bias in added_to_it:
        if (kept := state.bias(bias)) is not None:
            reach = state.used_with(reach, kept)
    return reach


@rule("glu")
def _glu(state: ReachState, operation: Operation) -> Any:
    """Half of the elements times a function of the other half, which is never zero."""
    x, dim = operation.arguments["self"], operation.arguments["dim"]
    first, second = reach_or_zero(state, x).chunk(2, dim)
    state.countable = False
    return state.binarize(first + second * state.factor(x).chunk(2, dim)[0])


@rule("div", "true_divide")
def _quotient(state: ReachState, operation: Operation) -> Any:
    """A divisor passes where what it divides may differ from zero."""
    a, b = operation.arguments["self"], operation.arguments["other"]
    if not isinstance(b, Tensor) or (of_b := state.reach(b)) is None:
        return pointwise(state, operation)
    state.countable = False
    return state.binarize(added(operation.results[0], [reach_or_zero(state, a), of_b * state.factor(a)]))


# Reductions


@rule(*REDUCTIONS)
def _reduction(state: ReachState, operation: Operation) -> Any:
    """A result depends on all that it is taken over."""
    if isinstance(operation.arguments.get("other"), Tensor):  # the larger of two
        return pointwise(state, operation)
    reach = reach_or_zero(state, operation.arguments["self"])
    binarized = state.binarize(reach.sum(operation.arguments.get("dim")))  # as in it, None or [] are all
    return [binarized.reshape(result.shape) for result in operation.results]


@rule("cumsum", "cumprod", "logcumsumexp")
def _cumulative(state: ReachState, operation: Operation) -> Any:
    return state.binarize(reach_or_zero(state, operation.arguments["self"]).cumsum(operation.arguments["dim"]))


@rule("_softmax", "_log_softmax", "_safe_softmax", "sort", "topk", "argsort", "cummax", "cummin")
def _along(state: ReachState, operation: Operation) -> Any:
    """Every result along a dimension depends on all elements there; what is minus infinity passes nothing."""
    x, dim = operation.arguments["self"], operation.arguments["dim"]
    reach, state.countable = reach_or_zero(state, x), False
    if "softmax" in operation.name and (banned := state.always_neg_inf.get(state.key(x))) is not None:
        reach = reach * ~banned
        state.allow(operation.results[0], (~banned).float())
        return state.binarize(reach.sum(dim, keepdim=True)) * ~banned
    binarized = state.binarize(reach.sum(dim, keepdim=True))
    return [binarized.expand(result.shape).clone() for result in operation.results]


# Windows


@rule("max_pool1d", "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d")
def _pool(state: ReachState, operation: Operation) -> Any:
    """A maximum passes every element of its window."""
    arguments, result = operation.arguments, operation.results[0]
    reach, count = reach_or_zero(state, arguments["self"]), len(arguments["kernel_size"])
    kernel, padding, dilation = (repeated(arguments.get(k, 1), count) for k in ("kernel_size", "padding", "dilation"))
    stride = repeated(arguments["stride"], count) if arguments["stride"] else kernel
    for i, (k, s, p, d) in enumerate(zip(kernel, stride, padding, dilation, strict=True)):
        dim = reach.dim() - count + i
        size, span = reach.shape[dim], d * (k - 1) + 1
        after = max(0, (result.shape[dim] - 1) * s + span - size - p)
        reach = F.pad(reach, (0, 0) * (count - 1 - i) + (p, after))
        windows = reach.unfold(dim, span, s).narrow(dim, 0, result.shape[dim])
        reach = windows[..., ::d].sum(-1)
    return state.binarize(reach)


def repeated(value: Any, count: int) -> list[int]:
    """One number for each dimension."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values * count if len(values) == 1 else values


@rule("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d", "adaptive_max_pool2d")
@rule("adaptive_max_pool3d", "adaptive_max_pool1d")
def _adaptive_pool(state: ReachState, operation: Operation) -> Any:
    reach, size = reach_or_zero(state, operation.arguments["self"]), operation.arguments["output_size"]
    state.countable &= all(whole % part == 0 for whole, part in zip(reach.shape[-len(size) :], size, strict=True))
    pool = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[len(size)]
    share = reach.shape[-len(size) :].numel() / torch.Size(size).numel()
    # times the number of elements in a window, or more
    return state.binarize(pool(reach, size) * (share if state.countable else reach.shape[-len(size) :].numel()))


@rule("view_as_complex")
def _to_complex(state: ReachState, operation: Operation) -> Any:
    return state.binarize(reach_or_zero(state, operation.arguments["self"]).sum(-1))


@rule("view_as_real")
def _to_real(state: ReachState, operation: Operation) -> Any:
    return reach_or_zero(state, operation.arguments["self"]).unsqueeze(-1).repeat_interleave(2, -1)


def resampled(state: ReachState, operation: Operation) -> Any:
    """Interpolation, with weights that are never so small as the factor is large."""
    state.countable = False
    if "bicubic" in operation.name:  # weights of both signs
        return None
    return state.binarize(move(operation, lambda tensor: reach_or_zero(state, tensor)) * 1e6)


@rule("one_hot")
def _one_hot(state: ReachState, operation: Operation) -> Any:
    """Any class may come: every element of its code depends on an index."""
    state.countable = False
    return reach_or_zero(state, operation.arguments["self"]).unsqueeze(-1).expand(operation.results[0].shape).clone()


@rule("embedding")
def _embedding(state: ReachState, operation: Operation) -> Any:
    """Any token may come: an element depends on its index through every row of the table."""
    indices, table = operation.arguments["indices"], operation.arguments["weight"]
    if (reach := state.reach(indices)) is None:
        return F.embedding(indices, reach_or_zero(state, table)) if state.fixed(indices) else None
    through = torch.ones(table.shape[1]) if (kept := state.nonzero(table)) is None else state.binarize(kept.sum(0))
    state.countable = False
    result = state.binarize(reach.unsqueeze(-1) * through)
    state.multiplied([table], result)
    return result


def everything(state: ReachState, operation: Operation) -> Any:
    """Every result depends on every element of every argument, and every connection in it is used."""
    state.countable = False
    inputs = operation.given
    reached = [reach for tensor in inputs if (reach := state.reach(tensor)) is not None]
    ways = state.binarize(total(reached))
    used = total([kept for tensor in inputs if (kept := state.nonzero(tensor)) is not None])
    ways = state.used_with(ways, used)
    return [ways.expand(result.shape).clone() for result in operation.results]
