"""Robust accuracy against sparsity, and against the size of the ball."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from pai_bench.report.figures.accuracy import draw_dense, draw_method
from pai_bench.report.figures.style import DENSE_COLOUR, canvas, literal, looks
from pai_bench.report.summary import Comparison

MOST_COLUMNS = 3


def robust_accuracy(robust: Mapping[str, Comparison], comparison: Comparison, path: Path) -> None:
    """A panel for each ball: robust accuracy against sparsity; the clean test accuracy is thin, in the same colours."""
    names = list(robust)[: 2 * MOST_COLUMNS]
    columns = min(MOST_COLUMNS, len(names))
    lines = -(-len(names) // columns)
    with canvas(path, width=3.6 * columns + 0.6, height=3.0 * lines + 0.9) as figure:
        grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for axes, name in zip(grid.flat, names, strict=False):
            panel(axes, robust[name], comparison)
            axes.set_title(literal(name), fontsize=10)
        for axes in grid.flat[len(names) :]:
            axes.set_visible(False)
        for row in grid:
            row[0].set_ylabel("robust accuracy in %")
        for axes in grid[-1]:
            axes.set_xlabel("sparsity (scale: compression)")
        figure.suptitle(literal(comparison.title), fontsize=11)
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)


def panel(axes: Axes, robust: Comparison, comparison: Comparison) -> None:
    """One panel of `robust_accuracy`."""
    axes.set_xscale("log")
    axes.set_ylim(-3, 103)
    axes.set_xlim(0.8 / (1 - min(comparison.sparsities)), 1.25 / (1 - max(comparison.sparsities)))
    axes.xaxis.set_major_locator(FixedLocator([1 / (1 - s) for s in comparison.sparsities]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{s:.10g}" for s in comparison.sparsities])
    draw_dense(axes, robust.dense)
    for method, (colour, marker, line) in looks(comparison.methods, comparison.facts.criteria).items():
        points = [(1 / (1 - s), cell) for s in comparison.sparsities if (cell := robust.cells.get((method, s)))]
        if points := [(x, cell) for x, cell in points if cell.accuracies]:
            draw_method(axes, method, points, colour, marker, line)
        clean = [(1 / (1 - s), cell) for s in comparison.sparsities if (cell := comparison.cells.get((method, s)))]
        clean = [(x, cell) for x, cell in clean if cell.accuracies]
        axes.plot([x for x, _ in clean], [c.percent.mean for _, c in clean], ":", color=colour, linewidth=0.9)
    axes.plot([], [], ":", color=DENSE_COLOUR, linewidth=0.9, label="clean test accuracy")
    axes.grid(axis="y", alpha=0.25)


def security_curves(
    curves: Mapping[str, Sequence[tuple[float, Comparison]]], clean: Mapping[str, Comparison], path: Path
) -> None:
    """Robust accuracy at the highest sparsity against eps, from no attack on, a panel for each norm."""
    with canvas(path, width=4.8 * len(curves), height=4.4) as figure:
        grid = figure.subplots(1, len(curves), squeeze=False, sharey=True)[0]
        for axes, (name, points) in zip(grid, curves.items(), strict=True):
            comparison = clean[name]
            highest = comparison.sparsities[-1] if comparison.sparsities else 0.0
            at = [(0.0, comparison), *points]
            dense = [(eps, one.dense) for eps, one in at if one.dense.accuracies]
            if dense:
                draw_method(axes, "dense", dense, DENSE_COLOUR, "*", "--")
            for method, style in looks(comparison.methods, comparison.facts.criteria).items():
                own = [(eps, one.cell(method, highest)) for eps, one in at]
                if own := [(eps, cell) for eps, cell in own if cell.accuracies]:
                    draw_method(axes, method, own, *style)
            axes.set_ylim(-3, 103)
            axes.set_xlabel(f"eps, {name.split()[0]}, inputs in [0, 1]")
            axes.grid(alpha=0.25)
        grid[0].set_ylabel("accuracy under attack in %")
        figure.suptitle(literal(f"{comparison.title}, sparsity {highest:.10g}"), fontsize=11)
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
