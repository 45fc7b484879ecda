"""What benchmarks measured, as bars."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pai_bench.report.figures.style import COLLAPSED_COLOUR, COLOURS, canvas, literal, plain
from pai_bench.report.tables import three_digits
from pai_bench.results import BenchmarkResult

WIDE = 30.0
"""By how much the largest value is above the smallest where the axis is logarithmic."""


def bars(title: str, results: Sequence[BenchmarkResult], path: Path) -> None:
    """A bar for each result, of the value called `bar`, with a line at its limit."""
    ends = np.array([float(one.values[one.bar or ""] or 0) for one in results])
    limits = [one.limits.get(one.bar or "") for one in results]
    seen = np.array([value for value in (*ends, *(limit for limit in limits if limit)) if value > 0])
    logarithmic = bool(len(seen)) and ends.min() >= 0 and seen.max() > WIDE * seen.min()
    low = seen.min() / 3 if logarithmic else min(0.0, float(ends.min()))
    with canvas(path, height=1.2 + 0.32 * len(results)) as figure:
        axes = figure.subplots()
        drawn = axes.barh(range(len(results)), np.maximum(ends, low) - low, left=low, color=COLOURS[0])
        axes.bar_label(drawn, labels=list(map(three_digits, ends)), padding=3, fontsize=8)
        for place, limit in enumerate(limits):
            if limit is not None and (limit > 0 or not logarithmic):
                axes.plot([limit] * 2, [place - 0.4, place + 0.4], color=COLLAPSED_COLOUR, linewidth=2)
        if logarithmic:
            axes.set_xscale("log")
            plain(axes.xaxis)
            axes.set_xlim(low, 4 * seen.max())
        else:
            axes.margins(x=0.15)
        axes.set_yticks(range(len(results)), [literal(one.name) for one in results])
        axes.invert_yaxis()
        axes.set_xlabel(literal((results[0].bar or "") + (" (logarithmic)" if logarithmic else "")))
        axes.set_title(literal(title), fontsize=10)
