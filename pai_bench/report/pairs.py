"""Criteria of one comparison, two by two: which are told apart by their seeds."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pai_bench.plan import DENSE
from pai_bench.report.statistics import (
    FEWEST,
    LEVEL,
    POINTS,
    Difference,
    difference,
    holm,
    least_signed_rank,
)
from pai_bench.report.summary import Cell, Comparison, plural
from pai_bench.report.tables import Table

SETTLED = next(n for n in itertools.count(1) if least_signed_rank(n) <= LEVEL)
"""Seeds with which the exact signed-rank test can reject: six."""

UNTRAINED, TOO_FEW = "networks that did not train", f"fewer than {FEWEST} seeds"
FALLEN = f"fewer than {SETTLED} seeds, some of them at chance or disconnected"
SAME = "the same difference for all seeds"
"""Why pairs are not tested."""


@dataclass(frozen=True)
class Pair:
    """Two methods at one sparsity, the one with the higher mean first; differences are in points of accuracy."""

    sparsity: float
    better: str
    worse: str
    difference: Difference
    p: float
    """Of the paired t test; of the exact signed-rank test where seeds are `collapsed`; NaN where neither is made."""
    corrected: float
    """`p` by Holm's correction over all pairs and sparsities of the comparison."""
    collapsed: str = ""
    """Which seeds are at chance or disconnected."""
    untrained: tuple[str, ...] = ()
    """Those of the two whose training loss is that of chance."""

    @property
    def apart(self) -> bool:
        """Whether the two differ at `LEVEL`; False also where that cannot be tested."""
        return self.corrected <= LEVEL

    @property
    def untested(self) -> str:
        """Why no test is made; nothing where one is."""
        if not math.isnan(self.p):
            return ""
        if self.untrained:
            return UNTRAINED
        if self.difference.seeds < FEWEST:
            return TOO_FEW
        return FALLEN if self.collapsed and not self.difference.same else SAME

    def points(self, sign: int = 1, *, inside: bool = False) -> str:
        """The mean difference with its interval, in parentheses or, `inside` of others, behind a comma.

        With `sign` -1 it is that of the worse to the better.
        """
        found = self.difference.estimate
        low, high = sorted((sign * found.low, sign * found.high))
        interval = "" if math.isnan(low) else f"{low:.2f} to {high:.2f}"
        if not interval:
            return f"{sign * found.mean:.2f}"
        return f"{sign * found.mean:.2f}, {interval}" if inside else f"{sign * found.mean:.2f} points ({interval})"


def accuracies(comparison: Comparison) -> pd.DataFrame:
    """Test accuracy in per cent: a row for each seed, a column for each (method, sparsity); NaN for what has failed."""
    rows = comparison.rows[(comparison.rows.status != "failed") & (comparison.rows.criterion != DENSE)]
    found = rows.pivot_table(index="seed", columns=["method", "sparsity"], values="test_accuracy", aggfunc="mean")
    return 100 * found


def pairs(comparison: Comparison) -> list[Pair]:
    """All pairs of methods at each sparsity, over the seeds that both have.

    The t test asks for normal differences. Where some networks are at chance or disconnected, differences are nothing
    of the kind: three seeds of one criterion that all fall and three of another that none does come about by chance in
    one of thirty cases if half of the networks fall. There the signed-rank test decides, from `SETTLED` seeds on. What
    has not begun to train, for want of steps, is not compared at all.
    """
    found = list(differences(comparison))
    ps = [p_value(one, comparison) for one in found]
    return [
        Pair(*one, p, corrected, fallen(one, comparison), untrained(one, comparison))
        for one, p, corrected in zip(found, ps, holm(ps), strict=True)
    ]


Compared = tuple[float, str, str, Difference]
"""Sparsity, the better of two methods, the worse, and their difference."""


def differences(comparison: Comparison) -> Iterator[Compared]:
    """The differences of all pairs of methods at each sparsity."""
    table, resolution = accuracies(comparison), comparison.resolution
    columns: dict[object, NDArray[np.float64]] = dict(zip(table.columns, table.to_numpy().T, strict=True))
    for sparsity in comparison.sparsities:
        here = [method for method in comparison.methods if (method, sparsity) in columns]
        for one, other in itertools.combinations(here, 2):
            both = np.stack([columns[one, sparsity], columns[other, sparsity]], axis=1)
            both = both[~np.isnan(both).any(axis=1)]
            if not len(both):
                continue
            names = (one, other) if both[:, 0].mean() >= both[:, 1].mean() else (other, one)
            values = both.T if names[0] == one else both.T[::-1]
            yield sparsity, *names, difference(*values, resolution=resolution, bounds=POINTS)


def p_value(found: Compared, comparison: Comparison) -> float:
    """The p by which a pair is judged; NaN if it is not."""
    tested = found[3]
    if untrained(found, comparison) or tested.seeds < FEWEST:
        return math.nan
    if tested.same or not fallen(found, comparison):
        return tested.p
    if tested.seeds < SETTLED:
        return math.nan
    return 1.0 if math.isnan(tested.wilcoxon) else tested.wilcoxon  # of less than two seeds that differ at all


def untrained(found: Compared, comparison: Comparison) -> tuple[str, ...]:
    """Those of a pair whose training loss is that of chance. Of random labels, that is a finding and no hindrance."""
    sparsity, *names, _ = found
    if comparison.label_noise:
        return ()
    return tuple(str(name) for name in names if cell_of(comparison, str(name), sparsity).at_chance)


def fallen(found: Compared, comparison: Comparison) -> str:
    """Which seeds of a pair are at chance or disconnected; nothing if none is."""
    sparsity, *names, _ = found
    cells = {str(name): cell_of(comparison, str(name), sparsity) for name in names}
    parts = [
        f"{cell.collapsed} of {plural(len(cell.accuracies), 'seed')} of {name}"
        for name, cell in cells.items()
        if cell.collapsed
    ]
    return f"{' and '.join(parts)} at chance or disconnected" if parts else ""


def cell_of(comparison: Comparison, method: str, sparsity: float) -> Cell:
    """A cell of a comparison, an empty one where nothing was run."""
    return comparison.cells.get((method, sparsity), Cell(()))


def power(found: Sequence[Pair]) -> str | None:
    """What the tests of a comparison rest on, and what its seeds cannot show."""
    tested = [pair for pair in found if not math.isnan(pair.p)]
    counts = Counter(pair.untested for pair in found if pair.untested)
    reasons = "; ".join(f"{why} ({count})" for why, count in counts.items())
    if not tested:
        return f"No pair could be tested: {reasons}." if counts else None
    text = (
        f"Tests: paired t over seeds, two-sided, Holm's correction over the {plural(len(tested), 'pair')} of this "
        f"network and data set, so that in {100 * LEVEL:.0f} % of such families at most chance alone would be called a "
        "difference; the intervals are not corrected. "
    )
    if by_rank := sum(bool(pair.collapsed) for pair in tested):
        text += (
            f"Where seeds are at chance or disconnected ({plural(by_rank, 'pair')}), differences are not normal, and "
            "the exact signed-rank test takes the place of the t test. "
        )
    text += "The exact signed-rank test, which does not ask for normal differences, stands beside it, uncorrected."
    by_t = [pair for pair in tested if not pair.collapsed]
    if few := sorted(n for pair in by_t if least_signed_rank(n := pair.difference.seeds) * len(tested) > LEVEL):
        seeds = plural(few[-1], "seed") if few[0] == few[-1] else f"{few[0]} to {few[-1]} seeds"
        text += (
            f" With the {seeds} of {'all' if len(few) == len(tested) else plural(len(few), 'pair')} it cannot give "
            f"less than {least_signed_rank(few[-1]):.3g}, which would not reject after the correction: that the t test "
            "holds there rests on differences being normal."
        )
    return text + (f" {plural(counts.total(), 'pair')} could not be tested: {reasons}." if counts else "")


def table(found: Sequence[Pair]) -> Table:
    """A row for each pair: the difference in points, its interval, effect size and tests."""
    head = [
        "sparsity",
        "criteria",
        "difference",
        f"{100 * (1 - LEVEL):.0f} % interval",
        "seeds",
        "effect d_z",
        "p",
        "p, Holm",
    ]
    head += ["signed rank p", ""]
    body = []
    for pair in found:
        one = pair.difference.estimate
        body.append(
            [
                f"{pair.sparsity:.10g}",
                f"{pair.better} – {pair.worse}",
                f"{one.mean:.2f}",
                "–" if math.isnan(one.low) or one.low == one.high else f"{one.low:.2f} to {one.high:.2f}",
                str(one.count),
                number(pair.difference.effect, "{:.2f}"),
                number(pair.p),
                number(pair.corrected),
                number(pair.difference.wilcoxon),
                pair.untested or ("differ" if pair.apart else ""),
            ]
        )
    return [head, *body]


def number(value: float, form: str = "{:.2g}") -> str:
    """A number, or a dash for NaN."""
    return "–" if math.isnan(value) else form.format(value)
