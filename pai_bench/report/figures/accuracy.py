"""Accuracy against sparsity."""

import math
from collections.abc import Sequence
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
"""Accuracies in per cent that an axis may name, the more welcome the earlier."""

FEWEST = 3
"""Of them; others are taken where there are not as many."""

APART, WIDE = 0.07, 0.11
"""Of an axis, between two ticks above or beside each other."""

BESIDE = 0.18
"""How far to either side points of one sparsity may stand, where there is no other, in units of log compression."""

FLOOR = 0.3
"""Per cent added to the error before its logarithm is taken, so that 100 % has a place on the axis."""


def accuracy(comparison: Comparison, path: Path, x: str = "direct") -> None:
    """Test accuracy against direct or effective sparsity, with 95 % intervals over seeds.

    Sparsity is on a scale of log compression, accuracy on a scale of log error, so that both ends can be read. Of a
    single direct sparsity, criteria stand beside each other, and not on top of each other.
    """
    with canvas(path) as figure:
        axes = figure.subplots()
        prepare(axes, comparison, x)
        draw_dense(axes, comparison.dense)
        places = np.arange(len(comparison.methods)) - (len(comparison.methods) - 1) / 2
        alone = x == "direct" and len(comparison.sparsities) == 1  # else places say something
        beside = places * (2 * BESIDE / max(1, len(places)) if alone else 0)
        for (method, look), aside in zip(
            looks(comparison.methods, comparison.facts.criteria).items(), beside, strict=True
        ):
            points = [
                (place(s, comparison.cells[method, s], x), comparison.cells[method, s])
                for s in comparison.sparsities
                if (method, s) in comparison.cells
            ]
            # a network without paths has no place on an axis of effective compression
            points = [(math.exp(aside) / (1 - s), cell) for s, cell in points if cell.accuracies and s < 1]
            draw_method(axes, method, points, *look)
        if any(cell.with_dead_layers for cell in comparison.cells.values()):
            axes.scatter([], [], **COLLAPSED, label="a layer is dead")
        if any(cell.untrained for cell in comparison.cells.values()):
            axes.scatter([], [], **UNTRAINED, label="loss at chance")
        legend(figure, axes)


def place(sparsity: float, cell: Cell, x: str) -> float:
    """The sparsity at which a cell is drawn."""
    return cell.effective_sparsity if x == "effective" and not np.isnan(cell.effective_sparsity) else sparsity


def prepare(axes: Axes, comparison: Comparison, x: str) -> None:
    """Scales, ticks and labels."""
    cells = [cell for cell in (comparison.dense, *comparison.cells.values()) if cell.accuracies]
    lowest = min((ends(cell)[0] for cell in cells), default=0.0)
    axes.set_xscale("log")
    places = [place(s, cell, x) for (_, s), cell in comparison.cells.items() if cell.accuracies]
    places = [s for s in (*places, *comparison.sparsities) if s < 1]
    axes.set_xlim(0.8 / (1 - min(places)), 1.25 / (1 - max(places)))
    named = with_room(comparison.sparsities, *np.log(axes.get_xlim()))
    axes.xaxis.set_major_locator(FixedLocator([1 / (1 - s) for s in named]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{s:.4g}" if float(f"{s:.4g}") < 1 else share(s) for s in named])
    highest = max((ends(cell)[1] for cell in cells), default=100.0)
    error_axis(axes, lowest, highest)
    axes.set_xlabel("effective sparsity (scale: compression)" if x == "effective" else "sparsity (scale: compression)")
    axes.set_ylabel("test accuracy in %, last epoch (scale: error)")
    axes.set_title(literal(comparison.title), fontsize=11)
    axes.grid(axis="y", alpha=0.25)


def error_axis(axes: Axes, lowest: float, highest: float) -> None:
    """A vertical axis of accuracies in per cent, logarithmic in the error, so that 98 and 99 % can be told apart."""
    axes.set_yscale("function", functions=(accuracy_to_error, error_to_accuracy))
    bottom, top = max(0.0, lowest - 3), min(tick for tick in TICKS if tick >= max(highest, 1))
    axes.set_ylim(bottom, top)
    axes.yaxis.set_major_locator(FixedLocator(ticks(bottom, top)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")


def with_room(sparsities: Sequence[float], low: float, high: float) -> list[float]:
    """As many sparsities as can be named along an axis of log compression, the highest first."""
    found: list[float] = []
    for sparsity in sorted(sparsities, reverse=True):
        if all(abs(np.log1p(-sparsity) - np.log1p(-other)) >= WIDE * (high - low) for other in found):
            found.append(sparsity)
    return found[::-1]


def ticks(bottom: float, top: float) -> list[float]:
    """Round accuracies between two, as many as find room on the axis."""
    room = APART * (accuracy_to_error(top) - accuracy_to_error(bottom))
    found: list[float] = []
    for candidates in (TICKS, MaxNLocator(4).tick_values(bottom, top)):
        if len(found) < FEWEST:
            for tick in candidates:
                near = (abs(accuracy_to_error(tick) - accuracy_to_error(other)) < room for other in found)
                if bottom <= tick <= top and not any(near):
                    found.append(float(tick))
    return sorted(found)


def accuracy_to_error(accuracy: Any) -> Any:
    """The scale of the accuracy axis."""
    return -np.log(np.maximum(100 + FLOOR - accuracy, 1e-9))


def error_to_accuracy(scaled: Any) -> Any:
    """The inverse of the scale of the accuracy axis."""
    return 100 + FLOOR - np.exp(-scaled)


def ends(cell: Cell) -> tuple[float, float]:
    """The ends of the interval over seeds in per cent; the mean twice for a single seed."""
    found = cell.percent
    return (found.mean, found.mean) if found.count < 2 else (found.low, found.high)


def draw_dense(axes: Axes, dense: Cell) -> None:
    """The unpruned reference: its mean as a line, its interval as a band."""
    if dense.accuracies:
        axes.axhline(dense.percent.mean, color=DENSE_COLOUR, linestyle="--", linewidth=1, label="dense")
        low, high = ends(dense)
        axes.axhspan(low, high, color=DENSE_COLOUR, alpha=0.2, linewidth=0)


def draw_method(axes: Axes, method: str, points: list[tuple[float, Cell]], colour: str, marker: str, line: str) -> None:
    """One criterion: means with intervals at some compressions, marks where a layer is dead or a loss at chance."""
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
    for look, marked in (
        (COLLAPSED, [i for i, (_, cell) in enumerate(points) if cell.with_dead_layers]),
        (UNTRAINED, [i for i, (_, cell) in enumerate(points) if cell.untrained]),
    ):
        axes.scatter([x[i] for i in marked], [y[i] for i in marked], **look)
