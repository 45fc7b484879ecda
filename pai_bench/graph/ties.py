"""Which slices of a network's parameters belong together, as far as a trace was followed, and what its rules ask of it.

Every row and every column of a parameter has a number, and every element of every tensor of a trace carries that of the
slice that it was made by: the row of the weight that computes a channel, say. What is combined element by element is
tied; what is tied to a number with a reason is fixed.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from pai_bench.graph.tracing import Trace
from pai_bench.support.torch_internals import storage_id

NONE = -1
"""The number of a constant, which is in no slice."""

Array = np.ndarray[Any, Any]


class Axis(NamedTuple):
    """A dimension of a parameter or buffer, along which it consists of slices; or the padding of a module."""

    name: str
    dim: int


class Run(NamedTuple):
    """What a dimension of a view of a parameter runs along: a dimension of the parameter, at these places."""

    dim: int
    places: Tensor


class Stored(NamedTuple):
    """A parameter or buffer, or what is computed from one element by element."""

    name: str
    tensor: Tensor
    """The parameter or buffer."""
    values: Tensor
    """What lies in this memory."""
    runs: Sequence[Run | None]
    """What each dimension of the values runs along."""
    keeps_zeros: bool = True
    """Whether the values are zero where the parameter is."""


class Ties:
    """The numbers of all slices, those that the tensors of a trace carry, and what of them is tied.

    Numbers belong to memory, so that a view has those of what it shows, and what is written in place is seen by all.
    """

    def __init__(self, trace: Trace, modules: Mapping[str, nn.Module]) -> None:
        self.modules = modules
        self.roots: set[Axis] = set()
        """Axes whose slices make features: rows of weights."""
        self.consumers: set[Axis] = set()
        """Axes whose slices read features: columns of weights."""
        self.uses = Counter[str]()
        """How often each weight is multiplied by."""
        self.biases: dict[Axis, Axis] = {}
        """What is added to the features of a root at once."""
        self.kept_whole: set[Axis] = set()
        """Rows of parameters that are used element by element, or that weights are computed from."""
        self.multiplied: list[tuple[Tensor, int]] = []
        """Numbers of values that are multiplied with other values in a matrix product, such as heads of attention, and
        the operations of that product."""
        self.divided: list[Tensor] = []
        """Numbers along dimensions that a view divides into several, in the shape of those."""
        self.memory, self._count = trace.memory, 0
        self._first: dict[Axis, int] = {}
        self._sizes: dict[Axis, int] = {}
        self._reasons: list[tuple[int, str]] = []
        self._pairs: list[Array] = []
        self._mixed: list[tuple[Tensor, tuple[int, ...], str]] = []
        self._flats: dict[int, Tensor] = {}
        network = modules[""]
        self._stored = {
            storage_id(tensor.untyped_storage()): Stored(name, tensor, tensor, every_dimension(tensor))
            for name, tensor in (*network.named_parameters(), *network.named_buffers())
            if 0 not in tensor.stride() or tensor.numel() < 2  # one that was expanded is a constant
        }

    # What tensors carry

    def stored(self, tensor: Any) -> Stored | None:
        """The parameter or buffer that a tensor is, or is a view of."""
        return self._stored.get(self.memory(tensor)) if isinstance(tensor, Tensor) else None

    def depends(self, tensor: Any) -> bool:
        """Whether a tensor was computed, and has numbers."""
        return isinstance(tensor, Tensor) and self.memory(tensor) in self._flats

    def concerns(self, tensor: Tensor) -> bool:
        """Whether a tensor has numbers, or is a parameter or buffer."""
        stored = self.stored(tensor)
        return self.depends(tensor) or (stored is not None and stored.tensor.numel() > 1)

    def store(self, tensor: Tensor, stored: Stored) -> None:
        """Let the memory of a tensor be taken for that of a parameter or buffer."""
        self._stored[self.memory(tensor)] = stored

    def numbers(self, tensor: Any) -> Tensor | None:
        """What the elements of a tensor carry; None if all of them are constants."""
        if self.depends(tensor):
            return self._view(tensor)
        return None if (stored := self.stored(tensor)) is None else self._as_value(stored, tensor)

    def carry(self, tensor: Tensor, numbers: Tensor) -> None:
        """Let the elements of a tensor, and of all that share its memory, carry these numbers."""
        if (stored := self.stored(tensor)) is not None:
            self.fix(numbers, f"{stored.name!r} is written to")
            if stored.values is not stored.tensor:
                self.whole(tensor)
            return
        if (memory := self.memory(tensor)) not in self._flats:
            size = tensor.untyped_storage().nbytes() // tensor.element_size()
            self._flats[memory] = torch.full((size,), NONE, dtype=torch.int32)
        self._view(tensor).copy_(numbers.expand(tensor.shape))

    def fix_memory(self, tensor: Tensor, reason: str) -> None:
        """Fix all that shares the memory of a tensor, and what it will be seen as."""
        memory = self.memory(tensor)
        self.fix(self._flats[memory], reason)
        self._flats[memory] = torch.full(
            (tensor.untyped_storage().nbytes(),), int(self.fixed(reason)), dtype=torch.int32
        )

    def forget(self, memory: int) -> None:
        """Give up the numbers of a memory that nothing reads any more."""
        self._flats.pop(memory, None)

    def _view(self, tensor: Tensor) -> Tensor:
        flat = self._flats[self.memory(tensor)]
        return flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    # Slices of parameters

    def slices(self, stored: Stored, dim: int) -> Tensor:
        """The numbers of the slices of a parameter along one of its dimensions."""
        return self.numbered(Axis(stored.name, dim), stored.tensor.shape[dim])

    def numbered(self, axis: Axis, size: int) -> Tensor:
        """The numbers of the slices along an axis of that size."""
        if axis not in self._first:
            self._first[axis], self._sizes[axis], self._count = self._count, size, self._count + size
        return torch.arange(self._first[axis], self._first[axis] + size, dtype=torch.int32)

    def runs(self, tensor: Tensor) -> list[Run | None] | None:
        """What each dimension of a view of a parameter runs along; None for a dimension of one place.

        None for all if a dimension runs along several of the parameter, as after flattening.
        """
        if (stored := self.stored(tensor)) is None:
            return None
        start = int(tensor.storage_offset()) - int(stored.values.storage_offset())
        found: list[Run | None] = []
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
            if size == 1 or stride == 0:
                found.append(None)
                continue
            places = coordinates(stored.values, start + stride * torch.arange(size))
            moving = [dim for dim, place in enumerate(places) if bool((place != place[0]).any())]
            if len(moving) != 1:
                return None
            run = stored.runs[moving[0]]
            found.append(None if run is None else Run(run.dim, run.places[places[moving[0]]]))
        return found

    def _as_value(self, stored: Stored, tensor: Tensor) -> Tensor | None:
        """The numbers of the slices that the elements of a parameter, taken as values, lie in."""
        parameter = stored.tensor
        if parameter.numel() == 1:
            return None
        long = [dim for dim, size in enumerate(parameter.shape) if size > 1]
        if len(long) != 1:
            return self.whole(tensor)
        numbers = torch.empty_strided(parameter.shape, parameter.stride(), dtype=torch.int32)
        numbers.copy_(self.slices(stored, long[0]).view(-1, *(1,) * (parameter.dim() - 1 - long[0])))
        offset = int(tensor.storage_offset()) - int(parameter.storage_offset())
        return numbers.as_strided(tensor.shape, tensor.stride(), offset)

    def whole(self, tensor: Tensor) -> Tensor:
        """Numbers for a parameter of several dimensions that is taken as a value: it stays whole."""
        stored = self.stored(tensor)
        assert stored is not None
        if stored.tensor.dim():
            self.kept_whole.add(Axis(stored.name, 0))
        number = self.fixed(f"{stored.name!r} is used element by element, or weights are computed from it")
        for dim in range(stored.tensor.dim()):
            self.tie(self.slices(stored, dim), number)
        return number.expand(tensor.shape)

    def note_product(self, name: str, row: int, column: int) -> None:
        """Note a product with a weight, the dimension of its rows and that of its columns."""
        self.roots.add(Axis(name, row))
        self.consumers.add(Axis(name, column))
        self.uses[name] += 1

    # What is tied

    def tie(self, first: Tensor | None, second: Tensor | None) -> None:
        """Tie the numbers of two tensors that are broadcast together, element by element, but for constants."""
        if first is None or second is None:
            return
        pairs = torch.stack([*without_repeats(*torch.broadcast_tensors(first, second))]).reshape(2, -1)
        pairs = pairs[:, (pairs[0] != pairs[1]) & (pairs.amin(0) >= 0)]
        if pairs.numel():
            self._pairs.append(np.unique(pairs[0].numpy().astype(np.int64) << 32 | pairs[1].numpy()))

    def tie_along(self, numbers: Tensor, *dims: int) -> Tensor:
        """Tie what lies along some dimensions, but for constants; one number for each place of the others."""
        dims = tuple(sorted(dim % numbers.dim() for dim in dims))
        if not dims or not numbers.numel():
            return numbers
        largest = numbers.amax(dims, keepdim=True)  # of numbers and constants, a number
        self.tie(numbers, largest)
        return largest.squeeze(dims)

    def fixed(self, reason: str) -> Tensor:
        """A number for what cannot be removed, of shape ()."""
        number, self._count = self._count, self._count + 1
        self._reasons.append((number, reason))
        return torch.tensor(number, dtype=torch.int32)

    def is_fixed(self, numbers: Tensor) -> bool:
        """Whether numbers are of what cannot be removed, and not of slices."""
        return bool(torch.isin(numbers.unique(), torch.tensor([number for number, _ in self._reasons])).any())

    def fix(self, numbers: Tensor | None, reason: str) -> None:
        """Let nothing with one of these numbers be removed."""
        self.tie(numbers, self.fixed(reason))

    def fix_mixed(self, numbers: Tensor, dims: Sequence[int], reason: str) -> None:
        """Fix what is not of one unit along some dimensions, when all ties are known: a statistic is taken over it."""
        dims = tuple(dim % numbers.dim() for dim in dims) if numbers.dim() else ()
        if numbers.numel():
            numbers, _ = without_repeats(numbers, numbers)
            self._mixed.append((numbers.clone(), dims, reason))

    def fix_all_mixed(self) -> None:
        """Do so for all that `fix_mixed` has noted."""
        labels = torch.from_numpy(np.append(self.labels(), np.iinfo(np.int32).max))
        for numbers, dims, reason in self._mixed:
            of = labels[torch.where(numbers < 0, len(labels) - 1, numbers).long()]
            smallest = of.amin(dims, keepdim=True)
            largest = torch.where(numbers < 0, -1, of).amax(dims, keepdim=True)
            self.fix(numbers[((of != smallest) | (largest != smallest)) & (numbers >= 0)], reason)

    def labels(self, *, apart: bool = False) -> Array:
        """For each number the label of all that are tied to it.

        `apart`: what is tied by nothing but a reason to stay has labels of its own.
        """
        pairs = np.concatenate([np.zeros(0, dtype=np.int64), *self._pairs])
        places = (pairs >> 32).astype(np.int32), (pairs & 0xFFFFFFFF).astype(np.int32)
        if apart:
            free = np.ones(self._count, dtype=bool)
            free[[number for number, _ in self._reasons]] = False
            both = free[places[0]] & free[places[1]]
            pairs, places = pairs[both], (places[0][both], places[1][both])
        graph = coo_matrix((np.ones(len(pairs), dtype=bool), places), shape=(self._count, self._count))
        labels: Array = connected_components(graph, directed=False)[1]
        return labels

    def labels_of_axes(self, labels: Array) -> dict[Axis, Tensor]:
        """For each axis the labels of its slices."""
        parts = {axis: labels[first : first + self._sizes[axis]] for axis, first in self._first.items()}
        return {axis: torch.from_numpy(part).long() for axis, part in parts.items()}

    def reasons(self, labels: Array) -> dict[int, list[str]]:
        """Label -> why what has it is fixed."""
        found: dict[int, dict[str, None]] = {}
        for number, reason in self._reasons:
            found.setdefault(int(labels[number]), {})[reason] = None
        return {label: list(reasons) for label, reasons in found.items()}


def every_dimension(parameter: Tensor) -> list[Run | None]:
    """What the dimensions of a parameter run along: each along itself."""
    return [Run(dim, torch.arange(size)) for dim, size in enumerate(parameter.shape)]


def coordinates(parameter: Tensor, offsets: Tensor) -> list[Tensor]:
    """The indices, dimension by dimension, of the elements of a parameter at some places in its memory."""
    found = [torch.zeros_like(offsets)] * parameter.dim()
    for dim in sorted(range(parameter.dim()), key=parameter.stride, reverse=True):
        if parameter.shape[dim] > 1:
            found[dim], offsets = offsets // parameter.stride(dim), offsets % parameter.stride(dim)
    return found


def differ(numbers: Tensor, dim: int) -> bool:
    """Whether numbers, constants among them, are not the same all along a dimension."""
    if -dim > numbers.dim() or numbers.shape[dim] < 2:
        return False
    return bool((numbers != numbers.narrow(dim, 0, 1)).any())


def broadcast_over(few: Tensor, many: Tensor, *, copied: bool = False) -> bool:
    """Whether each unit of `few` meets several of `many` that have no places of their own in it.

    `copied`: what is the same all along a dimension of `few` was broadcast there before, and copied.
    """
    first, second = without_repeats(*torch.broadcast_tensors(few, many))
    found = False
    for dim in range(-first.dim(), 0):
        placed = -dim <= few.dim() and few.shape[dim] > 1 and few.stride(dim) != 0
        units, others = differ(first, dim), differ(second, dim)
        if (units if copied else placed) and others:
            return False
        if units and -dim <= many.dim() and many.shape[dim] > 1:
            return False
        found |= others
    return found


def without_repeats(first: Tensor, second: Tensor) -> Iterator[Tensor]:
    """Two tensors without the dimensions along which neither changes, as positions are mostly."""
    for dim in range(first.dim()):
        if first.shape[dim] > 1 and not differ(first, dim) and not differ(second, dim):
            first, second = first.narrow(dim, 0, 1), second.narrow(dim, 0, 1)
    yield from (first, second)
