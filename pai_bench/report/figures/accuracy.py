"""Accuracy against sparsity."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from pai_bench.report.figures.style import COLLAPSED_COLOUR, DENSE_COLOUR, canvas, legend, literal, looks
from pai_bench.report.summary import Cell, Comparison, share

COLLAPSED: dict[str, Any] = {"s": 140, "facecolors": "none", "edgecolors": COLLAPSED_COLOUR, "zorder": 3}

UNTRAINED: dict[str, Any] = {"s": 150, "marker": "s", "facecolors": "none", "edgecolors": DENSE_COLOUR, "zorder": 3}

TICKS = (100, 0, 90, 50, 80, 20, 60, 40, 70, 30, 10, 95, 99, 98, 85, 99.5, 97, 96, *range(5, 80, 10))
"""Accuracies in per cent for the ticks of an axis, the preferred ones first."""

FEWEST_TICKS = 3
"""Number of `TICKS` below which other values are used too."""

VERTICAL_SPACE, HORIZONTAL_SPACE = 0.07, 0.11
"""Least distance between two ticks, as a share of the axis."""

SPREAD = 0.18
"""How far to either side the points of a single sparsity are moved, in units of log compression."""

ERROR_OFFSET = 0.3
"""Per cent added to the error before its logarithm is taken, so that 100 % has a place on the axis."""


def accuracy(comparison: Comparison, path: Path, x: str = "direct") -> None:
    """Test accuracy against direct or effective sparsity, with 95 % intervals over seeds.

    Sparsity is on a scale of log compression, accuracy on a scale of log error, so that both ends can be read. At a
    single direct sparsity, the points of the criteria are moved apart.
    """
    with canvas(path) as figure:
        axes = figure.subplots()
        prepare(axes, comparison, x)
        draw_dense(axes, comparison.dense)
        count, styles = len(comparison.methods), looks(comparison.methods, comparison.facts.criteria)
        alone = x == "direct" and len(comparison.sparsities) == 1
        for i, (method, style) in enumerate(styles.items()):
            shift = (i - (count - 1) / 2) * 2 * SPREAD / count if alone else 0.0
            cells = [(s, cell) for s in comparison.sparsities if (cell := comparison.cells.get((method, s)))]
            places = [(place(s, cell, x), cell) for s, cell in cells if cell.accuracies]
            # a network without paths has no place on an axis of effective compression
            points = [(math.exp(shift) / (1 - s), cell) for s, cell in places if s < 1]
            draw_method(axes, method, points, *style)
        draw_marks(axes, comparison.cells.values())
        legend(axes)


def draw_marks(axes: Axes, cells: Iterable[Cell]) -> None:
    """Name the marks of `draw_method` in the legend, where there are any."""
    cells = list(cells)
    if any(cell.with_dead_layers for cell in cells):
        axes.scatter([], [], **COLLAPSED, label="a layer is dead")
    if any(cell.untrained for cell in cells):
        axes.scatter([], [], **UNTRAINED, label="loss at chance")


def place(sparsity: float, cell: Cell, x: str) -> float:
    """The sparsity at which a cell is drawn."""
    return cell.effective_sparsity if x == "effective" and not np.isnan(cell.effective_sparsity) else sparsity


def prepare(axes: Axes, comparison: Comparison, x: str) -> None:
    """Set scales, ticks and labels."""
    cells = [cell for cell in (comparison.dense, *comparison.cells.values()) if cell.accuracies]
    axes.set_xscale("log")
    places = [place(s, cell, x) for (_, s), cell in comparison.cells.items() if cell.accuracies]
    places = [s for s in (*places, *comparison.sparsities) if s < 1]
    axes.set_xlim(0.8 / (1 - min(places)), 1.25 / (1 - max(places)))
    named = sparsity_ticks(comparison.sparsities, *np.log(axes.get_xlim()))
    axes.xaxis.set_major_locator(FixedLocator([1 / (1 - s) for s in named]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{s:.4g}" if float(f"{s:.4g}") < 1 else share(s) for s in named])
    error_axis(axes, min(ends(c)[0] for c in cells), max(ends(c)[1] for c in cells))
    axes.set_xlabel(f"{'effective ' * (x == 'effective')}sparsity (scale: compression)")
    axes.set_ylabel("test accuracy in %, last epoch (scale: error)")
    axes.set_title(literal(comparison.title), fontsize=11)
    axes.grid(axis="y", alpha=0.25)


def error_axis(axes: Axes, lowest: float, highest: float) -> None:
    """Make the vertical axis one of accuracies in per cent, logarithmic in the error: 98 and 99 % lie well apart."""
    axes.set_yscale("function", functions=(accuracy_to_error, error_to_accuracy))
    bottom, top = max(0.0, lowest - 3), min(tick for tick in TICKS if tick >= max(highest, 1))
    axes.set_ylim(bottom, top)
    axes.yaxis.set_major_locator(FixedLocator(accuracy_ticks(bottom, top)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")


def sparsity_ticks(sparsities: Sequence[float], low: float, high: float) -> list[float]:
    """The sparsities that have room for a label between two ends of an axis of log compression, the highest first."""
    return spaced(sorted(sparsities, reverse=True), lambda s: np.log1p(-s), HORIZONTAL_SPACE * (high - low))[::-1]


def accuracy_ticks(bottom: float, top: float) -> list[float]:
    """Round accuracies from `bottom` to `top`, as many as have room on the axis."""
    space = VERTICAL_SPACE * (accuracy_to_error(top) - accuracy_to_error(bottom))
    inside = spaced([tick for tick in TICKS if bottom <= tick <= top], accuracy_to_error, space)
    if len(inside) < FEWEST_TICKS:
        others = [tick for tick in MaxNLocator(4).tick_values(bottom, top) if bottom <= tick <= top]
        inside = spaced([*inside, *others], accuracy_to_error, space)
    return sorted(map(float, inside))


def spaced(values: Sequence[float], scale: Callable[[float], float], distance: float) -> list[float]:
    """Those of `values` that are at least `distance` from every earlier one, on a `scale`."""
    kept: list[float] = []
    for value in values:
        if all(abs(scale(value) - scale(other)) >= distance for other in kept):
            kept.append(value)
    return kept


def accuracy_to_error(accuracy: Any) -> Any:
    """The scale of the accuracy axis."""
    return -np.log(np.maximum(100 + ERROR_OFFSET - accuracy, 1e-9))


def error_to_accuracy(scaled: Any) -> Any:
    """The inverse of the scale of the accuracy axis."""
    return 100 + ERROR_OFFSET - np.exp(-scaled)


def ends(cell: Cell) -> tuple[float, float]:
    """The ends of the interval over seeds in per cent; the mean twice for a single seed."""
    mean = cell.percent
    return (mean.mean, mean.mean) if mean.count < 2 else (mean.low, mean.high)


def draw_dense(axes: Axes, dense: Cell) -> None:
    """Draw the unpruned reference: its mean as a line, its interval as a band."""
    if dense.accuracies:
        axes.axhline(dense.percent.mean, color=DENSE_COLOUR, linestyle="--", linewidth=1, label="dense")
        low, high = ends(dense)
        axes.axhspan(low, high, color=DENSE_COLOUR, alpha=0.2, linewidth=0)


def draw_method(axes: Axes, method: str, points: list[tuple[float, Cell]], colour: str, marker: str, line: str) -> None:
    """Draw one criterion: means with intervals, marked where a layer is dead or a loss at chance."""
    x = [compression for compression, _ in points]
    y = [cell.percent.mean for _, cell in points]
    axes.errorbar(
        x,
        y,
        yerr=np.reshape([[abs(end - cell.percent.mean) for end in ends(cell)] for _, cell in points], (-1, 2)).T,
        color=colour,
        marker=marker,
        linestyle=line,
        markersize=5,
        linewidth=1.4,
        capsize=3,
        label=literal(method),
    )
    for style, marked in (
        (COLLAPSED, [cell.with_dead_layers > 0 for _, cell in points]),
        (UNTRAINED, [cell.untrained > 0 for _, cell in points]),
    ):
        axes.scatter(np.array(x)[marked], np.array(y)[marked], **style)
