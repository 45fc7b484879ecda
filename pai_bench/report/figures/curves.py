"""Learning curves, and ranks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from pai_bench.experiment.trial import DENSE
from pai_bench.report.figures.accuracy import error_axis
from pai_bench.report.figures.style import DENSE_COLOUR, canvas, legend, literal, looks
from pai_bench.report.statistics import Ranks
from pai_bench.report.summary import Comparison
from pai_bench.results import Record


def learning(
    comparison: Comparison, sparsity: float, records: Mapping[str, Record], path: Path, *, loss: bool = False
) -> bool:
    """Test accuracy, or training loss, of each epoch at one sparsity, means over the seeds that were trained.

    Networks without paths from input to output were not. Returns whether there is something to draw.
    """
    rows = comparison.rows[comparison.rows.status == "done"]
    epochs, curves, labels = {}, {}, {}
    for method in (DENSE, *comparison.methods):
        trained = rows[(rows.method == method) & ((rows.sparsity == sparsity) | (rows.criterion == DENSE))]
        by_seed = [curve for i in trained.identity if (curve := values(records[i], loss=loss))]
        seeds = comparison.cell(method, sparsity).seeds
        part = f", {len(by_seed)} of {seeds} seeds" if len(by_seed) < seeds else ""
        labels[method] = literal(method + part)
        if len({tuple(curve) for curve in by_seed}) == 1 and len(by_seed[0]) > 1:
            epochs[method] = list(by_seed[0])
            curves[method] = np.mean([list(curve.values()) for curve in by_seed], axis=0)
    if not set(curves) - {DENSE}:
        return False
    with canvas(path) as figure:
        axes = figure.subplots()
        styles = looks(comparison.methods, comparison.facts.criteria) | {DENSE: (DENSE_COLOUR, "None", "--")}
        for method in (name for name in styles if name in curves):
            colour, marker, line = styles[method]
            count = len(curves[method])
            every = None if method == DENSE else max(1, count // 10)
            style: dict[str, Any] = {"color": colour, "marker": marker, "markevery": every}
            axes.plot(epochs[method], curves[method], line, label=labels[method], **style)
        if loss:
            axes.set_ylim(bottom=0)
            axes.set_ylabel("training loss, mean of each epoch")
        else:
            error_axis(axes, min(map(min, curves.values())), max(map(max, curves.values())))
            axes.set_ylabel("test accuracy in % (scale: error)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_title(literal(f"{comparison.title}, sparsity {sparsity:.10g}"), fontsize=11)
        axes.grid(alpha=0.25)
        legend(axes)
    return True


def values(record: Record, *, loss: bool) -> dict[int, float]:
    """The training loss of each epoch, or the test accuracy after it in per cent; nothing where a loss is missing.

    By number of the epoch: a level of iterative pruning may leave out the first ones.
    """
    if not loss:
        return {epoch.epoch: 100 * epoch.test_accuracy for epoch in record.training.curve}
    losses = {epoch.epoch: epoch.train_loss for epoch in record.training.curve if epoch.train_loss is not None}
    return losses if len(losses) == len(record.training.curve) else {}


def critical_difference(result: Ranks, path: Path) -> None:
    """Mean ranks on a line, 1 the best at the left; bars join those that are closer than the critical difference."""
    order = np.argsort(result.mean, kind="stable")
    ranks = [result.mean[i] for i in order]
    groups: list[tuple[int, int]] = []
    for i, low in enumerate(ranks):
        last = max(j for j, high in enumerate(ranks) if high - low <= result.critical)
        if last > i and all(last > end for _, end in groups):  # they all begin earlier
            groups.append((i, last))
    count = len(ranks)
    with canvas(path, height=1.3 + 0.22 * count + 0.12 * len(groups)) as figure:
        axes = figure.subplots()
        axes.set_xlim(0.5, count + 0.5)
        depth = 0.6 + 0.25 * len(groups)
        for place, i in enumerate(order):
            left = place < (count + 1) // 2
            level = -depth - 0.5 * (place if left else count - 1 - place)
            end = 0.5 if left else count + 0.5
            axes.plot([result.mean[i], result.mean[i], end], [0, level, level], color="black", linewidth=0.8)
            text = f"{literal(result.methods[i])} {result.mean[i]:.2f}"
            axes.text(end, level, text, va="center", ha="right" if left else "left", fontsize=8)
        for level, (first, last) in enumerate(groups):
            axes.plot([ranks[first] - 0.03, ranks[last] + 0.03], [-0.25 * (level + 1)] * 2, color="black", linewidth=3)
        axes.plot([1, 1 + result.critical], [0.9, 0.9], color="black", linewidth=1.5, marker="|")
        axes.text(1 + result.critical / 2, 1.0, f"critical difference {result.critical:.2f}", ha="center", fontsize=8)
        axes.set_ylim(-depth - 0.5 * (count // 2 + 1), 1.6)
        axes.xaxis.set_ticks_position("top")
        axes.set_xticks(range(1, count + 1))
        axes.spines["top"].set_position(("data", 0))
        axes.spines["top"].set_visible(True)
        axes.spines[["left", "right", "bottom"]].set_visible(False)
        axes.yaxis.set_visible(False)
