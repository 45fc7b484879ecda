"""Comparison of the trials that two results folders share, from two machines or two versions."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from pai_bench.experiment.settings import TrainingSettings, unusual
from pai_bench.report import outcomes, tables
from pai_bench.report.pairs import number
from pai_bench.report.provenance import describe_commit, describe_data, describe_environment
from pai_bench.report.statistics import (
    FEWEST,
    FEWEST_RANKED,
    LEVEL,
    PERCENT,
    ROUNDING,
    Estimate,
    Values,
    by_ranks,
    difference,
    estimate,
    holm,
    seeds_needed,
)
from pai_bench.report.summary import SHARED, method_labels, plural, resolution
from pai_bench.results import Record, as_frame


@dataclass(frozen=True)
class Change:
    """A method at one sparsity in both folders, over the seeds that both have; accuracies in per cent."""

    data: str
    """The data set, and all unusual settings."""
    model: str
    method: str
    sparsity: float
    before: Estimate
    after: Estimate
    p: float
    """Of Welch's t test, or of the signed-rank test where seeds are at chance, corrected by Holm over all cells."""
    identical: bool
    """Whether every accuracy is the same, to the last digit."""
    score_ratio: float
    """Median seconds of scoring after, divided by those before; NaN where they are not known."""
    train_ratio: float
    status: str
    """Trials whose status has changed."""
    collapsed: bool
    """Whether seeds are at chance or disconnected."""

    @property
    def difference(self) -> float:
        """After minus before, in points."""
        return self.after.mean - self.before.mean

    @property
    def significant(self) -> bool:
        """Whether the means differ by more than the spread of the seeds explains: corrected p <= `LEVEL`."""
        return self.p <= LEVEL


def changes(before: Sequence[Record], after: Sequence[Record]) -> list[Change]:
    """Every cell whose trials are in both folders."""
    shared = {record.identity for record in before} & {record.identity for record in after}
    if not shared:
        return []
    frames = []
    for records in (before, after):
        rows = as_frame(sorted((r for r in records if r.identity in shared), key=lambda record: record.identity))
        frames.append(rows.assign(method=method_labels(rows)).set_index("identity"))
    groups = frames[0].groupby([*SHARED, "method", "sparsity"], sort=False)
    cells = [change(rows, frames[1].loc[rows.index]) for _, rows in groups]
    corrected = holm([cell.p for cell in cells])
    return [replace(cell, p=p) for cell, p in zip(cells, corrected, strict=True)]


def change(before: pd.DataFrame, after: pd.DataFrame) -> Change:
    """The change of a cell, with an uncorrected p; `before` and `after` are rows of the same trials."""
    first, done = before.iloc[0], (before.status != "failed") & (after.status != "failed")
    both = pd.concat([before[done], after[done]])
    old, new = (100 * rows[done].test_accuracy.to_numpy(dtype=float) for rows in (before, after))
    collapsed = bool(outcomes.collapsed(both).any())
    moved = Counter(f"{a} to {b}" for a, b in zip(before.status, after.status, strict=True) if a != b)
    return Change(
        data=", ".join([first["data"], *unusual(first, TrainingSettings)]),
        model=first.model,
        method=first.method,
        sparsity=float(first.sparsity),
        before=estimate(old, PERCENT),
        after=estimate(new, PERCENT),
        p=p_value(old, new, resolution(pd.concat([before, after])), collapsed=collapsed),
        identical=bool(len(old) and (old == new).all()),
        score_ratio=ratio(before.score_seconds, after.score_seconds),
        train_ratio=ratio(before.train_seconds, after.train_seconds),
        status=", ".join(f"{count} {text}" for text, count in moved.items()),
        collapsed=collapsed,
    )


def ratio(before: "pd.Series[float]", after: "pd.Series[float]") -> float:
    """The median after divided by that before; NaN where they are not known."""
    old, new = (float(pd.to_numeric(seconds, errors="coerce").median()) for seconds in (before, after))
    return new / old if old else math.nan


def p_value(one: Values, other: Values, step: float, *, collapsed: bool) -> float:
    """The p of two sides of a cell, by the signed-rank test where seeds are `collapsed`; NaN if it cannot be tested."""
    return by_ranks(difference(one, other)) if collapsed else welch(one, other, step)


def welch(one: Values, other: Values, step: float) -> float:
    """Two-sided p of Welch's t test (1947, Biometrika 34:28) for two means; NaN below `FEWEST` values.

    t = (mean1 - mean2) / sqrt(s1^2 / n1 + s2^2 / n2). Where neither side varies, p is 1 if both are equal, else NaN.
    `step` is what one example counts: a smaller s is raised to step / sqrt(2), so that the difference of two values has
    at least the deviation `step`.
    """
    a, b = estimate(one), estimate(other)
    if min(a.count, b.count) < FEWEST:
        return math.nan
    noise = ROUNDING * max(np.abs(one).max(), np.abs(other).max())
    if max(np.ptp(one), np.ptp(other)) <= noise:
        return 1.0 if abs(a.mean - b.mean) <= noise else math.nan
    floor = step / math.sqrt(2)
    sides = (a.mean, max(a.deviation, floor), a.count, b.mean, max(b.deviation, floor), b.count)
    return float(stats.ttest_ind_from_stats(*sides, equal_var=False).pvalue)


def table(cells: Sequence[Change]) -> tables.Table:
    """A row for each cell, significant changes first."""
    rows = []
    for cell in sorted(cells, key=lambda cell: (not cell.significant, not cell.status)):
        same = cell.identical and cell.before.count and not cell.status
        verdict = "changed" if cell.significant else "identical" if same else ""
        rows.append(
            {
                "data": cell.data,
                "model": cell.model,
                "criterion": cell.method,
                "sparsity": f"{cell.sparsity:.10g}",
                "seeds": str(cell.before.count),
                "A": mean(cell.before),
                "B": mean(cell.after),
                "B - A": number(cell.difference, "{:+.2f}"),
                "p, Holm": number(cell.p),
                "score, B / A": number(cell.score_ratio, "{:.2f}"),
                "training, B / A": number(cell.train_ratio, "{:.2f}"),
                "": ", ".join(filter(None, (verdict, cell.status))),
            }
        )
    return tables.from_rows(rows)


def mean(result: Estimate) -> str:
    """A mean with its deviation."""
    if not result.count:
        return "–"
    return f"{result.mean:.2f}" + ("" if math.isnan(result.deviation) else f" ± {result.deviation:.2f}")


def verdict(cells: Sequence[Change], before: Sequence[Record], after: Sequence[Record]) -> str:
    """The result of the comparison in a few sentences."""
    a, b = ({record.identity for record in records} for records in (before, after))
    changed, same = sum(cell.significant for cell in cells), sum(cell.identical and not cell.status for cell in cells)
    tested = [cell for cell in cells if not math.isnan(cell.p)]
    text = (
        f"{plural(len(a & b), 'trial')} in both, {len(a - b):,} only in A, {len(b - a):,} only in B. Of "
        f"{plural(len(cells), 'cell')}, {same:,} identical in every accuracy, {changed:,} changed beyond the spread of "
        f"their seeds (Welch's t test, {LEVEL:.0%}, Holm's correction)."
    )
    if moved := sum(bool(cell.status) for cell in cells):
        text += f" In {plural(moved, 'cell')} at least one trial changed its status."
    if untested := len(cells) - len(tested):
        text += (
            f" {plural(untested, 'cell')} could not be tested: fewer than {FEWEST} seeds, no spread, or fewer than "
            f"{FEWEST_RANKED} seeds and some of them at chance or disconnected."
        )
    needed = seeds_needed(max(1, len(tested)))
    if few := sum(cell.collapsed and not cell.identical and cell.before.count < needed for cell in tested):
        text += (
            f" In {plural(few, 'cell')} seeds are at chance or disconnected, and the signed-rank test decides: after "
            f"correction it takes {needed} seeds to show a change."
        )
    return text


def page(
    cells: Sequence[Change], before: Sequence[Record], after: Sequence[Record], left_out: Sequence[str] = ()
) -> str:
    """The comparison in markdown, of the `changes`; `left_out` are files that could not be read."""
    parts = [
        "# Two results folders side by side",
        verdict(cells, before, after),
        "Test accuracy of the last epoch in per cent, mean ± standard deviation over the seeds that both have; seconds "
        "are medians.",
    ]
    parts += [tables.markdown(table(cells))] if cells else []
    lines = []
    for name, records in (("A", before), ("B", after)):
        origins = [f"{describe_environment(r)}; commit {describe_commit(r) or 'unknown'}" for r in records]
        lines += [f"{name}: {line}" for line in dict.fromkeys([*origins, *map(describe_data, records)])]
    return "\n\n".join([*parts, "## Where they come from", tables.bullets([*lines, *left_out])]) + "\n"
