"""Accuracy against what structured criteria leave: units, weights, operations, and the time of a forward pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from pai_bench.report import outcomes
from pai_bench.report.figures.accuracy import (
    HORIZONTAL_SPACE,
    draw_dense,
    draw_marks,
    draw_method,
    ends,
    error_axis,
    spaced,
)
from pai_bench.report.figures.style import canvas, literal, looks
from pai_bench.report.summary import Comparison, by_cell
from pai_bench.results import BesideDense

TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
"""Shares in per cent along a logarithmic axis."""

Place = tuple[str, float]
"""Method and sparsity."""


@dataclass(frozen=True)
class Latencies:
    """Forward passes of 128 examples by smaller networks, by method and sparsity, as measured on one machine."""

    machine: str = ""
    passes: Mapping[Place, BesideDense] = field(default_factory=dict)


def accuracy_by_size(comparison: Comparison, latencies: Latencies, path: Path) -> None:
    """Test accuracy of smaller networks, with 95 % intervals over seeds, against what is left of the dense one.

    A panel each for units, weights and operations, in per cent, on a logarithmic scale; and for the milliseconds of a
    forward pass of 128 examples, where they were measured.
    """
    rows = comparison.rows[outcomes.smaller(comparison.rows)]
    left = 100 * outcomes.left_of_smaller(rows, comparison.facts.combined)
    places = [(method, sparsity) for method, sparsity, _ in by_cell(rows)]
    means = {f"{of} left, %": left[of].groupby([rows.method, rows.sparsity]).mean() for of in left}
    panels = {label: {place: float(values[place]) for place in places} for label, values in means.items()}
    if latencies.passes:
        label = f"ms, forward pass of 128 examples,\n{latencies.machine}"  # is long
        panels[label] = {place: 1000 * one.seconds for place, one in latencies.passes.items()}
    cells = [comparison.dense, *(comparison.cells[place] for place in places)]
    shown = [cell for cell in cells if cell.accuracies]
    by_rows = 2 if latencies.passes else 1
    with canvas(path, width=9.6, height=3.6 if by_rows == 1 else 6.4) as figure:
        grid = figure.subplots(by_rows, len(panels) // by_rows, squeeze=False).flatten()
        for axes, (label, values) in zip(grid, panels.items(), strict=True):
            error_axis(axes, min((ends(c)[0] for c in shown), default=0.0), max((ends(c)[1] for c in shown), default=1))
            draw_dense(axes, comparison.dense)
            draw(axes, comparison, values)
            if label.endswith("%"):
                share_axis(axes, [value for value in values.values() if value > 0])
            axes.set_xlabel(literal(label))
            axes.grid(axis="y", alpha=0.25)
        figure.supylabel("test accuracy in %, last epoch (scale: error)", fontsize=10)
        figure.suptitle(literal(comparison.title), fontsize=11)
        draw_marks(grid[0], [cell for cell in cells[1:] if cell.accuracies])
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)


def draw(axes: Axes, comparison: Comparison, places: Mapping[Place, float]) -> None:
    """Draw the methods that have `places` on the axis."""
    for method, style in looks(comparison.methods, comparison.facts.criteria).items():
        points = [(x, comparison.cells[place]) for place, x in places.items() if place[0] == method and not np.isnan(x)]
        if points := sorted((point for point in points if point[1].accuracies), key=lambda point: point[0]):
            draw_method(axes, method, points, *style)


def share_axis(axes: Axes, shares: Sequence[float]) -> None:
    """Make the horizontal axis one of shares in per cent, with as many ticks as there is room for.

    It is logarithmic, unless fewer than two of the ticks lie inside, which would not tell the scale.
    """
    low, high = min(shares, default=1.0) / 1.25, min(125.0, 1.25 * max(shares, default=100.0))
    axes.set_xlim(low, high)
    inside = [tick for tick in TICKS if low <= tick <= high]
    if len(inside) < 2:
        return
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    named = spaced(inside, np.log, 1.5 * HORIZONTAL_SPACE * np.log(high / low))
    axes.xaxis.set_major_locator(FixedLocator(named))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{tick:g}" for tick in named])
