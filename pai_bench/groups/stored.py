"""Groups, and which of them are kept, as JSON: what files of masks and of smaller networks say in their metadata."""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor

from pai_bench.graph.ties import Axis
from pai_bench.graph.unit_rules import EXTRA_CHANNELS

GROUPS = "groups"
"""The key of a file's metadata that holds the groups, and which are kept."""

SHRUNK = "shrunk"
"""The key that only files of smaller networks have: what the network is made from, and the versions, as JSON."""


class Stored(msgspec.Struct, frozen=True):
    """The fields of `Groups` in JSON; an axis is ``[name, dim]``."""

    kept: list[int]
    """The numbers of the groups that are kept."""
    numbers: list[list[int]]
    """The group of every slice of an axis, -1 where it is fixed; many axes have the same."""
    axes: list[tuple[Axis, int]]
    """The axes that have groups, and which of `numbers` are theirs."""
    roots: list[Axis]
    consumers: list[Axis]
    biases: list[tuple[Axis, Axis]]
    gated: list[int]
    fixed: list[tuple[Axis, list[str]]]
    shapes: dict[str, list[int]]
    flops: dict[str, float]
    products: list[tuple[list[int], float]]
    other_flops: float
    rows_per_unit: list[tuple[Axis, int]]


def encode(groups: Mapping[str, Any], kept: Tensor) -> str:
    """The JSON of the fields of `Groups`, and of which groups are kept (bool)."""
    numbers: dict[tuple[int, ...], int] = {}
    axes = [(axis, numbers.setdefault(tuple(of.tolist()), len(numbers))) for axis, of in groups["by_axis"].items()]
    stored = Stored(
        kept=kept.nonzero().flatten().tolist(),
        numbers=[list(of) for of in numbers],
        axes=axes,
        roots=list(groups["roots"]),
        consumers=sorted(groups["consumers"]),
        biases=list(groups["biases"].items()),
        gated=groups["gated"].nonzero().flatten().tolist(),
        fixed=[(axis, list(reasons)) for axis, reasons in groups["fixed"].items()],
        shapes={name: list(shape) for name, shape in groups["shapes"].items()},
        flops=dict(groups["flops"]),
        products=[(of.tolist(), flops) for of, flops in groups["products"]],
        other_flops=groups["other_flops"],
        rows_per_unit=list(groups["rows_per_unit"].items()),
    )
    return json.dumps(msgspec.to_builtins(stored))


def decode(text: str) -> tuple[dict[str, Any], Tensor]:
    """The fields of `Groups`, and which groups are kept (bool), of what `encode` wrote; ValueError for other JSON."""
    try:
        stored = msgspec.json.decode(text, type=Stored)
    except (msgspec.MsgspecError, RecursionError) as error:
        if "missing required field `rows_per_unit`" in str(error):
            raise ValueError("an earlier version of pai-bench has written it; prune again") from error
        raise ValueError(f"its groups are damaged ({error})") from error
    count, numbers = check(stored), [integers(of) for of in stored.numbers]
    fields = {
        "count": count,
        "by_axis": {axis: numbers[which] for axis, which in stored.axes},
        "roots": tuple(stored.roots),
        "consumers": frozenset(stored.consumers),
        "biases": dict(stored.biases),
        "gated": members(stored.gated, count),
        "fixed": {axis: tuple(reasons) for axis, reasons in stored.fixed},
        "shapes": {name: torch.Size(shape) for name, shape in stored.shapes.items()},
        "flops": stored.flops,
        "products": tuple((integers(of), flops) for of, flops in stored.products),
        "other_flops": stored.other_flops,
        "rows_per_unit": dict(stored.rows_per_unit),
    }
    return fields, members(stored.kept, count)


def check(stored: Stored) -> int:
    """The number of groups; ValueError for fields that contradict each other."""
    shapes, lengths = stored.shapes, list(map(len, stored.numbers))
    for axis, which in stored.axes:
        if not 0 <= which < len(lengths) or length(shapes, axis) not in (lengths[which], None):
            raise ValueError(f"its groups are damaged (dimension {axis.dim} of {axis.name!r})")
    for axis in (
        *stored.roots,
        *stored.consumers,
        *itertools.chain(*stored.biases),
        *(axis for axis, _ in (*stored.fixed, *stored.rows_per_unit)),
    ):
        length(shapes, axis)
    found = {number for numbers in stored.numbers for number in numbers} - {-1}
    named = {*found, *stored.kept, *stored.gated, *(number for numbers, _ in stored.products for number in numbers)}
    if any(rows < 1 for _, rows in stored.rows_per_unit):
        raise ValueError("its groups are damaged (a unit without rows)")
    sizes = (size for shape in shapes.values() for size in shape)
    if named - set(range(len(found))) or stored.flops.keys() - shapes.keys() or min(sizes, default=0) < 0:
        raise ValueError("its groups are damaged (a number or a name that stands for nothing)")
    return len(found)


def length(shapes: Mapping[str, Sequence[int]], axis: Axis) -> int | None:
    """The number of slices of an axis; None of the padding of a module, whose shape is nowhere stored."""
    shape = shapes.get(axis.name, [])
    if axis.name not in shapes and axis.name.endswith(f".{EXTRA_CHANNELS}") and axis.dim == 0:
        return None
    if not 0 <= axis.dim < len(shape):
        raise ValueError(f"its groups are damaged (dimension {axis.dim} of {axis.name!r})")
    return shape[axis.dim]


def integers(numbers: Iterable[int]) -> Tensor:
    """Numbers as a tensor."""
    return torch.tensor(list(numbers), dtype=torch.int64)


def members(numbers: Iterable[int], count: int) -> Tensor:
    """Which of `count` groups have one of these numbers (bool)."""
    found = torch.zeros(count, dtype=torch.bool)
    found[integers(numbers)] = True
    return found
