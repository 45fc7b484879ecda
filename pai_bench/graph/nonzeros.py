"""The positions at which a tensor is zero, or minus infinity, for all data.

Removed weights are zero, and so is attention that a mask forbids; a product passes nothing there. A result is zero for
all data

* of an operation that moves elements: where the element that is moved is;
* of a product: where one of its factors is;
* of a function of single elements: where torch's function is zero whatever the elements that may differ from zero are;
* of any other: where all elements that it depends on are zero, and the function of zeros is zero.

The rules of `pai_bench.graph.rules` define these elements, and products. No values of data, weights or random numbers
are used.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pai_bench.graph.operations import CHOICES, CONSTANTS, MOVES, PACKED, SUMS
from pai_bench.graph.rules import (
    MOVED,
    added,
    fixed_places,
    move,
    moved,
    moves,
    pointwise,
    rule_for,
    sums,
    total,
    unknown,
)
from pai_bench.graph.state import Binarized, ReachState
from pai_bench.graph.tracing import Key, Operation, mapped, tensors
from pai_bench.support.torch_internals import OpOverload

PROBES = (0.0, 1.0, -1.0, 0.3, -0.3, 100.0, -100.0)
"""Values at which functions of single elements are tried, for elements of which nothing is known."""


def nonzeros_of(state: ReachState, operation: Operation, *, reached: bool) -> Sequence[Tensor]:
    """Where an operation's results may differ from zero; empty where nothing is known about that.

    For results that depend on the input, this matters only in networks with gates.
    """
    name, inputs = operation.name, operation.given
    if name in CONSTANTS or (reached and not state.has_gates):
        return ()
    known = any(state.nonzero(tensor) is not None for tensor in inputs)
    if not known and (all(state.fixed(tensor) for tensor in inputs) or not makes_zeros(state, operation)):
        return ()
    rule = rule_for(operation)
    # what makes a factor of a path is on no path by that, but for what scales it
    scales = name in ("mul", "div") or rule is moved or (rule is pointwise and name not in SUMS)
    with torch.set_grad_enabled(torch.is_grad_enabled() and (scales or not reached)):
        supports = known_nonzeros(state, operation)
    if supports is None and not reached:
        return everywhere(state, operation)
    if supports is None or (reached and all(bool(support.all()) and not support.requires_grad for support in supports)):
        return ()
    return supports


def everywhere(state: ReachState, operation: Operation) -> Sequence[Tensor]:
    """For an operation without a rule: supports without zeros, which use all connections of the arguments."""
    known = [state.factor(tensor) for tensor in operation.given]
    if any(kept.requires_grad for kept in known):
        state.unknown.setdefault(operation.name, operation.module)
    return [used(total(known), torch.ones(result.shape)) for result in operation.results]


def used(parts: Tensor, alive: Tensor) -> Tensor:
    """What is `alive`, with a gradient for the `parts` that it is made of."""
    return parts + (alive - parts).detach() if parts.requires_grad else alive


def known_nonzeros(state: ReachState, operation: Operation) -> Sequence[Tensor] | None:
    """The supports of an operation, None where it is not known."""
    name, arguments, rule = operation.name, operation.arguments, rule_for(operation)
    shape = operation.results[0].shape if operation.results else torch.Size()
    if name == "mul" and not isinstance(arguments["other"], Tensor):
        return [state.factor(arguments["self"]) * float(arguments["other"] != 0)]
    if name == "mul":
        return [Binarized.apply(state.factor(arguments["self"]) * state.factor(arguments["other"]))]
    if name in ("div", "true_divide"):  # a divisor scales, as a statistic does
        return [state.factor(arguments["self"]).expand(shape).clone()]
    if name in ("prod", "cumprod"):
        return [operation.function(**{**arguments, "self": state.factor(arguments["self"]), "dtype": None})]
    if rule is moved and fixed_places(state, operation):
        supports = list(tensors(move(operation, state.factor, lambda number: float(number != 0))))
        return (
            [Binarized.apply(support) for support in supports]
            if sums(operation)
            else supports[: 1 if name in PACKED else None]
        )
    if (rule is pointwise and (name not in SUMS or not arguments.get("alpha", 1))) or (
        rule is moved and name in CHOICES
    ):
        return of_elements(state, operation)
    return None if rule in (moved, unknown) else of_parts(state, operation)


def not_zero(tensor: Tensor) -> Tensor:
    """Where a tensor differs from zero; what is no number, such as 0 / 0, does not."""
    return (tensor != 0) & ~tensor.isnan()


def of_elements(state: ReachState, operation: Operation) -> Sequence[Tensor]:
    """The supports of a function of single elements, which is tried at all pairs, triples, ... of `PROBES`.

    A constant tensor is taken as it is where all of its elements are equal.
    """
    arguments = dict(operation.arguments)
    names = [name for name, value in arguments.items() if isinstance(value, Tensor)]
    equal = {n for n in names if state.fixed(t := arguments[n]) and t.numel() and bool((t == t.flatten()[0]).all())}
    places = [name for name in names if name not in equal]
    known = [state.factor(arguments[name]) for name in places]
    values = torch.cartesian_prod(*[torch.tensor((0.0, *PROBES))] * len(places)).view(-1, len(places))
    for name in names:
        old = arguments[name]
        column = values[:, places.index(name)] if name in places else old.flatten()[0].expand(len(values))
        arguments[name] = column.to(old.dtype)
    function = masked_fill if operation.name == "masked_fill" else operation.function
    with torch.no_grad(), torch.random.fork_rng([], enabled=operation.random):
        tried = [not_zero(result) for result in tensors(function(**arguments))]
    return [table_of(values, known, result.shape) for values, result in zip(tried, operation.results, strict=False)]


def masked_fill(self: Tensor, mask: Tensor, value: Any) -> Tensor:
    """``masked_fill`` with several values, where torch's own has one."""
    return torch.where(mask, value, self)


def table_of(tried: Tensor, known: Sequence[Tensor], shape: torch.Size) -> Tensor:
    """The support of a result, from where the function of zeros and `PROBES` is not zero."""
    table = tried.view([1 + len(PROBES)] * len(known))
    for i in range(len(known)):
        table = torch.cat([table.narrow(i, 0, 1), table.narrow(i, 1, len(PROBES)).any(i, keepdim=True)], i)
    table[(1,) * len(known)] = True
    alive = table[tuple(support.detach().long() for support in known)].float().expand(shape)
    parts = added(alive, known) if any(support.requires_grad for support in known) else alive
    return used(parts * alive, alive)


def of_parts(state: ReachState, operation: Operation) -> Sequence[Tensor] | None:
    """The supports of an operation of which every result that is made of zeros only is the function of zeros."""
    made = rule_for(operation)(Parts(state), operation)  # type: ignore[arg-type]
    if made is None:
        return None
    counts = [Binarized.apply(count) for count in tensors(made)]
    if all(bool(count.all()) for count in counts) or operation.name == "normalisation":
        return counts
    if operation.random or not isinstance(operation.function, OpOverload):
        return None
    zeros = {
        name: mapped(value, lambda t: t.clone() if state.fixed(t) else torch.zeros_like(t))
        for name, value in operation.arguments.items()
    }
    at_zero = [not_zero(result) for result in tensors(operation.function(**zeros))]
    return [used(count, torch.maximum(count.detach(), z.float())) for count, z in zip(counts, at_zero, strict=False)]


class Parts:
    """Replaces a `Reach` when a rule is applied to count the elements that a result depends on and may not be zero."""

    def __init__(self, state: ReachState) -> None:
        self.factor, self.fixed, self.key = state.factor, state.fixed, state.key
        self.countable, self.always_neg_inf = True, dict[Key, Tensor]()

    def reach(self, tensor: Any) -> Tensor | None:
        """Where `tensor` may differ from zero, if it is not a constant."""
        return self.factor(tensor) if isinstance(tensor, Tensor) and not self.fixed(tensor) else None

    def nonzero(self, tensor: Any) -> Tensor | None:
        """Where a factor or a bias may differ from zero."""
        return self.factor(tensor) if isinstance(tensor, Tensor) else None

    bias = nonzero

    def normalised(self, operation: Operation) -> Tensor:
        """Of what a normalisation scales: where one element is not zero, its group loses a mean and has no zeros."""
        name, x = operation.name, operation.given[0]
        factor = self.factor(x)
        if name in ("normalisation", "_fused_rms_norm"):
            return factor
        if name == "native_layer_norm":
            return factor.sum(list(range(-len(operation.arguments["normalized_shape"]), 0)), True).expand(x.shape)
        if name == "native_group_norm":
            groups = factor.reshape(len(x), operation.arguments["group"], -1)
            return groups.sum(2, True).expand(groups.shape).reshape(x.shape)
        return factor.sum([i for i in range(x.dim()) if i != 1], True).expand(x.shape)

    def product(self, function: Callable[..., Tensor], *factors: Tensor) -> Tensor:
        """A product differs from zero where all factors do."""
        return function(*map(self.factor, factors))

    def used_with(self, parts: Tensor, bias: Tensor) -> Tensor:
        """A sum differs from zero where its bias does."""
        return parts + bias

    def binarize(self, count: Tensor) -> Tensor:
        """A count as it is."""
        return count

    def multiplied(self, *_: Any) -> None:
        """Does nothing."""

    record_sum = allow = multiplied


def makes_zeros(state: ReachState, operation: Operation) -> bool:
    """Whether an operation can make zeros that hold for all data, by a constant."""
    arguments = operation.arguments
    if operation.name == "mul":
        values = [arguments["self"], arguments["other"]]
    elif operation.name in MOVES:
        values = [part for name in MOVED if name in arguments for part in flat(arguments[name])]
    else:
        return False
    return operation.name in ("tril", "triu") or any(
        bool((value == 0).any()) if isinstance(value, Tensor) else value == 0
        for value in values
        if not isinstance(value, Tensor) or state.fixed(value)
    )


def flat(value: Any) -> Sequence[Any]:
    """The parts of a list, or a value by itself."""
    return value if isinstance(value, (list, tuple)) else [value]


def always_neg_inf(state: ReachState, operation: Operation) -> Tensor | None:
    """Where a result is minus infinity for all data: by a constant that is added, or filled in by a mask."""
    name, arguments = operation.name, operation.arguments
    if not operation.results or not operation.results[0].is_floating_point():
        return None
    known = any(state.key(tensor) in state.always_neg_inf for tensor in operation.given)
    where: Any = None
    if name in ("add", "sub", "baddbmm", "addmm") and arguments.get("beta", 1):
        # of a product, what it is added to
        terms = operation.given if name == "add" else [t for t in [arguments["self"]] if isinstance(t, Tensor)]
        parts = [minus_infinity(state, t) for t in terms if state.key(t) in state.always_neg_inf or state.fixed(t)]
        if parts := [part for part in parts if part.any()]:
            where = added(operation.results[0], parts) > 0
    elif name in CHOICES or (known and moves(operation)):
        where = moved_infinity(state, operation)
    elif known and name in ("mul", "div"):
        where = minus_infinity(state, arguments["self"]).expand(operation.results[0].shape)
    return where if isinstance(where, Tensor) and bool(where.any()) else None


def moved_infinity(state: ReachState, operation: Operation) -> Any:
    """Where what is moved is minus infinity; of a choice that is not fixed, where both values are."""
    ways = [operation]
    if not fixed_places(state, operation):
        if operation.name not in CHOICES:
            return None
        which = "condition" if "condition" in operation.arguments else "mask"
        condition = operation.arguments[which]
        options = (torch.full_like(condition, choice, dtype=torch.bool) for choice in (False, True))
        ways = [replace(operation, arguments={**operation.arguments, which: option}) for option in options]
    places = [move(way, lambda t: minus_infinity(state, t), lambda number: number == -math.inf) for way in ways]
    return places[0] if len(places) == 1 else places[0] & places[1]


def minus_infinity(state: ReachState, tensor: Tensor) -> Tensor:
    """Where a tensor is minus infinity for all data."""
    if (known := state.always_neg_inf.get(state.key(tensor))) is not None:
        return known
    return tensor == -math.inf if state.fixed(tensor) else torch.zeros(tensor.shape, dtype=torch.bool)
