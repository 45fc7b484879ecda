"""The same trials in two results folders, side by side: two machines, two versions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from pai_bench.experiment.settings import TrainingSettings, unusual
from pai_bench.report import outcomes, tables
from pai_bench.report.provenance import describe_commit, describe_data, describe_environment
from pai_bench.report.statistics import (
    FEWEST,
    LEVEL,
    PERCENT,
    ROUNDING,
    SETTLED,
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

KEYS = [*SHARED, "method", "sparsity"]


@dataclass(frozen=True)
class Change:
    """One cell in both folders, over the seeds that both have; accuracies in per cent."""

    data: str
    """With what else tells its setting apart."""
    model: str
    method: str
    sparsity: float
    before: Estimate
    after: Estimate
    p: float
    """Of Welch's t test, or of the signed-rank test where seeds are at chance, corrected by Holm over all cells."""
    identical: bool
    """Whether every accuracy is the same, to the last digit."""
    slower: Mapping[str, float]
    """Scoring and training: seconds after by seconds before, medians."""
    status: str
    """Trials whose status has changed."""
    collapsed: bool = False
    """Whether seeds are at chance or disconnected."""

    @property
    def difference(self) -> float:
        """After minus before, in points."""
        return self.after.mean - self.before.mean

    @property
    def beyond(self) -> bool:
        """Whether the means differ by more than the spread of the seeds explains."""
        return self.p <= LEVEL


def changes(before: Sequence[Record], after: Sequence[Record]) -> list[Change]:
    """Every cell whose trials are in both folders."""
    shared = {record.identity for record in before} & {record.identity for record in after}
    if not shared:
        return []
    one, two = (
        as_frame([r for r in sorted(records, key=lambda r: r.identity) if r.identity in shared])
        for records in (before, after)
    )
    one, two = (rows.assign(method=method_labels(rows)).set_index("identity") for rows in (one, two))
    found = []
    for _, group in one.groupby(KEYS, sort=False):
        first = group.iloc[0]
        other = two.loc[group.index]
        ok = (group.status != "failed") & (other.status != "failed")
        values = [100 * rows[ok].test_accuracy.to_numpy(dtype=float) for rows in (group, other)]
        fallen = any(bool(outcomes.collapsed(rows[ok]).any()) for rows in (group, other))
        moved = [f"{a} to {b}" for a, b in zip(group.status, other.status, strict=True) if a != b]
        counts = {text: moved.count(text) for text in dict.fromkeys(moved)}
        slower = {}
        for name in ("score_seconds", "train_seconds"):
            times = [pd.to_numeric(rows[name], errors="coerce").median() for rows in (group, other)]
            slower[name] = times[1] / times[0] if times[0] else math.nan
        found.append(
            Change(
                data=", ".join([first["data"], *unusual(first, TrainingSettings)]),
                model=first.model,
                method=first.method,
                sparsity=float(first.sparsity),
                before=estimate(values[0], PERCENT),
                after=estimate(values[1], PERCENT),
                p=p_value(values[0], values[1], resolution(pd.concat([group, other])), fallen=fallen),
                identical=bool(len(values[0]) and (values[0] == values[1]).all()),
                slower=slower,
                status=", ".join(f"{count} {text}" for text, count in counts.items()),
                collapsed=fallen,
            )
        )
    corrected = holm([change.p for change in found])
    return [Change(**{**vars(change), "p": p}) for change, p in zip(found, corrected, strict=True)]


def p_value(one: NDArray[np.float64], other: NDArray[np.float64], step: float, *, fallen: bool) -> float:
    """By which two sides of a cell are judged; NaN where that cannot be done.

    Where seeds have `fallen`, to chance or by disconnection, no t test holds; see `pai_bench.report.pairs`.
    """
    return by_ranks(difference(one, other)) if fallen else welch(one, other, step)


def welch(one: Values, other: Values, step: float = 0.0) -> float:
    """P of Welch's t test (1947) for the difference of two means; NaN below `FEWEST` values.

    Of values that are all the same on either side, 1 if both sides are alike, else NaN: there is no spread to judge by.
    Deviations are at least such that their difference has that of a `step`, what one example counts.
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


def table(found: Sequence[Change]) -> tables.Table:
    """A row for each cell; what has changed beyond the spread of its seeds first."""
    head = ["data", "model", "criterion", "sparsity", "seeds", "A", "B", "B - A", "p, Holm", "score, B / A"]
    head += ["training, B / A", ""]
    body = []
    for one in sorted(found, key=lambda change: (not change.beyond, not change.status)):
        verdict = (
            "changed" if one.beyond else "identical" if one.identical and one.before.count and not one.status else ""
        )
        body.append(
            [
                *(one.data, one.model, one.method, f"{one.sparsity:.10g}", str(one.before.count)),
                *(mean(one.before), mean(one.after)),
                "–" if math.isnan(one.difference) else f"{one.difference:+.2f}",
                "–" if math.isnan(one.p) else f"{one.p:.2g}",
                *("–" if math.isnan(ratio) else f"{ratio:.2f}" for ratio in one.slower.values()),
                ", ".join(part for part in (verdict, one.status) if part),
            ]
        )
    return [head, *body]


def mean(found: Estimate) -> str:
    """A mean with its deviation."""
    if not found.count:
        return "–"
    return f"{found.mean:.2f}" + ("" if math.isnan(found.deviation) else f" ± {found.deviation:.2f}")


def verdict(found: Sequence[Change], before: Sequence[Record], after: Sequence[Record]) -> str:
    """What came of the comparison, in a few sentences."""
    ids = [{record.identity for record in records} for records in (before, after)]
    changed, same = sum(one.beyond for one in found), sum(one.identical and not one.status for one in found)
    untested, moved = sum(math.isnan(one.p) for one in found), sum(bool(one.status) for one in found)
    text = (
        f"{plural(len(ids[0] & ids[1]), 'trial')} in both, {len(ids[0] - ids[1]):,} only in A, "
        f"{len(ids[1] - ids[0]):,} only in B. Of {plural(len(found), 'cell')}, {same:,} identical in every accuracy, "
        f"{changed:,} changed beyond the spread of their seeds (Welch's t test, {LEVEL:.0%}, Holm's correction)."
    )
    if moved:
        text += f" In {plural(moved, 'cell')} at least one trial changed its status."
    if untested:
        text += (
            f" {plural(untested, 'cell')} could not be tested: fewer than {FEWEST} seeds, no spread, or fewer than "
            f"{SETTLED} seeds and some of them at chance or disconnected."
        )
    tested = [one for one in found if not math.isnan(one.p)]
    needed = seeds_needed(max(1, len(tested)))
    if few := sum(one.collapsed and not one.identical and one.before.count < needed for one in tested):
        text += (
            f" In {plural(few, 'cell')} seeds are at chance or disconnected, and the signed-rank test decides: after "
            f"correction it takes {needed} seeds to show a change."
        )
    return text


def page(before: Sequence[Record], after: Sequence[Record], left_out: Sequence[str] = ()) -> str:
    """The comparison in markdown; `left_out` are files that could not be read."""
    found = changes(before, after)
    machines = []
    for name, records in (("A", before), ("B", after)):
        origins = dict.fromkeys(f"{describe_environment(r)}; commit {describe_commit(r) or 'unknown'}" for r in records)
        machines += [f"{name}: {origin}" for origin in origins]
        machines += [f"{name}: {data}" for data in dict.fromkeys(map(describe_data, records))]
    machines += left_out
    parts = ["# Two results folders side by side", verdict(found, before, after)]
    parts += [
        "Test accuracy of the last epoch in per cent, mean ± standard deviation over the seeds that both have; seconds "
        "are medians."
    ]
    parts += [tables.markdown(table(found))] if found else []
    return (
        "\n\n".join([*parts, "## Where they come from", "\n".join(f"* {tables.escaped(line)}" for line in machines)])
        + "\n"
    )
