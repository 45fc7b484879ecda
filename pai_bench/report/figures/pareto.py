"""Accuracy against cost."""

from pathlib import Path

import numpy as np

from pai_bench.experiment.trial import DENSE
from pai_bench.report import outcomes
from pai_bench.report.figures.style import canvas, legend, literal, looks
from pai_bench.report.summary import Comparison

LEAST_WIDTH = 0.02
"""The least width of the axis of seconds, as a share of them: smaller differences do not matter."""

LEAST_HEIGHT = 0.2
"""The least height of the axis of accuracies, in points."""


def pareto(comparison: Comparison, sparsity: float, path: Path) -> bool:
    """Accuracy at one sparsity against the seconds of scoring, also during training, and training together.

    Training is the median over all trials of the comparison: masks do not change what a step costs. That of smaller
    networks, and of iterative pruning with all its trainings, is the median of their own. A line joins the criteria
    that no other one beats in both. Returns whether there is something to draw.
    """
    done = comparison.rows[comparison.rows.status == "done"]
    smaller, iterative = outcomes.smaller(done), outcomes.iterative(done)
    training = done[~(smaller | iterative)].train_seconds.astype(float).median()
    rows = comparison.rows[(comparison.rows.sparsity == sparsity) & (comparison.rows.status != "failed")]
    points = {}
    for method, own in rows.groupby("method"):
        has_own = (outcomes.smaller(own) | outcomes.iterative(own)).any()
        seconds = outcomes.training_seconds(own).median() if has_own else training
        spent = own[["score_seconds", "event_seconds"]].astype(float).sum(axis=1, min_count=1)
        total = seconds + spent.median()
        if method in comparison.methods and not np.isnan(total):
            points[str(method)] = float(total), 100 * float(own.test_accuracy.mean())
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
        trials = "all trials"
        own_kinds = {"a smaller network": smaller.any(), "iterative pruning": iterative.any()}
        if kinds := " and ".join(kind for kind, is_there in own_kinds.items() if is_there):
            others = bool((~(smaller | iterative) & (done.criterion != DENSE)).any())
            trials = f"all other trials;\nof {kinds}, of its own" if others else "its own trials"
        axes.set_xlabel(f"seconds: scoring, median over seeds, and training, median of {trials}")
        axes.set_ylabel("test accuracy in %, last epoch")
        axes.set_title(literal(f"{comparison.title}, sparsity {sparsity:.10g}"), fontsize=11)
        axes.set_xlim(widened(*axes.get_xlim(), LEAST_WIDTH * sum(axes.get_xlim()) / 2))
        low, high = widened(*axes.get_ylim(), LEAST_HEIGHT)
        axes.set_ylim(max(low, -LEAST_HEIGHT / 20), min(high, 100 + LEAST_HEIGHT / 20))  # accuracies end at 100 %
        axes.grid(alpha=0.25)
        legend(axes)
    return True


def widened(low: float, high: float, least: float) -> tuple[float, float]:
    """The ends of an axis, moved apart evenly if they are closer than `least`."""
    missing = max(0.0, least - (high - low)) / 2
    return low - missing, high + missing
