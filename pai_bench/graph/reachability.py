"""Boolean arithmetic over a traced network: which values depend on its input, through kept connections.

Every tensor of a trace has a **reach** of its own shape: 1 where it depends on the input, 0 elsewhere. An operation on
tensors becomes one on reaches that is linear and positive, after which `settle` makes 0 or 1 of every count. Gradients
are settled the same way on their way back, and say what the outputs depend on. So no depth or width overflows, and
the gradient of a connection is positive exactly if the connection lies on a path from an input to an output.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pai_bench.graph import nonzeros, rules
from pai_bench.graph import products as products  # its rules are known by its being imported
from pai_bench.graph.operations import CONSTANTS, PACKED
from pai_bench.graph.tracing import Key, Operation, Trace, key, tensors


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


class Reach:
    """The reaches of the tensors of a trace.

    `kept` says what is kept of the `parameters`, by name, in tensors of 0 and 1 for which gradients can be asked;
    those that it does not name are kept whole.
    """

    def __init__(self, trace: Trace, parameters: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
        self.products: list[Product] = []
        self.sums: list[Sum] = []
        self.unknown: dict[str, str] = {}
        self.forbidden: dict[Key, Tensor] = {}
        """Where a tensor is minus infinity for all data."""
        self.computed: set[str] = set()
        """Parameters of which some weights are computed that may differ from zero where the parameter is removed."""
        self.countable = True
        """Whether every path is a product of connections, so that there is a number of paths."""
        self._keys, self._kept = trace.keys, kept
        self.has_gates, self._rewritten = trace.has_gates, trace.rewritten
        self._reaches: dict[Key, Tensor] = {}
        self._flats: dict[int, Tensor] = {}
        one = torch.ones(())
        self._supports = {key(p): like(p, kept.get(name, one).expand(p.shape)) for name, p in parameters.items()}
        self._flat_supports: dict[int, Tensor] = {}  # of whole memories that are written to in parts
        self._added = set(self._supports)  # parameters, and what is moved of them: those that may be biases
        self._names = {key(parameters[name]): frozenset([name]) for name in kept}
        # keys, and for what is written in place and for parameters, memories
        self._varying: set[Key] = {key(p)[:1] for p in parameters.values() if p.is_floating_point() or p.is_complex()}
        self._sources: dict[Key, str] = {}
        with torch.set_grad_enabled(any(factor.requires_grad for factor in kept.values())):
            self._reaches[key(trace.input)] = like(trace.input, torch.ones(trace.input.shape))
            for operation, done in zip(trace.operations, trace.last_uses, strict=True):
                self._follow(operation)
                for where in done:
                    self._reaches.pop(where, None)
        self.outputs = [reach for tensor in trace.outputs if (reach := self.reach(tensor)) is not None]

    def key(self, tensor: Tensor) -> Key:
        """What tells a tensor of the trace from another."""
        return self._keys.get(id(tensor)) or key(tensor)

    def settle(self, count: Tensor) -> Tensor:
        """A reach, from counts of ways."""
        settled: Tensor = rules.Settled.apply(count)
        return settled

    def reach(self, tensor: Any) -> Tensor | None:
        """Where `tensor` depends on the input; None if nowhere."""
        if not isinstance(tensor, Tensor):
            return None
        where = self.key(tensor)
        if (found := self._reaches.get(where)) is None and (flat := self._flats.get(where[0])) is not None:
            found = flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        return found

    def support(self, tensor: Any) -> Tensor | None:
        """Where `tensor` may differ from zero, if something is known of that: kept weights, and allowed attention."""
        if not isinstance(tensor, Tensor):
            return None
        where = self.key(tensor)
        if (found := self._supports.get(where)) is None and (flat := self._flat_supports.get(where[0])) is not None:
            found = flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        return found

    def bias(self, tensor: Any) -> Tensor | None:
        """What is kept of `tensor`, if it is a parameter, or moved from one, that can be pruned."""
        support = self.support(tensor)
        return support if support is not None and support.requires_grad and self.key(tensor) in self._added else None

    def factor(self, tensor: Tensor) -> Tensor:
        """What passes where something is multiplied with `tensor`: its support, or where a constant is not zero.

        What is not fixed passes where something is known of it, else everything.
        """
        if (support := self.support(tensor)) is not None:
            return support
        return (tensor != 0).float() if self.fixed(tensor) else torch.ones(tensor.shape)

    def varies(self, tensor: Tensor) -> bool:
        """Whether the values of `tensor` in the trace are no constants: those of weights, of chance, or later ones."""
        where = self.key(tensor)
        return where in self._varying or where[:1] in self._varying or where[0] in self._rewritten

    def fixed(self, tensor: Tensor) -> bool:
        """Whether the values of `tensor` in the trace hold for all data, all weights and all draws."""
        return self.reach(tensor) is None and not self.varies(tensor)

    def normalised(self, operation: Operation) -> Tensor | None:
        """The reach of what a normalisation scales, element by element: a statistic is no path."""
        return self.reach(operation.given[0])

    def product(self, function: Callable[..., Tensor], *factors: Tensor) -> Tensor:
        """Ways through a multilinear function: what depends on the input, times what may pass of the others."""
        parts = []
        for i, factor in enumerate(factors):
            if (reach := self.reach(factor)) is not None:
                parts.append(function(*(reach if i == j else self.factor(f) for j, f in enumerate(factors))))
        self.countable &= len(parts) == 1
        settled = self.settle(sum(parts[1:], parts[0]))
        self.multiplied(factors, settled)
        return settled

    def used_with(self, reach: Tensor, kept: Tensor) -> Tensor:
        """`reach` as it is, with a gradient for what is `kept` beside it."""
        return reach + reach.detach() * (kept - kept.detach())

    def names(self, arguments: Iterable[Tensor]) -> frozenset[str]:
        """The parameters that some tensors are made of."""
        keys = [self.key(tensor) for tensor in arguments]
        return frozenset().union(*(self._names.get(where, frozenset()) for key in keys for where in (key, key[:1])))

    def allow(self, tensor: Tensor, allowed: Tensor) -> None:
        """Note where attention is not forbidden."""
        self._supports[self.key(tensor)] = allowed

    def multiplied(self, factors: Sequence[Tensor], reach: Tensor) -> None:
        """Note that `reach` is what comes out of a product."""
        for tensor in factors:
            self._note_computed(tensor)
        if names := self.names(factors):
            self.products.append(Product(names, bool(reach.any())))

    def _note_computed(self, tensor: Tensor) -> None:
        """Note the parameters of which a weight is computed that has fewer zeros than they."""
        support = None if self.key(tensor) in self._added else self.support(tensor)
        if support is not None and self.reach(tensor) is None:
            for name in self.names([tensor]):
                kept = self._kept[name]
                if kept.numel() == support.numel() and int(support.count_nonzero()) > int(kept.count_nonzero()):
                    self.computed.add(name)

    def met(self, operation: Operation, branches: Sequence[Tensor], reach: Tensor) -> None:
        """Note that two tensors are added."""
        found = [None if (branch := self.reach(t)) is None else branch.detach().clone() for t in branches]
        sources = [self._sources.get(self.key(tensor), "the input") for tensor in branches]
        self.sums.append(Sum(operation.module, found, sources, reach))

    def _follow(self, operation: Operation) -> None:
        given = operation.given
        reached = any(self.reach(tensor) is not None for tensor in given)
        found = nonzeros.supports(self, operation, reached=reached)
        reaches = list(tensors(rules.reaches(self, operation))) if reached else []
        if found and not operation.is_view:  # what is zero for all data does not depend on them
            reaches[: len(found)] = [r * s.detach() for r, s in zip(reaches, found, strict=False)]
        forbidden = nonzeros.forbidden(self, operation)
        if operation.in_place and self.forbidden:
            memories = {self.key(result)[0] for result in operation.results}
            self.forbidden = {where: old for where, old in self.forbidden.items() if where[0] not in memories}
        if forbidden is not None:
            self.forbidden[self.key(operation.results[0])] = forbidden
        if found or operation.in_place:
            self._note_supports(operation, found, reached=reached)
        if rest := operation.results[len(reaches) :]:
            self._follow_values(operation, rest)
        for result, reach in zip(operation.results, reaches, strict=False):
            if operation.in_place:
                self._overwrite(result, reach)
            elif not operation.is_view:
                # what is written into one of two tensors is not written into the other
                self._reaches[self.key(result)] = like(result, reach.clone() if self._held(reach, given) else reach)
            elif self.reach(result) is None:
                self._reaches[self.key(result)] = like(result, reach)
            self._sources[self.key(result)] = operation.module

    def _note_supports(self, operation: Operation, found: Sequence[Tensor], *, reached: bool) -> None:
        """Note where results may differ from zero, and of which parameters they are made."""
        names = frozenset[str]() if reached else self.names(operation.given)
        if not found and any(map(self._known_memory, operation.results)):
            found = [torch.ones(result.shape) for result in operation.results]
        for result, support in zip(operation.results, found, strict=False):
            if operation.in_place:
                self._overwrite_support(result, support, reached=reached)
                self._names[self.key(result)[:1]] = names | self.names([result])
            else:
                self._supports[self.key(result)] = like(result, support)
            self._names[self.key(result)] = names
            if rules.moves(operation) and any(self.key(tensor) in self._added for tensor in operation.given):
                self._added.add(self.key(result))

    def _held(self, reach: Tensor, given: Sequence[Tensor]) -> bool:
        """Whether `reach` lies in the memory of one of the reaches that it was made of."""
        memory = reach.untyped_storage()._cdata
        return any(r is not None and r.untyped_storage()._cdata == memory for r in map(self.reach, given))

    def _follow_values(self, operation: Operation, results: Sequence[Tensor]) -> None:
        """Note which of some results without a reach are no constants."""
        # of packed sequences, the lengths are given
        fixed = operation.name in CONSTANTS or operation.name in ("zero", "fill", *PACKED)
        varying = operation.random or (not fixed and not all(self.fixed(tensor) for tensor in operation.given))
        for result in results:
            memory, whole = self.key(result)[:1], result.nbytes == result.untyped_storage().nbytes()
            if varying:
                self._varying.add(memory if operation.in_place else self.key(result))  # what is written, all views see
            elif fixed and operation.in_place and whole:
                self._varying = {one for one in self._varying if one[:1] != memory}

    def _overwrite(self, tensor: Tensor, reach: Tensor) -> None:
        """Let what is written into `tensor` be seen by all that share its memory."""
        if (old := self.reach(tensor)) is None:
            size = tensor.untyped_storage().nbytes() // tensor.element_size()
            self._flats[self.key(tensor)[0]] = torch.zeros(size)
            old = self.reach(tensor)
            assert old is not None
        old.copy_(reach.expand(tensor.shape))

    def _known_memory(self, tensor: Tensor) -> bool:
        """Whether something is known of where the memory of `tensor` differs from zero."""
        memory = self.key(tensor)[0]
        return memory in self._flat_supports or any(where[0] == memory for where in self._supports)

    def _forget_supports(self, memory: int) -> None:
        self._supports = {where: known for where, known in self._supports.items() if where[0] != memory}
        self._flat_supports.pop(memory, None)

    def _overwrite_support(self, tensor: Tensor, support: Tensor, *, reached: bool) -> None:
        """Let what is known of what is written into `tensor` be known of all that share its memory.

        Reaches in that memory are written to as well, so that no gradient may be asked for by them.
        """
        memory = self.key(tensor)[0]
        if (flat := self._flat_supports.get(memory)) is None:
            content = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
            flat = (content != 0).float() if self.fixed(tensor) else torch.ones(content.shape)
            for (storage, offset, shape, stride), known in self._supports.items():
                if storage == memory:
                    flat.as_strided(shape, stride, offset).copy_(known)
        else:
            flat = flat.clone()  # what was multiplied with it before keeps what it was
        flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).copy_(support.expand(tensor.shape))
        self._forget_supports(memory)
        self._flat_supports[memory] = flat.detach() if reached else flat


class Count(Reach):
    """The number of ways in which each element can be reached, for a mask that keeps effective connections only.

    All counts are scaled by 2^-exponent.
    """

    def __init__(self, trace: Trace, parameters: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
        self.exponent = 0
        super().__init__(trace, parameters, kept)

    @property
    def log10(self) -> float | None:
        """Common logarithm of the number of paths from the input to the outputs; None where there is no such number."""
        if not self.countable or self.unknown:
            return None
        count = sum(float(output.double().sum()) for output in self.outputs)
        return math.log10(count) + self.exponent * math.log10(2) if count else -math.inf

    def settle(self, count: Tensor) -> Tensor:
        """`count`; when it becomes large, all counts are scaled."""
        peak = float(count.max()) if count.numel() else 0.0
        if peak > 2.0**90:  # and the largest product after this one stays in range
            shift = math.frexp(peak)[1]
            self.exponent += shift
            memories = {
                reach.untyped_storage()._cdata: reach for reach in (*self._reaches.values(), *self._flats.values())
            }
            for reach in memories.values():
                size = reach.untyped_storage().nbytes() // reach.element_size()
                reach.as_strided((size,), (1,), 0).mul_(2.0**-shift)
            count = count * 2.0**-shift
        return count


def like(tensor: Tensor, reach: Tensor) -> Tensor:
    """`reach` in memory that is laid out as that of `tensor`, so that the same views can be taken of it."""
    if reach.stride() == tensor.stride() or not reach.numel():
        return reach
    return torch.empty_strided(tensor.shape, tensor.stride()).copy_(reach)
