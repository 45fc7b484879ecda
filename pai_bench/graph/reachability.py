"""Boolean arithmetic over a trace: which values depend on the network's input through kept connections.

An operation on tensors becomes one on their reaches (`pai_bench.graph.state`) that is linear and positive
(`pai_bench.graph.rules`). The gradient of the outputs' reach is positive for a connection exactly if it lies on a path
from an input to an output.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pai_bench.graph import nonzeros, rules
from pai_bench.graph import products as products  # imported to register its rules
from pai_bench.graph.operations import CONSTANTS, PACKED
from pai_bench.graph.state import ReachState, like
from pai_bench.graph.tracing import Operation, Trace, key, tensors
from pai_bench.support.torch_internals import storage_id


class Reach(ReachState):
    """The reaches of the tensors of a whole trace; `parameters` and `kept` as of `ReachState`."""

    def __init__(self, trace: Trace, parameters: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
        super().__init__(trace, parameters, kept)
        with torch.set_grad_enabled(any(factor.requires_grad for factor in kept.values())):
            self._reaches[key(trace.input)] = like(trace.input, torch.ones(trace.input.shape))
            for operation, done in zip(trace.operations, trace.last_uses, strict=True):
                self._follow(operation)
                for where in done:
                    self._reaches.pop(where, None)
        self.outputs = [reach for tensor in trace.outputs if (reach := self.reach(tensor)) is not None]

    def _follow(self, operation: Operation) -> None:
        inputs = operation.given
        reached = any(self.reach(tensor) is not None for tensor in inputs)
        supports = nonzeros.nonzeros_of(self, operation, reached=reached)
        reaches = list(tensors(rules.reaches(self, operation))) if reached else []
        if supports and not operation.is_view:  # what is zero for all data does not depend on them
            reaches[: len(supports)] = [r * s.detach() for r, s in zip(reaches, supports, strict=False)]
        always_neg_inf = nonzeros.always_neg_inf(self, operation)
        if operation.in_place and self.always_neg_inf:
            memories = {self.key(result)[0] for result in operation.results}
            self.always_neg_inf = {where: old for where, old in self.always_neg_inf.items() if where[0] not in memories}
        if always_neg_inf is not None:
            self.always_neg_inf[self.key(operation.results[0])] = always_neg_inf
        if supports or operation.in_place:
            self._note_nonzeros(operation, supports, reached=reached)
        if rest := operation.results[len(reaches) :]:
            self._follow_values(operation, rest)
        for result, reach in zip(operation.results, reaches, strict=False):
            if operation.in_place:
                self._overwrite(result, reach)
            elif not operation.is_view:
                # what is written into one of two tensors is not written into the other
                self._reaches[self.key(result)] = like(result, reach.clone() if self._held(reach, inputs) else reach)
            elif self.reach(result) is None:
                self._reaches[self.key(result)] = like(result, reach)
            self._sources[self.key(result)] = operation.module

    def _note_nonzeros(self, operation: Operation, supports: Sequence[Tensor], *, reached: bool) -> None:
        """Note where results may differ from zero, and of which parameters they are made."""
        names = frozenset[str]() if reached else self.names(operation.given)
        if not supports and any(map(self._known_memory, operation.results)):
            supports = [torch.ones(result.shape) for result in operation.results]
        for result, support in zip(operation.results, supports, strict=False):
            if operation.in_place:
                self._overwrite_nonzero(result, support, reached=reached)
                self._names[self.key(result)[:1]] = names | self.names([result])
            else:
                self._nonzeros[self.key(result)] = like(result, support)
            self._names[self.key(result)] = names
            if rules.moves(operation) and any(self.key(tensor) in self._added for tensor in operation.given):
                self._added.add(self.key(result))

    def _held(self, reach: Tensor, inputs: Sequence[Tensor]) -> bool:
        """Whether `reach` lies in the memory of one of the reaches that it was made of."""
        memory = storage_id(reach.untyped_storage())
        return any(r is not None and storage_id(r.untyped_storage()) == memory for r in map(self.reach, inputs))

    def _follow_values(self, operation: Operation, results: Sequence[Tensor]) -> None:
        """Note which of some results without a reach are no constants."""
        # the lengths of packed sequences are given
        fixed = operation.name in CONSTANTS or operation.name in ("zero", "fill", *PACKED)
        varying = operation.random or (not fixed and not all(self.fixed(tensor) for tensor in operation.given))
        for result in results:
            memory, whole = self.key(result)[:1], result.nbytes == result.untyped_storage().nbytes()
            if varying:
                self._varying.add(memory if operation.in_place else self.key(result))  # what is written, all views see
            elif fixed and operation.in_place and whole:
                self._varying = {where for where in self._varying if where[:1] != memory}

    def _overwrite(self, tensor: Tensor, reach: Tensor) -> None:
        """Write `reach` for `tensor` and all tensors that share its memory."""
        memory = self.key(tensor)[0]
        if self.reach(tensor) is None and memory not in self._flats:
            size = tensor.untyped_storage().nbytes() // tensor.element_size()
            self._flats[memory], self._flats_written[memory] = torch.zeros(size), torch.zeros(size, dtype=torch.bool)
        if (written := self._flats_written.get(memory)) is not None:
            written.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).fill_(True)
        old = self.reach(tensor)
        assert old is not None
        old.copy_(reach.expand(tensor.shape))

    def _known_memory(self, tensor: Tensor) -> bool:
        """Whether something is known of where the memory of `tensor` differs from zero."""
        memory = self.key(tensor)[0]
        return memory in self._flat_nonzeros or any(where[0] == memory for where in self._nonzeros)

    def _forget_nonzeros(self, memory: int) -> None:
        self._nonzeros = {where: known for where, known in self._nonzeros.items() if where[0] != memory}
        self._flat_nonzeros.pop(memory, None)

    def _overwrite_nonzero(self, tensor: Tensor, support: Tensor, *, reached: bool) -> None:
        """Write `support` for `tensor` and all tensors that share its memory.

        Reaches in that memory are written to as well, so their supports must not require gradients.
        """
        memory = self.key(tensor)[0]
        if (flat := self._flat_nonzeros.get(memory)) is None:
            content = torch.tensor([], dtype=tensor.dtype).set_(tensor.untyped_storage())
            flat = (content != 0).float() if self.fixed(tensor) else torch.ones(content.shape)
            for (storage, offset, shape, stride), known in self._nonzeros.items():
                if storage == memory:
                    flat.as_strided(shape, stride, offset).copy_(known)
        else:
            flat = flat.clone()  # earlier products keep the former values
        flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).copy_(support.expand(tensor.shape))
        self._forget_nonzeros(memory)
        self._flat_nonzeros[memory] = flat.detach() if reached else flat


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
        if not self.countable:
            return None
        count = sum(float(output.double().sum()) for output in self.outputs)
        return math.log10(count) + self.exponent * math.log10(2) if count else -math.inf

    def binarize(self, count: Tensor) -> Tensor:
        """`count`; when it becomes large, all counts are scaled."""
        peak = float(count.max()) if count.numel() else 0.0
        if peak > 2.0**90:  # and the largest product after this one stays in range
            shift = math.frexp(peak)[1]
            self.exponent += shift
            memories = {
                storage_id(reach.untyped_storage()): reach for reach in (*self._reaches.values(), *self._flats.values())
            }
            for reach in memories.values():
                size = reach.untyped_storage().nbytes() // reach.element_size()
                reach.as_strided((size,), (1,), 0).mul_(2.0**-shift)
            count = count * 2.0**-shift
        return count
