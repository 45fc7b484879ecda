"""The role of parameters in a trace: which ones multiply values that depend on the input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pai_bench.graph.operations import (
    CONSTANTS,
    ELEMENTWISE,
    REDUCING_MOVES,
    SUMMING_MOVES,
)
from pai_bench.graph.rules import moves
from pai_bench.graph.tracing import Operation, Trace, mapped
from pai_bench.support.torch_internals import storage_id

FACTORS = {
    **{"mm": ("self", "mat2"), "bmm": ("self", "mat2"), "matmul": ("self", "other"), "mv": ("self", "vec")},
    **{"addmm": ("mat1", "mat2"), "addbmm": ("batch1", "batch2"), "baddbmm": ("batch1", "batch2")},
    **{"addmv": ("mat", "vec"), "addr": ("vec1", "vec2"), "dot": ("self", "tensor"), "vdot": ("self", "other")},
    **{"linear": ("input", "weight"), "_trilinear": ("i1", "i2", "i3"), "conv_tbc": ("self", "weight")},
    **dict.fromkeys(("convolution", "_convolution"), ("input", "weight")),
}
"""Matrix products and convolutions -> the names of their factors."""

SCALED = {"mul": "self", "div": "self", "true_divide": "self"}
"""Operations that scale the elements of an argument, so that its zeros stay zeros."""

CONSTANT = {
    "where": "other",
    "masked_fill": "value",
    "fill": "value",
    "index_fill": "value",
    "constant_pad_nd": "value",
}
"""Moves that write a constant at the other positions -> the name of that argument."""


@dataclass
class Operands:
    """The roles of the parameters of a network in one forward pass, by name.

    A weight is a factor of a matrix product or a convolution with values that depend on the input: itself, moved, or
    scaled by something independent of it, so that a connection is removed where it is zero.
    """

    weights: set[str] = field(default_factory=set)
    inputs_first: set[str] = field(default_factory=set)
    """Weights of which the first dimension is that of the input features, as in ``x @ w``."""
    groups: dict[str, int] = field(default_factory=dict)
    """Groups of the convolutions with a weight, where they are several."""
    products: dict[int, set[str]] = field(default_factory=dict)
    """By index in the trace: the parameters that a product multiplies by, or from which its factor is computed."""
    unclear: set[str] = field(default_factory=set)
    """Parameters from which weights are computed that may differ from zero, or be no number, where the parameter is
    zero; and those of two dimensions or more that meet what depends on the input in an operation that is not known, or
    in a product that is written by hand: element by element, with more elements than the data have."""


def operands(trace: Trace, parameters: Mapping[str, Tensor]) -> Operands:
    """The roles of `parameters` in `trace`."""
    return _Following(trace, parameters).found


class _Following:
    """Follows the memory of parameters and of the input, which stays allocated as long as the trace."""

    def __init__(self, trace: Trace, parameters: Mapping[str, Tensor]) -> None:
        self.found = Operands()
        self._keys, self._dependent = trace.keys, {trace.keys[id(trace.input)][0]}
        self._holds: dict[object, set[str]] = {}
        self._made: dict[object, set[str]] = {}
        self._sizes = {name: parameter.numel() for name, parameter in parameters.items()}
        for name, parameter in parameters.items():
            self._holds.setdefault(storage_id(parameter.untyped_storage()), set()).add(name)
        for place, operation in enumerate(trace.operations):
            if operation.name in FACTORS:
                self._multiply(place, operation)
            self._give(operation)

    def _memory(self, tensor: Tensor) -> object:
        return self._keys[id(tensor)][0]

    def _depends(self, tensor: Tensor) -> bool:
        return self._memory(tensor) in self._dependent

    def _multiply(self, place: int, operation: Operation) -> None:
        factors = [operation.arguments[name] for name in FACTORS[operation.name]]
        factors = [factor for factor in factors if isinstance(factor, Tensor)]
        reached = any(map(self._depends, factors))
        for factor in factors:
            if self._depends(factor):
                continue
            where = self._memory(factor)
            names = self._holds.get(where, set())
            computed = {name for name in self._made.get(where, ()) if self._sizes[name] == factor.numel()}
            self.found.products.setdefault(place, set()).update(names or computed)
            if reached:
                self.found.weights |= names
                self.found.unclear |= self._made.get(where, set()) if not names else set()
                if factor.dim() > 1 and inputs_first(operation, factor, second=factor is factors[1]):
                    self.found.inputs_first |= names
                if (groups := operation.arguments.get("groups", 1)) > 1:
                    self.found.groups |= dict.fromkeys(names, groups)

    def _names(self, tensors: Sequence[Tensor]) -> set[str]:
        """The parameters that some tensors are, or are computed from."""
        places = [self._memory(tensor) for tensor in tensors]
        return {name for where in places for of in (self._holds, self._made) for name in of.get(where, ())}

    def _expands(self, operation: Operation) -> bool:
        """Whether an operation multiplies the data with more than one element for each of theirs."""
        data = max((tensor.numel() for tensor in operation.given if self._depends(tensor)), default=0)
        return operation.name == "mul" and operation.results[0].numel() > data

    def _give(self, operation: Operation) -> None:
        """Note from which parameters the results of an operation are computed."""
        results = [self._memory(tensor) for tensor in operation.results]
        if any(map(self._depends, operation.given)):
            self._dependent.update(results)
            if not is_known(operation) or self._expands(operation):
                matrices = [tensor for tensor in operation.given if tensor.dim() > 1 and not self._depends(tensor)]
                self.found.unclear.update(*(self._holds.get(self._memory(tensor), ()) for tensor in matrices))
            return
        held = [tensor for tensor in operation.given if self._memory(tensor) in self._holds]
        if operation.name in SCALED:  # scaled by something computed from the same parameter, it may be 0 / 0
            others = {id(t): self._names([other for other in operation.given if other is not t]) for t in held}
            held = [t for t in held if not others[id(t)] & self._names([t])]
        scaled = {
            name for tensor in held if keeps_zeros(operation, tensor) for name in self._holds[self._memory(tensor)]
        }
        names = self._names(operation.given)
        for where in results:
            if scaled and where not in self._made:
                self._holds.setdefault(where, set()).update(scaled)
            elif names and (where not in self._holds or operation.in_place):
                self._holds.pop(where, None)
                self._made.setdefault(where, set()).update(names)


def is_known(operation: Operation) -> bool:
    """Whether an operation is one of `FACTORS`, or no product: of elements, a move, a lookup, a normalisation."""
    name = operation.name
    moved = moves(operation) or name in SUMMING_MOVES or name in REDUCING_MOVES or name in CONSTANTS
    single = operation.pointwise or name in ELEMENTWISE
    return moved or single or name in FACTORS or name == "embedding" or "norm" in name


def keeps_zeros(operation: Operation, tensor: Tensor) -> bool:
    """Whether the zeros of an argument stay zeros in the results, element by element, wherever those are put."""
    name, arguments = operation.name, operation.arguments
    if name in CONSTANT:
        value = arguments[CONSTANT[name]]
        return bool((value == 0).all()) if isinstance(value, Tensor) else value == 0
    if moves(operation):
        return True
    if not operation.results or operation.results[0].numel() != tensor.numel():
        return False
    if name in SCALED:
        return name == "mul" or tensor is arguments[SCALED[name]]
    if not operation.pointwise or len(operation.given) > 1:
        return False
    at_zero = operation.function(**mapped(arguments, torch.zeros_like))
    return not bool(at_zero.any())


def inputs_first(operation: Operation, factor: Tensor, *, second: bool) -> bool:
    """Whether the outer one of the two dimensions of `factor` in memory is summed over."""
    if operation.name in ("convolution", "_convolution"):
        return bool(operation.arguments.get("transposed", False))
    if operation.name in ("linear", "_trilinear"):
        return False
    outer = factor.stride(-2) >= factor.stride(-1)
    return outer == second
