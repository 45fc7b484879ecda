"""Criteria of one comparison, two by two: which are told apart by their seeds.

What is compared, and how; sentences, limits, tables and the terminal say what follows from this rule:

1. A criterion is not compared at a sparsity at which half or more of its networks did not train, unless some training
   labels are random.
2. Below `FEWEST` seeds, and where the difference is the same for all seeds, there is no verdict.
3. Where networks of either criterion are at chance or disconnected, the exact signed-rank test decides, from `SETTLED`
   seeds on, and no interval is given.
4. Everywhere else the paired t test decides.

Holm's correction is over all tests that are made.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pai_bench.experiment.trial import DENSE
from pai_bench.report import outcomes
from pai_bench.report.statistics import (
    FEWEST,
    LEVEL,
    POINTS,
    SETTLED,
    Difference,
    by_ranks,
    difference,
    holm,
    least_signed_rank,
    seeds_needed,
)
from pai_bench.report.summary import Cell, Comparison, by_cell, mostly, plural
from pai_bench.report.tables import Table

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
    """Those of the two of which half or more of the networks did not train."""
    needed: int = SETTLED
    """Seeds with which the signed-rank test can reject after the correction."""

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

    @property
    def by_ranks(self) -> bool:
        """Whether the signed-rank test decides."""
        return bool(self.collapsed) and not self.untested and not self.difference.same

    @property
    def too_few(self) -> bool:
        """Whether the signed-rank test would decide, and has too few seeds to, for so many tests."""
        few = self.untested == FALLEN or (self.by_ranks and self.difference.seeds < self.needed)
        return few and not self.apart

    def interval(self, sign: int = 1) -> str:
        """Of the difference, or with `sign` -1 of its negative; nothing without spread or with networks at chance."""
        found = self.difference.estimate
        low, high = sorted((sign * found.low, sign * found.high))
        return f"{low:.2f} to {high:.2f}" if low < high and not self.collapsed else ""

    def points(self, sign: int = 1, *, inside: bool = False) -> str:
        """The mean difference with its interval, or why there is none, in parentheses or, `inside` of others, without.

        With `sign` -1 it is that of the worse to the better.
        """
        mean, more = f"{sign * self.difference.estimate.mean:.2f}", self.interval(sign)
        if self.by_ranks or self.too_few:
            more = self.collapsed + f": a verdict takes {self.needed}" * self.too_few
        if not more:
            return mean
        return f"{mean}{'; ' if self.collapsed else ', '}{more}" if inside else f"{mean} points ({more})"


def accuracies(comparison: Comparison) -> pd.DataFrame:
    """Test accuracy in per cent: a row for each seed, a column for each (method, sparsity); NaN for what has failed."""
    rows = comparison.rows[(comparison.rows.status != "failed") & (comparison.rows.criterion != DENSE)]
    found = rows.pivot_table(index="seed", columns=["method", "sparsity"], values="test_accuracy", aggfunc="mean")
    return 100 * found


def pairs(comparison: Comparison) -> list[Pair]:
    """All pairs of methods at each sparsity, over the seeds that both have.

    The t test asks for normal differences. Where some networks are at chance or disconnected, differences are nothing
    of the kind: three seeds of one criterion that all fall and three of another that none does come about by chance in
    one of thirty cases if half of the networks fall. What has not begun to train, for want of steps, may end elsewhere.
    """
    found = list(differences(comparison))
    known = networks(comparison)
    idle, down = [untrained(one, comparison, known) for one in found], [fallen(one, comparison) for one in found]
    ps = [p_value(one[3], bool(some), bool(text)) for one, some, text in zip(found, idle, down, strict=True)]
    needed = seeds_needed(max(1, sum(not some for some in idle)))
    return [
        Pair(*one, p, corrected, text, some, needed)
        for one, p, corrected, text, some in zip(found, ps, holm(ps), down, idle, strict=True)
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


def p_value(tested: Difference, untrained: bool, collapsed: bool) -> float:
    """The p by which a pair is judged; NaN if it is not."""
    if untrained or tested.seeds < FEWEST:
        return math.nan
    return by_ranks(tested) if collapsed else tested.p


Networks = Mapping[tuple[str, float], Mapping[int, bool]]
"""Whether the network of a method and sparsity did not train, by seed, without what has failed."""


def networks(comparison: Comparison) -> Networks:
    """Which networks of a comparison did not train."""
    rows = comparison.rows[comparison.rows.status != "failed"]
    seeds, flags = rows.seed.tolist(), outcomes.untrained(rows).tolist()
    return {(method, s): {seeds[i]: flags[i] for i in places} for method, s, places in by_cell(rows)}


def untrained(found: Compared, comparison: Comparison, known: Networks) -> tuple[str, ...]:
    """Those of a pair that are not compared; of the seeds that both have, too, half or more may not have trained."""
    sparsity, one, other, _ = found
    if comparison.label_noise:
        return ()
    both = known[one, sparsity].keys() & known[other, sparsity].keys()
    return tuple(
        name
        for name in (one, other)
        if comparison.not_compared(name, sparsity)
        or mostly(sum(known[name, sparsity][seed] for seed in both), len(both))
    )


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
    if by_rank := sum(pair.by_ranks for pair in tested):
        text += (
            f"Where seeds are at chance or disconnected ({plural(by_rank, 'pair')}), differences are not normal, and "
            "the exact signed-rank test takes the place of the t test. "
        )
        if short := sum(pair.too_few for pair in tested):
            text += (
                f"To reject after the correction it takes {tested[0].needed} seeds, which {plural(short, 'pair')} of "
                f"these {'lacks' if short == 1 else 'lack'}. "
            )
    text += "The exact signed-rank test, which does not ask for normal differences, stands beside it, uncorrected."
    by_t = [pair for pair in tested if not pair.by_ranks]
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
                pair.interval() or "–",
                str(one.count),
                number(pair.difference.effect, "{:.2f}"),
                number(pair.p),
                number(pair.corrected),
                number(pair.difference.wilcoxon),
                pair.untested or ("differ" if pair.apart else "too few seeds" if pair.too_few else ""),
            ]
        )
    return [head, *body]


def number(value: float, form: str = "{:.2g}") -> str:
    """A number, or a dash for NaN."""
    return "–" if math.isnan(value) else form.format(value)
