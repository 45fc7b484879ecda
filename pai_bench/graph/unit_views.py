"""What views of values with units ask of them: equal parts stay equal, and what the code counts stays."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from pai_bench.graph.operations import SPLITS
from pai_bench.graph.ties import Ties, differ
from pai_bench.graph.tracing import Operation


def note_view(ties: Ties, operation: Operation) -> None:
    """Tie what a view asks to stay, and note which dimensions it divides."""
    source, name = operation.given[0], operation.name
    numbers = ties.numbers(source) if ties.depends(source) else None
    if numbers is None:
        return
    if operation.results[0].element_size() != source.element_size():
        ties.fix_memory(source, f"{operation} sees numbers of another size in the same memory")
        return
    if name in (*SPLITS, "unsafe_chunk", "chunk"):
        dim, count = operation.arguments["dim"] % numbers.dim(), len(operation.results)
        if count > 1 and differ(numbers, dim):
            equal = len({result.shape[dim] for result in operation.results}) == 1
            ties.tie_along(numbers.unflatten(dim, (count, -1)) if equal else numbers, dim)
    elif name in ("select", "slice", "narrow", "unbind", "diagonal", "unfold", "as_strided"):
        for dim in dimensions_in_parts(operation, numbers):
            ties.tie_along(numbers, dim)
    elif name in ("view", "_unsafe_view", "reshape", "unflatten", "_reshape_alias"):
        ties.divided += divided(numbers, operation.results[0].shape)


def dimensions_in_parts(operation: Operation, numbers: Tensor) -> list[int]:
    """The dimensions of units of which a view takes a part, so that the code counts them."""
    if operation.name in ("diagonal", "unfold", "as_strided"):
        return [dim for dim in range(numbers.dim()) if differ(numbers, dim)]
    dim = operation.arguments.get("dim", 0)
    if operation.name == "slice" and operation.results[0].shape[dim] == numbers.shape[dim]:
        return []
    return [dim] if differ(numbers, dim) else []


def divided(numbers: Tensor, shape: Sequence[int]) -> Iterator[Tensor]:
    """The numbers along each dimension that a view to a shape divides, in the shape of its parts (a, b, ...)."""
    old, new = list(numbers.shape), list(shape)
    i = j = 0
    while i < len(old) and j < len(new):
        first, second, left, right = i, j, old[i], new[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        sizes = [size for size in new[second:j] if size > 1]
        if len(sizes) > 1 and [size for size in old[first:i] if size > 1] != sizes:
            part = numbers[tuple(slice(None) if first <= dim < i else 0 for dim in range(numbers.dim()))]
            if bool((part != part.flatten()[0]).any()):
                yield part.reshape(sizes)
