"""Figures of a comparison. The same records give the same bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from pai_bench.report.summary import Cell, Comparison
from pai_bench.store import Cost

# Okabe & Ito's palette, which colour-blind readers can tell apart, without its yellow
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
DENSE_COLOUR, COLLAPSED_COLOUR = "#888888", "#B00000"
COLLAPSED: dict[str, Any] = {"s": 140, "facecolors": "none", "edgecolors": COLLAPSED_COLOUR, "zorder": 3}

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "pai-bench",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

ACCURACY_TICKS = (0, 20, 40, 60, 70, 80, 90, 95, 98, 99, 99.5, 100)
FLOOR = 0.3
"""Per cent added to the error before its logarithm is taken, so that 100 % has a place on the axis."""


def accuracy(comparison: Comparison, path: Path, x: str = "direct") -> None:
    """Test accuracy against direct or effective sparsity, with standard deviations over seeds.

    Sparsity is on a scale of log compression, accuracy on a scale of log error, so that both ends can be read.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        prepare(axes, comparison, x)
        draw_dense(axes, comparison.dense)
        for method, look in looks(comparison.methods).items():
            points = [
                (place(s, comparison.cells[method, s], x), comparison.cells[method, s])
                for s in comparison.sparsities
                if (method, s) in comparison.cells
            ]
            # a network without paths has no place on an axis of effective compression
            draw_method(axes, method, [(s, cell) for s, cell in points if cell.accuracies and s < 1], *look)
        if any(cell.with_dead_layers for cell in comparison.cells.values()):
            axes.scatter([], [], **COLLAPSED, label="a layer is dead")
        if len(comparison.methods) > len(MARKERS):  # too many to stand among the lines
            figure.legend(loc="outside right upper", frameon=False, fontsize=8)
        else:
            axes.legend(frameon=False, fontsize=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


def looks(methods: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    """Colour, marker and line of each method: the colour is the criterion's, the rest the variant's, if there are any.

    Of two methods that no colour and no marker tell apart, one has a dashed line.
    """
    parts = {method: method.partition(" + ") for method in sorted(methods)}
    criteria, variants = (sorted({part[i] for part in parts.values()}) for i in (0, 2))
    found = {}
    for method, (criterion, _, variant) in parts.items():
        colour, shape = criteria.index(criterion), variants.index(variant)
        if len(variants) == 1:
            shape = colour
        line = ("-", "--", ":")[(colour // len(COLOURS) + shape // len(MARKERS)) % 3]
        found[method] = COLOURS[colour % len(COLOURS)], MARKERS[shape % len(MARKERS)], line
    return found


def place(sparsity: float, cell: Cell, x: str) -> float:
    """The sparsity at which a cell is drawn."""
    return cell.effective_sparsity if x == "effective" and not np.isnan(cell.effective_sparsity) else sparsity


def prepare(axes: Axes, comparison: Comparison, x: str) -> None:
    """Scales, ticks and labels."""
    cells = [cell for cell in (comparison.dense, *comparison.cells.values()) if cell.accuracies]
    lowest = min((100 * (cell.mean - spread(cell)) for cell in cells), default=0.0)
    axes.set_xscale("log")
    places = [place(s, cell, x) for (_, s), cell in comparison.cells.items() if cell.accuracies]
    places = [s for s in (*places, *comparison.sparsities) if s < 1]
    axes.set_xlim(0.8 / (1 - min(places)), 1.25 / (1 - max(places)))
    axes.xaxis.set_major_locator(FixedLocator([1 / (1 - s) for s in comparison.sparsities]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{s:.10g}" for s in comparison.sparsities])
    axes.set_yscale("function", functions=(lambda y: -np.log(np.maximum(100 + FLOOR - y, 1e-9)), error_to_accuracy))
    highest = max((min(100.0, 100 * (cell.mean + spread(cell))) for cell in cells), default=100.0)
    bottom, top = max(0.0, lowest - 3), next(tick for tick in ACCURACY_TICKS if tick >= max(highest, 1))
    axes.set_ylim(bottom, top)
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in ACCURACY_TICKS if bottom <= tick <= top]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    axes.set_xlabel("effective sparsity (scale: compression)" if x == "effective" else "sparsity (scale: compression)")
    axes.set_ylabel("test accuracy in %, last epoch (scale: error)")
    axes.set_title(literal(comparison.title), fontsize=11)
    axes.grid(axis="y", alpha=0.25)


def literal(text: str) -> str:
    """`text` as it is: a dollar sign would begin a formula."""
    return text.replace("$", r"\$")


def error_to_accuracy(scaled: Any) -> Any:
    """The inverse of the scale of the accuracy axis."""
    return 100 + FLOOR - np.exp(-scaled)


def spread(cell: Cell) -> float:
    """Standard deviation over seeds, 0 for a single one."""
    return cell.deviation if len(cell.accuracies) > 1 else 0.0


def draw_dense(axes: Axes, dense: Cell) -> None:
    """The unpruned reference: its mean as a line, its standard deviation as a band."""
    if dense.accuracies:
        axes.axhline(100 * dense.mean, color=DENSE_COLOUR, linestyle="--", linewidth=1, label="dense")
        low, high = (min(100.0, 100 * (dense.mean + sign * spread(dense))) for sign in (-1, 1))
        axes.axhspan(low, high, color=DENSE_COLOUR, alpha=0.2, linewidth=0)


def draw_method(axes: Axes, method: str, points: list[tuple[float, Cell]], colour: str, marker: str, line: str) -> None:
    """One criterion: means with standard deviations, a ring where some layer is dead."""
    x = [1 / (1 - s) for s, _ in points]
    y = [100 * cell.mean for _, cell in points]
    axes.errorbar(
        x,
        y,
        yerr=[100 * spread(cell) for _, cell in points],
        color=colour,
        marker=marker,
        linestyle=line,
        markersize=5,
        linewidth=1.4,
        capsize=3,
        label=literal(method),
    )
    dead = [i for i, (_, cell) in enumerate(points) if cell.with_dead_layers]
    axes.scatter([x[i] for i in dead], [y[i] for i in dead], **COLLAPSED)


def costs(title: str, rows: list[Cost], path: Path) -> None:
    """Bars of one score and of a whole pruning by each criterion, in units of one training step, on a log scale."""
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 1.4 + 0.45 * len(rows)), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(rows))
        step = float(np.median([cost.step_seconds for cost in rows]))
        score = np.array([cost.seconds for cost in rows]) / step
        pruning = np.array([cost.prune_seconds for cost in rows]) / step
        lowest = min(score.min(), pruning.min()) / 2
        for offset, label, colour, ends in (
            (-0.19, "one score", COLOURS[0], score),
            (0.19, "pruning", COLOURS[1], pruning),
        ):
            bars = axes.barh(places + offset, ends - lowest, 0.36, left=lowest, color=colour, label=label)
            axes.bar_label(bars, labels=[f"{v:.3g}" for v in ends], padding=3, fontsize=8)
        axes.set_xscale("log")
        axes.set_xlim(lowest, 3 * max(score.max(), pruning.max()))
        axes.set_yticks(places, [literal(cost.trial["criterion"]["name"]) for cost in rows])
        axes.invert_yaxis()
        axes.set_xlabel("training steps (logarithmic)")
        axes.set_title(literal(title), fontsize=10)
        axes.legend(frameon=False, fontsize=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
