"""Bar charts of costs and of benchmark results."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from pai_bench.report import outcomes
from pai_bench.report.figures.style import COLLAPSED_COLOUR, COLOURS, canvas, legend, literal, looks, plain
from pai_bench.report.summary import Comparison
from pai_bench.report.tables import three_digits
from pai_bench.results import BenchmarkResult, Cost

LARGEST_LINEAR_RATIO = 30.0
"""Ratio of the largest to the smallest value above which an axis is logarithmic."""


@contextmanager
def bar_chart(
    path: Path, height: float, names: Sequence[str], ends: tuple[float, float] | None = None
) -> Iterator[Axes]:
    """Axes for horizontal bars, the first of `names` at the top; logarithmic between `ends`, linear without them."""
    with canvas(path, height=height) as figure:
        axes = figure.subplots()
        yield axes
        if ends:
            axes.set_xscale("log")
            plain(axes.xaxis)
            axes.set_xlim(*ends)
        axes.set_yticks(range(len(names)), list(map(literal, names)))
        axes.invert_yaxis()


def draw_bars(axes: Axes, places: Any, values: Any, start: float, height: float = 0.8, **style: Any) -> None:
    """Bars from `start` to `values`, with the values beside them."""
    bars = axes.barh(places, np.maximum(values, start) - start, height, left=start, **style)
    axes.bar_label(bars, labels=list(map(three_digits, values)), padding=3, fontsize=8)


def costs(title: str, rows: Sequence[Cost], path: Path) -> None:
    """Bars of one score and of a whole pruning by each criterion, in units of one training step, on a log scale."""
    step = float(np.median([cost.step_seconds for cost in rows]))
    score, pruning = np.array([(cost.seconds, cost.prune_seconds) for cost in rows]).T / step
    start, places = min(*score, *pruning) / 2, np.arange(len(rows))
    names = [cost.trial["criterion"]["name"] for cost in rows]
    with bar_chart(path, 1.4 + 0.45 * len(rows), names, (start, 3 * max(*score, *pruning))) as axes:
        draw_bars(axes, places - 0.19, score, start, 0.36, color=COLOURS[0], label="one score")
        draw_bars(axes, places + 0.19, pruning, start, 0.36, color=COLOURS[1], label="pruning")
        axes.set_xlabel("training steps (logarithmic)")
        axes.set_title(literal(title), fontsize=10)
        axes.legend(frameon=False, fontsize=9)


def costs_by_machine(title: str, seconds: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Bars of the seconds of one score by each criterion, a colour for each machine, on a log scale."""
    methods = list(dict.fromkeys(method for by_method in seconds.values() for method in by_method))
    values = [value for by_method in seconds.values() for value in by_method.values()]
    start, width = min(values) / 2, 0.8 / len(seconds)
    height = 1.4 + 0.25 * len(methods) * len(seconds)
    with bar_chart(path, height, methods, (start, 3 * max(values))) as axes:
        for i, (machine, by_method) in enumerate(seconds.items()):
            places = [methods.index(method) + (i - (len(seconds) - 1) / 2) * width for method in by_method]
            style = {"color": COLOURS[i % len(COLOURS)], "label": literal(machine)}
            draw_bars(axes, places, list(by_method.values()), start, width, **style)
        axes.set_xlabel("seconds of one score (logarithmic)")
        axes.set_title(literal(title), fontsize=10)
        legend(axes)


def mask_costs(comparison: Comparison, path: Path) -> bool:
    """Bars of the cost of one mask by each criterion, in units of a training step, on a log scale.

    Of a smaller network, the unit is a step of the others, where there are any, since its own ones are shorter.
    Returns whether there is something to draw.
    """
    rows = comparison.rows.astype({"images_per_second": float, "score_seconds": float})
    speed, smaller = rows.images_per_second, outcomes.smaller(rows)
    if not np.isnan(usual := speed[~smaller].median()):
        speed = speed.mask(smaller, usual)
    steps = rows.score_seconds * speed / comparison.batch_size
    medians = steps.groupby(rows.method).median()
    values = medians.reindex([m for m in comparison.methods if medians[m] > 0])
    if not len(values):
        return False
    styles, start = looks(comparison.methods, comparison.facts.criteria), values.min() / 2
    with bar_chart(path, 1.2 + 0.32 * len(values), list(values.index), (start, 3 * values.max())) as axes:
        draw_bars(axes, range(len(values)), values, start, color=[styles[method][0] for method in values.index])
        axes.set_xlabel("training steps (logarithmic)")
        axes.set_title(literal(f"Cost of a mask, {comparison.title}"), fontsize=11)
    return True


def benchmarks(title: str, results: Sequence[BenchmarkResult], path: Path) -> None:
    """A bar for each result, of the value that its `bar` names, with a line at its limit."""
    values = np.array([float(result.values[result.bar or ""] or 0) for result in results])
    limits = [result.limits.get(result.bar or "") for result in results]
    positive = [value for value in (*values, *(limit or 0 for limit in limits)) if value > 0]
    log = bool(positive) and values.min() >= 0 and max(positive) > LARGEST_LINEAR_RATIO * min(positive)
    start = min(positive) / 3 if log else min(0.0, float(values.min()))
    ends = (start, 4 * max(positive)) if log else None
    with bar_chart(path, 1.2 + 0.32 * len(results), [result.name for result in results], ends) as axes:
        draw_bars(axes, range(len(results)), values, start, color=COLOURS[0])
        for place, limit in enumerate(limits):
            if limit is not None and (limit > 0 or not log):
                axes.plot([limit] * 2, [place - 0.4, place + 0.4], color=COLLAPSED_COLOUR, linewidth=2)
        if not log:
            axes.margins(x=0.15)
        axes.set_xlabel(literal((results[0].bar or "") + (" (logarithmic)" if log else "")))
        axes.set_title(literal(title), fontsize=10)
