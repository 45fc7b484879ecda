"""Boolean arithmetic over a traced network: which values depend on its input, through kept connections.

Every tensor of a trace has a **reach** of its own shape: 1 where it depends on the input, 0 elsewhere. An operation on
tensors becomes one on reaches that is linear and positive, after which `settle` makes 0 or 1 of every count. Gradients
are settled the same way on their way back, and say what the outputs depend on. So no depth or width overflows, and
the gradient of a connection is positive exactly if the connection lies on a path from an input to an output.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pai_bench.pruning import rules, supports
from pai_bench.pruning.operations import CONSTANTS
from pai_bench.pruning.tracing import Key, Operation, Trace, key, tensors


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
        self._has_gates = trace.has_gates
        self._reaches: dict[Key, Tensor] = {}
        self._flats: dict[int, Tensor] = {}
        one = torch.ones(())
        self._supports = {key(p): like(p, kept.get(name, one).expand(p.shape)) for name, p in parameters.items()}
        self._flat_supports: dict[int, Tensor] = {}  # of whole memories that are written to in parts
        self._added = set(self._supports)  # parameters, and what is moved of them: those that may be biases
        self._names = {key(parameters[name]): frozenset([name]) for name in kept}
        self._drawn: set[Key] = set()  # keys, and for what is written in place, memories
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

        What depends on the input passes where something is known of it, else everything, and so does what is drawn at
        random.
        """
        if (support := self.support(tensor)) is not None:
            return support
        if self.reach(tensor) is not None or self.drawn(tensor):
            return torch.ones(tensor.shape)
        return (tensor != 0).float()

    def drawn(self, tensor: Tensor) -> bool:
        """Whether the values of `tensor` are drawn at random, with no element that is zero for all draws."""
        where = self.key(tensor)
        return where in self._drawn or where[:1] in self._drawn

    def fixed(self, tensor: Tensor) -> bool:
        """Whether the values of `tensor` hold for all data and all draws."""
        return self.reach(tensor) is None and not self.drawn(tensor)

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
        self._follow_chance(operation)
        reached = any(self.reach(tensor) is not None for tensor in given)
        known = any(self.support(tensor) is not None for tensor in given) or supports.makes_zeros(operation)
        found = supports.supports(self, operation, reached=reached) if known else None
        if reached and found is None and known and self._has_gates:
            with torch.no_grad():  # what makes a factor of a path is on no path by that
                found = supports.of_dependent(self, operation)
        reaches = rules.reaches(self, operation) if reached else ()
        if (forbidden := supports.forbidden(self, operation)) is not None:
            self.forbidden[self.key(operation.results[0])] = forbidden
        for result, reach in zip(operation.results, tensors(reaches), strict=False):
            if operation.in_place:
                self._overwrite(result, reach)
            elif not operation.is_view:
                # what is written into one of two tensors is not written into the other
                self._reaches[self.key(result)] = like(result, reach.clone() if self._held(reach, given) else reach)
            elif self.reach(result) is None:
                self._reaches[self.key(result)] = like(result, reach)
            self._sources[self.key(result)] = operation.module
        for result, support in zip(operation.results, tensors(found), strict=False):
            names = frozenset[str]() if reached else self.names(given)
            if operation.in_place and not reached:
                self._overwrite_support(result, support)
                self._names[self.key(result)[:1]] = names | self.names([result])
            else:
                self._supports[self.key(result)] = like(result, support)
            self._names[self.key(result)] = names
            if rules.moves(operation) and any(self.key(tensor) in self._added for tensor in given):
                self._added.add(self.key(result))

    def _held(self, reach: Tensor, given: Sequence[Tensor]) -> bool:
        """Whether `reach` lies in the memory of one of the reaches that it was made of."""
        memory = reach.untyped_storage()._cdata
        return any(r is not None and r.untyped_storage()._cdata == memory for r in map(self.reach, given))

    def _follow_chance(self, operation: Operation) -> None:
        """Note which results are drawn at random."""
        fixed = operation.name in CONSTANTS or operation.name in ("zero", "fill")
        drawn = operation.random or (not fixed and any(self.drawn(tensor) for tensor in operation.given))
        for result in operation.results:
            memory, whole = self.key(result)[:1], result.nbytes == result.untyped_storage().nbytes()
            if drawn:
                self._drawn.add(memory if operation.in_place else self.key(result))  # what is written, all views see
            elif fixed and operation.in_place and whole:
                self._drawn = {one for one in self._drawn if one[:1] != memory}

    def _overwrite(self, tensor: Tensor, reach: Tensor) -> None:
        """Let what is written into `tensor` be seen by all that share its memory."""
        if (old := self.reach(tensor)) is None:
            size = tensor.untyped_storage().nbytes() // tensor.element_size()
            self._flats[self.key(tensor)[0]] = torch.zeros(size)
            old = self.reach(tensor)
            assert old is not None
        old.copy_(reach.expand(tensor.shape))
        self._forget_supports(self.key(tensor)[0])

    def _forget_supports(self, memory: int) -> None:
        self._supports = {where: known for where, known in self._supports.items() if where[0] != memory}
        self._flat_supports.pop(memory, None)

    def _overwrite_support(self, tensor: Tensor, support: Tensor) -> None:
        """Let what is known of what is written into `tensor` be known of all that share its memory."""
        memory = self.key(tensor)[0]
        if (flat := self._flat_supports.get(memory)) is None:
            content = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
            flat = torch.ones(content.shape) if self.drawn(tensor) else (content != 0).float()
            for (storage, offset, shape, stride), known in self._supports.items():
                if storage == memory:
                    flat.as_strided(shape, stride, offset).copy_(known)
        else:
            flat = flat.clone()  # what was multiplied with it before keeps what it was
        flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).copy_(support.expand(tensor.shape))
        self._forget_supports(memory)
        self._flat_supports[memory] = flat


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
