"""Accuracy against what a whole training costs, and sparsity from epoch to epoch."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from pai_bench.experiment.trial import DENSE
from pai_bench.report.figures.accuracy import draw_dense, draw_marks, draw_method, ends, error_axis
from pai_bench.report.figures.style import DENSE_COLOUR, canvas, legend, literal, looks
from pai_bench.report.summary import Comparison
from pai_bench.report.tables import grouped
from pai_bench.results import Record

COSTS = {
    "operations": "FLOPs of the whole training",
    "seconds": "seconds: scoring, training and changes of the mask",
}

DECADE = 10.0
"""How many times the least cost the largest one is where the axis becomes logarithmic."""

LONGEST_LABEL = 32
"""Characters of a line of the legend."""

WHOLE_NAMES: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


def accuracy_by_cost(comparison: Comparison, rows: pd.DataFrame, path: Path) -> None:
    """Test accuracy, with 95 % intervals over seeds, against operations and seconds of the whole training.

    A line joins the sparsities of a method. Operations are means over seeds, seconds medians. The dense network stands
    at its own cost, and its accuracy is a line besides.
    """
    cells = [cell for cell in (comparison.dense, *comparison.cells.values()) if cell.accuracies]
    by_cell = rows.groupby(["method", "sparsity"])
    values = {"operations": by_cell.operations.mean().dropna(), "seconds": by_cell.seconds.median().dropna()}
    with canvas(path, width=9.6, height=4.2) as figure:
        grid = figure.subplots(1, len(COSTS))
        for axes, (name, label) in zip(grid, COSTS.items(), strict=True):
            error_axis(axes, min(ends(cell)[0] for cell in cells), max(ends(cell)[1] for cell in cells))
            draw_dense(axes, comparison.dense)
            for method, style in looks(comparison.methods, comparison.facts.criteria).items():
                places = [(s, values[name].get((method, s))) for s in comparison.sparsities]
                points = [(float(x), comparison.cells[method, s]) for s, x in places if x is not None]
                if points:
                    draw_method(axes, method, points, *style)
            if comparison.dense.accuracies and (x := values[name].get((DENSE, 0.0))) is not None:
                axes.plot(
                    x, comparison.dense.percent.mean, "*", color=DENSE_COLOUR, markersize=9, label="dense, at its cost"
                )
            cost_axis(axes, values[name].to_list())
            axes.set_xlabel(label)
            axes.grid(axis="y", alpha=0.25)
        grid[0].set_ylabel("test accuracy in %, last epoch (scale: error)")
        figure.suptitle(literal(comparison.title), fontsize=11)
        draw_marks(grid[0], comparison.cells.values())
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)


def cost_axis(axes: Axes, costs: Sequence[float]) -> None:
    """Make the horizontal axis logarithmic if the costs span more than a decade."""
    known = [cost for cost in costs if cost > 0]
    if known and max(known) > DECADE * min(known):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=6))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter("{x:g}")


def sparsity_by_epoch(comparison: Comparison, records: Mapping[str, Record], path: Path) -> None:
    """The share of removed connections after each epoch at the highest sparsity, means over seeds, 0 the beginning.

    Methods with the same shares have one line.
    """
    highest = comparison.sparsities[-1]
    rows = comparison.rows[(comparison.rows.status == "done") & (comparison.rows.sparsity == highest)]
    curves = {}
    for method in comparison.methods:
        by_seed = [sparsities(records[identity]) for identity in rows.identity[rows.method == method]]
        if len({tuple(one) for one in by_seed}) == 1:
            shares = np.mean([list(one.values()) for one in by_seed], axis=0)
            curves[method] = tuple(zip(by_seed[0], map(float, shares), strict=True))
    styles = looks(comparison.methods, comparison.facts.criteria)
    with canvas(path) as figure:
        axes = figure.subplots()
        for points, same in grouped(curves, lambda method: tuple((x, round(y, 4)) for x, y in curves[method])).items():
            colour, marker, line = styles[same[0]]
            label = literal(textwrap.fill(", ".join(same), LONGEST_LABEL, **WHOLE_NAMES))
            every = max(1, len(points) // 10)
            axes.plot(*zip(*points, strict=True), line, color=colour, marker=marker, markevery=every, label=label)
        axes.set_ylim(-0.02, 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epochs of training")
        axes.set_ylabel("share of the connections that are removed")
        axes.set_title(literal(f"{comparison.title}, sparsity {highest:.10g}"), fontsize=11)
        axes.grid(alpha=0.25)
        legend(axes)


def sparsities(record: Record) -> dict[int, float]:
    """The share of connections that are removed before training, and after each epoch, by its number.

    A level of iterative pruning may leave out the first epochs.
    """
    size, kept = (sum(getattr(layer, key) for layer in record.pruning.layers) for key in ("size", "kept"))
    last = 1 - kept / size if size else 0.0
    curve = record.training.curve
    before = curve[0].epoch - 1 if curve else 0
    if not record.training.event_steps:
        return dict.fromkeys([before, *(epoch.epoch for epoch in curve)], last)
    first = 0.0 if record.pruning.score_seconds is None else last
    return {before: first} | {epoch.epoch: epoch.sparsity or 0.0 for epoch in curve}  # a sparsity of 0 is not stored
