"""Which slices of a network's parameters belong together, because the network computes with them element by element.

Operations that move elements move the numbers of their slices, those that combine two elements tie theirs, and a
product with a weight ties its columns to the numbers that come in and gives those of its rows
(`pai_bench.graph.unit_rules`). What is tied together in the end can only be removed together. An operation that is not
known makes what it takes and gives fixed: a rule that is missing costs sparsity, never correctness.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pai_bench.graph import unit_products as unit_products  # its rules are known by its being imported
from pai_bench.graph.operations import CONSTANTS, DATA_DEPENDENT
from pai_bench.graph.ties import NONE, Array, Ties
from pai_bench.graph.tracing import Operation, Trace, last_uses
from pai_bench.graph.unit_rules import numbers_of_results
from pai_bench.graph.unit_views import note_view
from pai_bench.graph.unit_weights import note_computed

OUTPUT = "the network's output"
"""The reason why outputs are fixed."""


class Units(Ties):
    """The ties of a whole trace, and the label of each slice: equal labels go together."""

    def __init__(self, trace: Trace, modules: Mapping[str, nn.Module]) -> None:
        super().__init__(trace, modules)
        self.carry(trace.input, self.fixed("the network's input"))
        operations = needed(trace)
        for operation, done in zip(operations, last_uses(operations, trace.outputs, trace.memory), strict=True):
            self._follow(operation)
            for memory in done:
                self.forget(memory)
        for output in trace.outputs:
            self.fix(self.numbers(output), OUTPUT)
        self.fix_all_mixed()
        labels = self._divisible()
        self.by_axis = self.labels_of_axes(labels)
        """For each dimension of each parameter and buffer that the network multiplies by or adds: slice -> label."""
        self.why_fixed = self.reasons(labels)
        """Label -> reasons."""
        if branches(trace):
            for label in np.unique(labels).tolist():
                self.why_fixed.setdefault(label, []).append("the network does different things for different data")
        self.of_products = [
            ({int(label) for label in np.unique(labels[numbers[numbers >= 0].numpy()])}, flops)
            for numbers, flops in self.multiplied
        ]
        """For each matrix product of values with values, the labels of these, and its operations."""
        apart = self.labels(apart=True)
        self.apart_by_axis = self.labels_of_axes(apart)
        """As `by_axis`, with labels that tell units apart also where they are fixed."""
        numbers = torch.cat([torch.empty(0, dtype=torch.int32), *(numbers for numbers, _ in self.multiplied)])
        self.multiplied_apart = torch.from_numpy(np.unique(apart[numbers[numbers >= 0].numpy()])).long()
        """The labels, as of `apart_by_axis`, of values that are multiplied with other values in matrix products."""

    def _follow(self, operation: Operation) -> None:
        if operation.is_view:
            note_view(self, operation)
            return
        if note_computed(self, operation):
            return
        numbers: Sequence[Tensor] = []
        if operation.name not in CONSTANTS and any(map(self.concerns, operation.given)):
            numbers = numbers_of_results(self, operation)
        for result, carried in zip(operation.results, numbers, strict=False):
            self.carry(result, carried)
        for result in operation.results[len(numbers) :]:
            if self.depends(result):  # a constant is written there
                self.carry(result, torch.tensor(NONE, dtype=torch.int32))

    def _divisible(self) -> Array:
        """The labels, after all that asks for it was tied so that divided dimensions stay divisible.

        Where whole slabs go together already, as heads do, any may go. Elsewhere the last dimension is the one that
        becomes shorter, as in a shuffle of channels.
        """
        while True:
            labels = self.labels()
            unequal = [numbers for numbers in self.divided if not stays_divisible(labels, numbers)]
            if not unequal:
                return labels
            for numbers in unequal:
                self.tie_along(numbers, *range(numbers.dim() - 1))


def stays_divisible(labels: Array, numbers: Tensor) -> bool:
    """Whether along one dimension of `numbers` all of a slab has one label, but for constants, such as a padding."""
    known = numbers.numpy()
    low, high = (np.where(known < 0, constant, labels[known]) for constant in (len(labels), -1))
    others = (tuple(other for other in range(known.ndim) if other != dim) for dim in range(known.ndim))
    return any(bool((high.max(dims) <= low.min(dims)).all()) for dims in others)


def branches(trace: Trace) -> bool:
    """Whether the network's code learns something of values that depend on the input, after which it may do anything.

    Another path may be taken without some units, or for other data, and only one was seen.
    """
    dependent = {trace.memory(trace.input)}
    for operation in trace.operations:
        if not dependent.isdisjoint(map(trace.memory, operation.given)):
            if operation.name in DATA_DEPENDENT:
                return True
            dependent.update(map(trace.memory, operation.results))
    return False


def needed(trace: Trace) -> list[Operation]:
    """The operations that the outputs are made by: last states, say, that nobody reads, tie nothing."""
    live = set(map(trace.memory, trace.outputs))
    found = []
    for operation in reversed(trace.operations):
        if not live.isdisjoint(map(trace.memory, operation.results)):
            live.update(map(trace.memory, operation.given))
            found.append(operation)
    return found[::-1]
