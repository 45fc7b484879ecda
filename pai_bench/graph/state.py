"""The state of a pass over a trace: what is known of its tensors, with the methods that rules use.

Each tensor of a trace has a **reach** of its own shape: 1 where it depends on the input, 0 elsewhere. `binarize` turns
counts into 0 and 1, so that no depth or width overflows; gradients are binarized too.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from pai_bench.graph.tracing import Key, Operation, Trace, key


class Product(NamedTuple):
    """A multiplication of what depends on the input with some parameters."""

    names: frozenset[str]
    reached: bool
    """Whether anything that comes out depends on the input."""


class Sum(NamedTuple):
    """A place where two values that depend on the input are added, with the modules that they come from."""

    module: str
    branches: Sequence[Tensor | None]
    sources: Sequence[str]
    result: Tensor


class Binarized(Function):
    """1 where a count is positive, else 0; the same for the gradient."""

    @staticmethod
    def forward(_ctx: Any, count: Tensor) -> Tensor:
        return (count > 0.5).to(count.dtype)  # counts are whole numbers, but a kernel's result may be slightly off

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Any:
        return (gradients[0] > 0.5).to(gradients[0].dtype)


class ReachState:
    """The reaches of the tensors of a trace, up to the present operation, and where tensors may differ from zero.

    `kept` are masks of the `parameters` by name, tensors of 0 and 1 that may require gradients. Parameters that it does
    not name are kept whole.
    """

    def __init__(self, trace: Trace, parameters: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
        self.products: list[Product] = []
        self.sums: list[Sum] = []
        self.unknown: dict[str, str] = {}
        self.always_neg_inf: dict[Key, Tensor] = {}
        """Where a tensor is minus infinity for all data."""
        self.computed: set[str] = set()
        """Parameters from which weights are computed that may differ from zero where the parameter is removed."""
        self.countable = True
        """Whether every path is a product of connections, so that there is a number of paths."""
        self._keys, self._kept = trace.keys, kept
        self.has_gates, self._rewritten = trace.has_gates, trace.rewritten
        self._reaches: dict[Key, Tensor] = {}
        self._flats: dict[int, Tensor] = {}  # of constant memories that are written to in parts
        self._flats_written: dict[int, Tensor] = {}  # to which of their elements, so that the others stay constants
        one = torch.ones(())
        self._nonzeros = {key(p): like(p, kept.get(name, one).expand(p.shape)) for name, p in parameters.items()}
        self._flat_nonzeros: dict[int, Tensor] = {}  # of whole memories that are written to in parts
        self._added = set(self._nonzeros)  # parameters, and what is moved of them: those that may be biases
        self._names = {key(parameters[name]): frozenset([name]) for name in kept}
        # keys, and for what is written in place and for parameters, memories
        self._varying: set[Key] = {key(p)[:1] for p in parameters.values() if p.is_floating_point() or p.is_complex()}
        self._sources: dict[Key, str] = {}

    def key(self, tensor: Tensor) -> Key:
        """The key that identifies a tensor of the trace."""
        return self._keys[id(tensor)]

    def binarize(self, count: Tensor) -> Tensor:
        """A reach, from counts of ways."""
        binarized: Tensor = Binarized.apply(count)
        return binarized

    def reach(self, tensor: Any) -> Tensor | None:
        """Where `tensor` depends on the input; None if nowhere."""
        if not isinstance(tensor, Tensor):
            return None
        where = self.key(tensor)
        if (known := self._reaches.get(where)) is None and (written := self._flats_written.get(where[0])) is not None:
            shape, stride, offset = tensor.shape, tensor.stride(), tensor.storage_offset()
            if written.as_strided(shape, stride, offset).any():
                known = self._flats[where[0]].as_strided(shape, stride, offset)
        return known

    def nonzero(self, tensor: Any) -> Tensor | None:
        """Where `tensor` may differ from zero, if something is known of that: kept weights, and allowed attention."""
        if not isinstance(tensor, Tensor):
            return None
        where = self.key(tensor)
        if (support := self._nonzeros.get(where)) is None and (flat := self._flat_nonzeros.get(where[0])) is not None:
            support = flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        return support

    def bias(self, tensor: Any) -> Tensor | None:
        """The mask of `tensor`, if it is a prunable parameter, or moved from one."""
        support = self.nonzero(tensor)
        return support if support is not None and support.requires_grad and self.key(tensor) in self._added else None

    def factor(self, tensor: Tensor) -> Tensor:
        """Where a product with `tensor` passes: its support, or where a constant is not zero, or everywhere."""
        if (support := self.nonzero(tensor)) is not None:
            return support
        return (tensor != 0).float() if self.fixed(tensor) else torch.ones(tensor.shape)

    def varies(self, tensor: Tensor) -> bool:
        """Whether `tensor` is no constant: a weight, a random number, or a value that is changed later."""
        where = self.key(tensor)
        return where in self._varying or where[:1] in self._varying or where[0] in self._rewritten

    def fixed(self, tensor: Tensor) -> bool:
        """Whether the values of `tensor` are the same for all data, weights and random numbers."""
        return self.reach(tensor) is None and not self.varies(tensor)

    def normalised(self, operation: Operation) -> Tensor | None:
        """The reach of what a normalisation scales, element by element: a statistic is no path."""
        return self.reach(operation.given[0])

    def product(self, function: Callable[..., Tensor], *factors: Tensor) -> Tensor:
        """The reach of a multilinear function: the reach of one factor times where the others pass, summed."""
        parts = []
        for i, factor in enumerate(factors):
            if (reach := self.reach(factor)) is not None:
                parts.append(function(*(reach if i == j else self.factor(f) for j, f in enumerate(factors))))
        self.countable &= len(parts) == 1
        binarized = self.binarize(sum(parts[1:], parts[0]))
        self.multiplied(factors, binarized)
        return binarized

    def used_with(self, reach: Tensor, kept: Tensor) -> Tensor:
        """`reach` unchanged, with a gradient for `kept`."""
        return reach + reach.detach() * (kept - kept.detach())

    def names(self, arguments: Iterable[Tensor]) -> frozenset[str]:
        """The parameters from which some tensors are computed."""
        keys = [self.key(tensor) for tensor in arguments]
        return frozenset().union(*(self._names.get(where, frozenset()) for key in keys for where in (key, key[:1])))

    def allow(self, tensor: Tensor, allowed: Tensor) -> None:
        """Note where attention is allowed."""
        self._nonzeros[self.key(tensor)] = allowed

    def multiplied(self, factors: Sequence[Tensor], reach: Tensor) -> None:
        """Note that `reach` is the result of a product."""
        for tensor in factors:
            self._note_computed(tensor)
        if names := self.names(factors):
            self.products.append(Product(names, bool(reach.any())))

    def _note_computed(self, tensor: Tensor) -> None:
        """Note parameters from which a weight with fewer zeros is computed."""
        support = None if self.key(tensor) in self._added else self.nonzero(tensor)
        if support is not None and self.reach(tensor) is None:
            for name in self.names([tensor]):
                kept = self._kept[name]
                if kept.numel() == support.numel() and int(support.count_nonzero()) > int(kept.count_nonzero()):
                    self.computed.add(name)

    def record_sum(self, operation: Operation, branches: Sequence[Tensor], reach: Tensor) -> None:
        """Note that two tensors are added."""
        reaches = [None if (branch := self.reach(t)) is None else branch.detach().clone() for t in branches]
        sources = [self._sources.get(self.key(tensor), "the input") for tensor in branches]
        self.sums.append(Sum(operation.module, reaches, sources, reach))


def like(tensor: Tensor, reach: Tensor) -> Tensor:
    """`reach` with the memory layout of `tensor`, so that it has the same views."""
    if reach.stride() == tensor.stride() or not reach.numel():
        return reach
    return torch.empty_strided(tensor.shape, tensor.stride()).copy_(reach)
