"""Figures of masks: density of each layer, similarity between criteria, connections of each pixel."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from numpy.typing import NDArray

from pai_bench.report.figures.style import canvas, literal, plain, shorten, wrapped
from pai_bench.report.similarity import Similarity, layout
from pai_bench.report.summary import Comparison
from pai_bench.results import Record
from pai_bench.results.bits import SAMPLE_SIZE, unpack

LEAST_WIDTH = 6.8
"""Inches that a title needs."""

GAP = 3
"""Pixels between pictures."""

MOST_LAYERS_WITH_NUMBERS = 20

LEAST_SIDE = 1000
"""Points along each side of a picture of pixels, at least: viewers blur smaller ones."""

CELL_TEXT: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7, "in_layout": False}
"""Style of the text in a field of a heat map."""


def densities(comparison: Comparison, sparsity: float, records: Mapping[str, Record], path: Path) -> bool:
    """A heat map of the density of each layer, from the input down, by criterion, at one sparsity; mean over seeds.

    Returns whether there is something to draw: it takes layers, the same ones in all records.
    """
    rows = comparison.rows[(comparison.rows.sparsity == sparsity) & (comparison.rows.status != "failed")]
    seeds: defaultdict[str, list[Record]] = defaultdict(list)
    for method, identity in zip(rows.method, rows.identity, strict=True):
        if method in comparison.methods and records[identity].pruning.layers:
            seeds[method].append(records[identity])
    if len({layout(record) for masked in seeds.values() for record in masked}) != 1:
        return False
    columns = [method for method in comparison.methods if method in seeds]
    names = [layer.name for layer in seeds[columns[0]][0].pruning.layers]
    shares = [[[m.kept / m.size for m in record.pruning.layers] for record in seeds[method]] for method in columns]
    table = np.array([np.mean(by_seed, axis=0) for by_seed in shares]).T
    labels = [wrapped(name) for name in columns]
    size = max(LEAST_WIDTH, 1.8 + 0.75 * len(columns)), 1.5 + 0.26 * len(names) + height_of(labels)
    with canvas(path, *size) as figure:
        axes = figure.subplots()
        least = table[table > 0].min() if (table > 0).any() else 0.1
        norm = LogNorm(min(least, 0.99), 1)
        image = axes.imshow(np.ma.masked_equal(table, 0), norm=norm, cmap="viridis", aspect="auto")
        axes.set_facecolor("#dddddd")
        axes.set_xticks(range(len(columns)), labels, rotation=30, ha="right", fontsize=8)
        axes.set_yticks(range(len(names)), shorten(names), fontsize=8)
        if len(names) <= MOST_LAYERS_WITH_NUMBERS:
            for (row, column), value in np.ndenumerate(table):
                colour = "white" if 0 < value < np.sqrt(least) else "black"  # grey: none
                axes.text(column, row, f"{100 * value:.3g}", color=colour, **CELL_TEXT)
        plain(figure.colorbar(image, ax=axes, use_gridspec=False, label="density").ax.yaxis)
        axes.set_title(literal(f"{comparison.title}, sparsity {sparsity:.10g}: % kept (grey: none)"), fontsize=10)
    return True


def height_of(labels: Sequence[str]) -> float:
    """Inches that turned labels need beyond those of a short name."""
    lines = [label.split("\n") for label in labels]
    return max([0.0, *(0.035 * (max(map(len, label)) - 8) + 0.14 * (len(label) - 1) for label in lines)])


def similarities(subject: str, result: Similarity, path: Path) -> bool:
    """Jaccard indices of masks, and after a slash those that random masks with the same layer densities would have."""
    count = len(result.methods)
    names = [wrapped(name) for name in result.methods]
    size = max(LEAST_WIDTH, 2.2 + 0.75 * count), 1.6 + 0.6 * count + height_of(names[:-1])
    with canvas(path, *size) as figure:
        axes = figure.subplots()
        lower = np.tril(np.ones((count, count), bool), -1)
        image = axes.imshow(np.ma.masked_array(result.jaccard, ~lower), vmin=0, vmax=1, cmap="cividis", aspect="auto")
        for row, column in zip(*np.nonzero(lower), strict=True):
            value = result.jaccard[row, column]
            text = "–" if np.isnan(value) else f"{value:.2f}\n/ {result.chance[row, column]:.2f}"
            axes.text(column, row, text, color="white" if value < 0.5 else "black", **CELL_TEXT)
        axes.set_xticks(range(count - 1), names[:-1], rotation=30, ha="right", fontsize=8)
        axes.set_yticks(range(1, count), names[1:], fontsize=8)
        axes.set_xlim(-0.5, count - 1.5)
        axes.set_ylim(count - 0.5, 0.5)
        figure.colorbar(image, ax=axes, use_gridspec=False, label="Jaccard index")
        axes.set_title(literal(f"Likeness of masks, {subject}: Jaccard index / by chance"), fontsize=10)
    return True


def first_layer(comparison: Comparison, sparsities: Sequence[float], records: Mapping[str, Record], path: Path) -> bool:
    """Kept connections of each input pixel of the first seed, a picture for each mask, if the first layer is linear.

    Returns whether there is something to draw.
    """
    pictures = {}
    first = comparison.rows.sort_values("seed", kind="stable").drop_duplicates(["method", "sparsity"])
    for method, sparsity, identity in zip(first.method, first.sparsity, first.identity, strict=True):
        drawn = picture(records[identity]) if method in comparison.methods and sparsity in sparsities else None
        if drawn is not None:
            pictures[method, sparsity] = drawn
    if len({drawn.shape for drawn in pictures.values()}) != 1:
        return False
    methods = [m for m in comparison.methods if any(method == m for method, _ in pictures)]
    height, width = next(iter(pictures.values())).shape
    rows, columns = height + GAP, width + GAP
    # one picture of all pictures, each as bright as its brightest pixel
    whole = np.ones((len(sparsities) * rows - GAP, len(methods) * columns - GAP))
    for (method, sparsity), drawn in pictures.items():
        top, left = sparsities.index(sparsity) * rows, methods.index(method) * columns
        whole[top : top + height, left : left + width] = drawn / max(1, drawn.max())
    with canvas(path, max(LEAST_WIDTH, 1 + 1.1 * len(methods)), 1 + 1.1 * len(sparsities)) as figure:
        axes = figure.subplots()
        # enlarged here, as bytes: matplotlib would enlarge four floats for each pixel
        factor = -(-LEAST_SIDE // max(whole.shape))
        enlarged = np.kron(np.rint(255 * whole).astype(np.uint8), np.ones((factor, factor), np.uint8))
        extent = (-0.5, whole.shape[1] - 0.5, whole.shape[0] - 0.5, -0.5)
        axes.imshow(enlarged, cmap="gray", vmin=0, vmax=255, interpolation="none", extent=extent)
        names = [wrapped(method) for method in methods]
        axes.set_xticks(np.arange(len(methods)) * columns + width / 2, names, fontsize=8)
        axes.set_yticks(np.arange(len(sparsities)) * rows + height / 2, [f"{s:.10g}" for s in sparsities], fontsize=8)
        axes.tick_params(length=0)
        axes.xaxis.tick_top()
        axes.spines[:].set_visible(False)
        axes.set_ylabel("sparsity", fontsize=9)
        axes.set_title(literal(f"Connections kept of each pixel, {comparison.title}"), fontsize=10)
    return True


def picture(record: Record) -> NDArray[np.int64] | None:
    """How many connections of each pixel are kept, (height, width); None if the first layer does not see all pixels."""
    shape, layers = record.provenance.data.shape, record.pruning.layers
    size = sum(layer.size for layer in layers)
    if not record.pruning.mask or shape is None or len(shape) != 3 or size > SAMPLE_SIZE or not layers:
        return None
    first = layers[0]
    if len(first.shape) != 2 or first.shape[1] != math.prod(shape):
        return None
    try:
        kept = unpack(record.pruning.mask, size)[: first.size].reshape(first.shape)
    except ValueError:  # a damaged mask
        return None
    counts: NDArray[np.int64] = kept.sum(0).reshape(shape).sum(0)
    return counts
