"""What masks keep: of each layer, together with others, and of the inputs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from numpy.typing import NDArray

from pai_bench.report.figures.style import canvas, literal, plain, shorten
from pai_bench.report.similarity import Similarity, layout
from pai_bench.report.summary import Comparison
from pai_bench.results import Record
from pai_bench.results.bits import PLACES, unpack

WIDTH = 6.8
"""Inches that a title needs."""

GAP = 3
"""Pixels between pictures."""

MOST_NUMBERS = 20
"""Layers up to which a heat map has its numbers written into it."""

SIDE = 1000
"""Points that a picture of pixels has along a side at least: viewers blur between those of a smaller one."""

WITHIN: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7, "in_layout": False}
"""Text within a field, which needs no room of its own."""


def densities(comparison: Comparison, sparsity: float, records: Mapping[str, Record], path: Path) -> bool:
    """A heat map of the density of each layer, from the input down, by criterion, at one sparsity; mean over seeds.

    Whether there is something to draw.
    """
    rows = comparison.rows[(comparison.rows.sparsity == sparsity) & (comparison.rows.status != "failed")]
    columns = {}
    names: list[str] = []
    layouts: set[object] = set()
    for method in comparison.methods:
        same = [records[i].pruning.layers for i in rows[rows.method == method].identity if records[i].pruning.layers]
        layouts |= {layout(records[i]) for i in rows[rows.method == method].identity if records[i].pruning.layers}
        if len(layouts) > 1:
            return False
        if same:
            names = [layer.name for layer in same[0]]
            columns[method] = np.mean([[layer.kept / layer.size for layer in layers] for layers in same], axis=0)
    if not columns:
        return False
    table = np.array(list(columns.values())).T
    with canvas(path, max(WIDTH, 1.8 + 0.75 * len(columns)), 1.5 + 0.26 * len(names)) as figure:
        axes = figure.subplots()
        least = table[table > 0].min() if (table > 0).any() else 0.1
        image = axes.imshow(
            np.ma.masked_equal(table, 0), norm=LogNorm(min(least, 0.99), 1), cmap="viridis", aspect="auto"
        )
        axes.set_facecolor("#dddddd")
        axes.set_xticks(range(len(columns)), [literal(name) for name in columns], rotation=30, ha="right", fontsize=8)
        axes.set_yticks(range(len(names)), shorten(names), fontsize=8)
        if len(names) <= MOST_NUMBERS:
            write_numbers(axes, table, middle=float(np.sqrt(least)))
        plain(figure.colorbar(image, ax=axes, use_gridspec=False, label="density").ax.yaxis)
        axes.set_title(literal(f"{comparison.title}, sparsity {sparsity:.10g}: % kept (grey: none)"), fontsize=10)
    return True


def write_numbers(axes: Axes, table: NDArray[np.float64], middle: float) -> None:
    """Write each share into its field, in per cent, light on dark."""
    for (row, column), value in np.ndenumerate(table):
        colour = "white" if 0 < value < middle else "black"  # none: on grey
        axes.text(column, row, f"{100 * value:.3g}", color=colour, **WITHIN)


def likeness(where: str, found: Similarity, path: Path) -> bool:
    """Jaccard indices of masks, and behind a stroke what chance would give between layers of the same densities."""
    count = len(found.methods)
    with canvas(path, max(WIDTH, 2.2 + 0.75 * count), 1.6 + 0.6 * count) as figure:
        axes = figure.subplots()
        lower = np.tril(np.ones((count, count), bool), -1)
        image = axes.imshow(np.ma.masked_array(found.jaccard, ~lower), vmin=0, vmax=1, cmap="cividis", aspect="auto")
        for row, column in zip(*np.nonzero(lower), strict=True):
            value = found.jaccard[row, column]
            text = "–" if np.isnan(value) else f"{value:.2f}\n/ {found.chance[row, column]:.2f}"
            colour = "white" if value < 0.5 else "black"
            axes.text(column, row, text, color=colour, **WITHIN)
        names = [literal(name) for name in found.methods]
        axes.set_xticks(range(count - 1), names[:-1], rotation=30, ha="right", fontsize=8)
        axes.set_yticks(range(1, count), names[1:], fontsize=8)
        axes.set_xlim(-0.5, count - 1.5)
        axes.set_ylim(count - 0.5, 0.5)
        figure.colorbar(image, ax=axes, use_gridspec=False, label="Jaccard index")
        axes.set_title(literal(f"Likeness of masks, {where}: Jaccard index / by chance"), fontsize=10)
    return True


def first_layer(comparison: Comparison, sparsities: Sequence[float], records: Mapping[str, Record], path: Path) -> bool:
    """Kept connections of each input pixel, for a network whose first layer sees them all: a picture for each mask.

    The first seed. Whether there is something to draw.
    """
    pictures = {}
    first = comparison.rows.sort_values("seed", kind="stable").drop_duplicates(["method", "sparsity"])
    for method, sparsity, identity in zip(first.method, first.sparsity, first.identity, strict=True):
        if (
            method in comparison.methods
            and sparsity in sparsities
            and (found := picture(records[identity])) is not None
        ):
            pictures[method, sparsity] = found
    if len({found.shape for found in pictures.values()}) != 1:
        return False
    methods = [m for m in comparison.methods if any(method == m for method, _ in pictures)]
    height, width = next(iter(pictures.values())).shape
    rows, columns = height + GAP, width + GAP
    # one picture of all pictures, each as bright as its brightest pixel
    whole = np.ones((len(sparsities) * rows - GAP, len(methods) * columns - GAP))
    for (method, sparsity), found in pictures.items():
        top, left = sparsities.index(sparsity) * rows, methods.index(method) * columns
        whole[top : top + height, left : left + width] = found / max(1, found.max())
    with canvas(path, max(WIDTH, 1 + 1.1 * len(methods)), 1 + 1.1 * len(sparsities)) as figure:
        axes = figure.subplots()
        # enlarged here: matplotlib would do so after it has made floats of four colours of them
        enlarged = np.kron(np.rint(255 * whole).astype(np.uint8), np.ones([-(-SIDE // max(whole.shape))] * 2, np.uint8))
        extent = (-0.5, whole.shape[1] - 0.5, whole.shape[0] - 0.5, -0.5)
        axes.imshow(enlarged, cmap="gray", vmin=0, vmax=255, interpolation="none", extent=extent)
        names = [literal(method) for method in methods]
        axes.set_xticks(np.arange(len(methods)) * columns + width / 2, names, fontsize=8)
        axes.set_yticks(np.arange(len(sparsities)) * rows + height / 2, [f"{s:.10g}" for s in sparsities], fontsize=8)
        axes.tick_params(length=0)
        axes.xaxis.tick_top()
        for side in axes.spines.values():
            side.set_visible(False)
        axes.set_ylabel("sparsity", fontsize=9)
        axes.set_title(literal(f"Connections kept of each pixel, {comparison.title}"), fontsize=10)
    return True


def picture(record: Record) -> NDArray[np.int64] | None:
    """How many connections of each pixel are kept, (height, width); None if the first layer does not see all pixels."""
    shape, layers = record.provenance.data.shape, record.pruning.layers
    size = sum(layer.size for layer in layers)
    if not record.pruning.mask or shape is None or len(shape) != 3 or size > PLACES or not layers:
        return None
    first = layers[0]
    if len(first.shape) != 2 or first.shape[1] != int(np.prod(shape)):
        return None
    try:
        kept = unpack(record.pruning.mask, size)[: first.size].reshape(first.shape)
    except ValueError:  # a damaged mask
        return None
    found: NDArray[np.int64] = kept.sum(0).reshape(shape).sum(0)
    return found
