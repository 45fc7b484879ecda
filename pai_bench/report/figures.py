"""Figures of a comparison. The same records give the same bytes."""

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from pai_bench.report.summary import Comparison

# Okabe & Ito's palette, which colour-blind readers can tell apart, without its yellow
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "pai-bench",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def accuracy(comparison: Comparison, path: Path) -> None:
    """Test accuracy against sparsity on a scale of compression, with standard deviations over seeds."""
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.set_xlim(0.8 / (1 - comparison.sparsities[0]), 1.25 / (1 - comparison.sparsities[-1]))
        dense = comparison.dense
        if dense.accuracies:
            axes.axhline(100 * dense.mean, color="#888888", linestyle="--", linewidth=1, label="dense")
            if len(dense.accuracies) > 1:
                low, high = (100 * (dense.mean + sign * dense.deviation) for sign in (-1, 1))
                axes.axhspan(low, high, color="#888888", alpha=0.2, linewidth=0)
        for i, method in enumerate(sorted(comparison.methods)):
            points = [
                (s, comparison.cells[method, s]) for s in comparison.sparsities if (method, s) in comparison.cells
            ]
            points = [(s, cell) for s, cell in points if cell.accuracies]
            axes.errorbar(
                [1 / (1 - s) for s, _ in points],
                [100 * cell.mean for _, cell in points],
                yerr=[100 * cell.deviation if len(cell.accuracies) > 1 else 0 for _, cell in points],
                color=COLOURS[i % len(COLOURS)],
                marker=MARKERS[i % len(MARKERS)],
                markersize=5,
                linewidth=1.4,
                capsize=3,
                label=method,
            )
            collapsed = [(1 / (1 - s), 100 * cell.mean) for s, cell in points if cell.with_dead_layers]
            if collapsed:
                axes.scatter(
                    [x for x, _ in collapsed],
                    [y for _, y in collapsed],
                    s=140,
                    facecolors="none",
                    edgecolors="#B00000",
                    zorder=3,
                )
        axes.xaxis.set_major_locator(FixedLocator([1 / (1 - s) for s in comparison.sparsities]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([f"{s:g}" for s in comparison.sparsities])
        axes.set_xlabel("sparsity (scale: compression)")
        axes.set_ylabel("test accuracy in %, last epoch")
        axes.set_title(comparison.title, fontsize=11)
        axes.grid(axis="y", alpha=0.25)
        if any(cell.with_dead_layers for cell in comparison.cells.values()):
            axes.scatter([], [], s=140, facecolors="none", edgecolors="#B00000", label="a layer keeps nothing")
        axes.legend(frameon=False, fontsize=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
