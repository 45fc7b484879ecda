"""What scoring costs, and what it buys."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pai_bench.report.figures.style import COLOURS, canvas, legend, literal, looks, plain
from pai_bench.report.summary import Comparison
from pai_bench.report.tables import three_digits
from pai_bench.results import Cost


def bars(title: str, rows: list[Cost], path: Path) -> None:
    """Bars of one score and of a whole pruning by each criterion, in units of one training step, on a log scale."""
    with canvas(path, height=1.4 + 0.45 * len(rows)) as figure:
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
            axes.bar_label(bars, labels=list(map(three_digits, ends)), padding=3, fontsize=8)
        axes.set_xscale("log")
        plain(axes.xaxis)
        axes.set_xlim(lowest, 3 * max(score.max(), pruning.max()))
        axes.set_yticks(places, [literal(cost.trial["criterion"]["name"]) for cost in rows])
        axes.invert_yaxis()
        axes.set_xlabel("training steps (logarithmic)")
        axes.set_title(literal(title), fontsize=10)
        axes.legend(frameon=False, fontsize=9)


def by_machine(title: str, seconds: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Bars of the seconds of one score by each criterion, a colour for each machine, on a log scale."""
    methods = list(dict.fromkeys(method for of in seconds.values() for method in of))
    values = [value for of in seconds.values() for value in of.values()]
    lowest, width = min(values) / 2, 0.8 / len(seconds)
    with canvas(path, height=1.4 + 0.25 * len(methods) * len(seconds)) as figure:
        axes = figure.subplots()
        for i, (machine, of) in enumerate(seconds.items()):
            places = [methods.index(method) + (i - (len(seconds) - 1) / 2) * width for method in of]
            ends = np.array(list(of.values()))
            colour = COLOURS[i % len(COLOURS)]
            drawn = axes.barh(places, ends - lowest, width, left=lowest, color=colour, label=literal(machine))
            axes.bar_label(drawn, labels=list(map(three_digits, ends)), padding=3, fontsize=8)
        axes.set_xscale("log")
        plain(axes.xaxis)
        axes.set_xlim(lowest, 3 * max(values))
        axes.set_yticks(range(len(methods)), list(map(literal, methods)))
        axes.invert_yaxis()
        axes.set_xlabel("seconds of one score (logarithmic)")
        axes.set_title(literal(title), fontsize=10)
        legend(figure, axes)


LEAST = 0.02
"""The least width of an axis of seconds, as a share of them: nobody cares for less."""

LOWEST = 0.2
"""The least height of an axis of accuracies, in points."""


def pareto(comparison: Comparison, sparsity: float, path: Path) -> bool:
    """Accuracy at one sparsity against the seconds of scoring and training together.

    Training is the median over all trials of the comparison: masks do not change what a step costs. What no other
    criterion beats in both is joined by a line. Whether there is something to draw.
    """
    training = comparison.rows[comparison.rows.status == "done"].train_seconds.astype(float).median()
    points = {}
    for method in comparison.methods:
        rows = comparison.rows[(comparison.rows.method == method) & (comparison.rows.sparsity == sparsity)]
        rows = rows[rows.status != "failed"]
        total = training + rows.score_seconds.astype(float).median()
        if not np.isnan(total):
            points[method] = float(total), 100 * float(rows.test_accuracy.mean())
    if not points:
        return False
    with canvas(path) as figure:
        axes = figure.subplots()
        for method, (colour, marker, _) in looks(comparison.methods, comparison.facts.criteria).items():
            if method in points:
                axes.plot(*points[method], color=colour, marker=marker, linestyle="none", label=literal(method))
        front = sorted(
            (cost, accuracy)
            for cost, accuracy in points.values()
            if not any((c <= cost and a > accuracy) or (c < cost and a >= accuracy) for c, a in points.values())
        )
        axes.plot(*zip(*front, strict=True), color="#888888", linewidth=1, zorder=0, label="not beaten in both")
        axes.set_xlabel("seconds: scoring, median over seeds, and training, median of all trials")
        axes.set_ylabel("test accuracy in %, last epoch")
        axes.set_title(literal(f"{comparison.title}, sparsity {sparsity:.10g}"), fontsize=11)
        low, high = axes.get_xlim()
        middle = (low + high) / 2
        if high - low < LEAST * middle:
            axes.set_xlim(middle * (1 - LEAST / 2), middle * (1 + LEAST / 2))
        low, high = axes.get_ylim()
        if high - low < LOWEST:
            low, high = (low + high - LOWEST) / 2, (low + high + LOWEST) / 2
        axes.set_ylim(max(low, -LOWEST / 20), min(high, 100 + LOWEST / 20))  # no accuracy is above 100 %
        axes.grid(alpha=0.25)
        legend(figure, axes)
    return True


def scoring(comparison: Comparison, path: Path) -> bool:
    """Bars of what one mask costs by each criterion, in units of a training step, on a log scale.

    Whether there is something to draw.
    """
    found = {}
    for method in comparison.methods:
        rows = comparison.rows[comparison.rows.method == method]
        steps = comparison.batch_size / rows.images_per_second.astype(float)
        cost = float((rows.score_seconds.astype(float) / steps).median())
        if cost > 0:
            found[method] = cost
    if not found:
        return False
    with canvas(path, height=1.2 + 0.32 * len(found)) as figure:
        axes = figure.subplots()
        names, values = list(found), np.array(list(found.values()))
        lowest = values.min() / 2
        colours = [looks(comparison.methods, comparison.facts.criteria)[name][0] for name in names]
        drawn = axes.barh(range(len(names)), values - lowest, left=lowest, color=colours)
        axes.bar_label(drawn, labels=list(map(three_digits, values)), padding=3, fontsize=8)
        axes.set_xscale("log")
        plain(axes.xaxis)
        axes.set_xlim(lowest, 3 * values.max())
        axes.set_yticks(range(len(names)), [literal(name) for name in names])
        axes.invert_yaxis()
        axes.set_xlabel("training steps (logarithmic)")
        axes.set_title(literal(f"Cost of a mask, {comparison.title}"), fontsize=11)
    return True
