"""Paired comparisons of the criteria of one comparison, over seeds.

One rule decides how a pair is tested; sentences, limits, tables and the terminal report what follows from it:

1. A criterion is not compared at a sparsity at which half or more of its networks did not train, unless some training
   labels are random.
2. Below `FEWEST` seeds, and where the difference is the same for all seeds, there is no verdict.
3. Where networks of either criterion are at chance or disconnected, the exact signed-rank test decides, from
   `FEWEST_RANKED` seeds on, and no interval is given.
4. Everywhere else the paired t test decides.

Holm's correction is over all tests that are made.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pai_bench.experiment.trial import DENSE
from pai_bench.report import outcomes, tables
from pai_bench.report.detection import MOST_SEEDS, POWER, detectable, equivalence, seeds_for
from pai_bench.report.statistics import (
    FEWEST,
    FEWEST_RANKED,
    LEVEL,
    POINTS,
    Difference,
    by_ranks,
    difference,
    holm,
    least_signed_rank,
    seeds_needed,
)
from pai_bench.report.summary import Comparison, by_cell, mostly, plural
from pai_bench.report.tables import Table, from_rows

UNTRAINED, TOO_FEW = "networks that did not train", f"fewer than {FEWEST} seeds"
TOO_FEW_RANKED = f"fewer than {FEWEST_RANKED} seeds, some of them at chance or disconnected"
NO_SPREAD = "the same difference for all seeds"
"""Reasons why pairs are not tested."""


@dataclass(frozen=True)
class Pair:
    """Two methods at one sparsity, the one with the higher mean first.

    Differences are better minus worse, seed by seed, in points of test accuracy, within [-100, 100].
    """

    sparsity: float
    better: str
    worse: str
    difference: Difference
    p: float
    """Of the paired t test; of the exact signed-rank test where seeds are `collapsed`; NaN where neither is made."""
    corrected: float = math.nan
    """`p` by Holm's correction over all pairs and sparsities of the comparison."""
    collapsed: str = ""
    """Which seeds are at chance or disconnected."""
    untrained: tuple[str, ...] = ()
    """Those of the two of which half or more of the networks did not train."""
    needed: int = FEWEST_RANKED
    """Seeds with which the signed-rank test can reject after the correction."""
    tests: int = 1
    """How many tests the correction is over."""
    margin: float | None = None
    """The difference in points up to which the two are called equal; None if nobody has said."""
    equal_p: float = math.nan
    """Corrected p of the tests that the difference is within the `margin`."""

    @property
    def significant(self) -> bool:
        """Whether the two differ at `LEVEL`: corrected p <= 0.05. False where there is no test."""
        return self.corrected <= LEVEL

    @property
    def untested(self) -> str:
        """The reason why no test is made; empty where one is."""
        if not math.isnan(self.p):
            return ""
        if self.untrained:
            return UNTRAINED
        if self.difference.seeds < FEWEST:
            return TOO_FEW
        return TOO_FEW_RANKED if self.collapsed and not self.difference.constant else NO_SPREAD

    @property
    def by_ranks(self) -> bool:
        """Whether the signed-rank test decides."""
        return bool(self.collapsed) and not self.untested and not self.difference.constant

    @property
    def by_t(self) -> bool:
        """Whether the t test decides."""
        return not (self.untested or self.by_ranks or self.difference.constant)

    @property
    def detectable(self) -> float:
        """The smallest difference, in points, that as many seeds find in 80 % of studies; NaN without a t test."""
        return detectable(self.difference.seeds, self.tests) * self.difference.spread if self.by_t else math.nan

    @property
    def seeds_for_it(self) -> int | None:
        """With how many seeds 80 % of studies would find a difference like this one; None for more than are told."""
        return seeds_for(self.difference.estimate.mean / self.difference.spread, self.tests) if self.by_t else None

    @property
    def equal(self) -> bool:
        """Whether the difference is within the margin, at `LEVEL`."""
        return self.equal_p <= LEVEL

    @property
    def too_few(self) -> bool:
        """Whether the signed-rank test decides, but has too few seeds to reject after the correction."""
        few = self.untested == TOO_FEW_RANKED or (self.by_ranks and self.difference.seeds < self.needed)
        return few and not self.significant

    def interval(self, sign: int = 1) -> str:
        """The interval of `sign` times the difference, in points; empty without spread or with networks at chance."""
        low, high = sorted((sign * self.difference.estimate.low, sign * self.difference.estimate.high))
        return f"{low:.2f} to {high:.2f}" if low < high and not self.collapsed else ""

    def points(self, sign: int = 1, *, inside: bool = False) -> str:
        """The mean of `sign` times the difference, with its interval or the reason why there is none.

        These are in parentheses, or not if the text stands `inside` parentheses itself.
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
    return 100 * rows.pivot_table(index="seed", columns=["method", "sparsity"], values="test_accuracy", aggfunc="mean")


def pairs(comparison: Comparison, margin: float | None = None) -> list[Pair]:
    """All pairs of methods at each sparsity, over the seeds that both have.

    With a `margin` in points, it is tested too whether differences are within it, which is a family of its own.

    The t test takes differences for normal. Where some networks are at chance or disconnected, they are not: if half of
    all networks fail, three seeds of one criterion fail, and three of another do not, in one of thirty cases. Networks
    that had too few steps to begin to train may end elsewhere after more.
    """
    tested = list(uncorrected(comparison))
    needed = seeds_needed(max(1, sum(not pair.untrained for pair in tested)))
    corrected = holm([pair.p for pair in tested])
    tests = max(1, sum(not math.isnan(pair.p) for pair in tested))
    equal = holm([math.nan if margin is None or not pair.by_t else equal_p(pair, margin) for pair in tested])
    return [
        replace(pair, corrected=p, equal_p=small, needed=needed, tests=tests, margin=margin)
        for pair, p, small in zip(tested, corrected, equal, strict=True)
    ]


def equal_p(pair: Pair, margin: float) -> float:
    """The p of the tests that the difference of a pair is within a margin."""
    result = pair.difference
    return equivalence(result.estimate.mean, result.spread, result.seeds, margin)


def uncorrected(comparison: Comparison) -> Iterator[Pair]:
    """All pairs of methods at each sparsity, without the correction."""
    table, resolution, flags = accuracies(comparison), comparison.resolution, untrained_by_seed(comparison)
    columns: dict[object, NDArray[np.float64]] = dict(zip(table.columns, table.to_numpy().T, strict=True))
    for sparsity in comparison.sparsities:
        methods = [method for method in comparison.methods if (method, sparsity) in columns]
        for one, other in itertools.combinations(methods, 2):
            both = np.stack([columns[one, sparsity], columns[other, sparsity]])
            both = both[:, ~np.isnan(both).any(axis=0)]
            if not both.size:
                continue
            names = (one, other)
            if both[0].mean() < both[1].mean():
                names, both = (other, one), both[::-1]
            result = difference(both[0], both[1], resolution=resolution, bounds=POINTS)
            untrained = untrained_of(names, sparsity, comparison, flags)
            collapsed = collapsed_seeds(names, sparsity, comparison)
            p = p_value(result, bool(untrained), bool(collapsed))
            yield Pair(sparsity, *names, result, p, collapsed=collapsed, untrained=untrained)


def p_value(tested: Difference, untrained: bool, collapsed: bool) -> float:
    """The p of the test that decides on a pair; NaN if none is made."""
    if untrained or tested.seeds < FEWEST:
        return math.nan
    return by_ranks(tested) if collapsed else tested.p


Untrained = Mapping[tuple[str, float], Mapping[int, bool]]
"""Whether the network of a method and sparsity did not train, by seed, without failed trials."""


def untrained_by_seed(comparison: Comparison) -> Untrained:
    """Which networks of a comparison did not train."""
    rows = comparison.rows[comparison.rows.status != "failed"]
    seeds, flags = rows.seed.tolist(), outcomes.untrained(rows).tolist()
    return {(method, s): {seeds[i]: flags[i] for i in places} for method, s, places in by_cell(rows)}


def untrained_of(
    methods: tuple[str, str], sparsity: float, comparison: Comparison, flags: Untrained
) -> tuple[str, ...]:
    """Those of two methods of which half or more of the networks did not train: of all seeds, or of those of both."""
    if comparison.label_noise:
        return ()
    seeds = set.intersection(*(set(flags[method, sparsity]) for method in methods))
    return tuple(
        method
        for method in methods
        if comparison.not_compared(method, sparsity)
        or mostly(sum(flags[method, sparsity][seed] for seed in seeds), len(seeds))
    )


def collapsed_seeds(methods: Sequence[str], sparsity: float, comparison: Comparison) -> str:
    """Which seeds of a pair are at chance or disconnected; empty if none is."""
    cells = {method: comparison.cell(method, sparsity) for method in methods}
    parts = [
        f"{cell.collapsed} of {plural(len(cell.accuracies), 'seed')} of {method}"
        for method, cell in cells.items()
        if cell.collapsed
    ]
    return f"{' and '.join(parts)} at chance or disconnected" if parts else ""


def power(compared: Sequence[Pair]) -> str | None:
    """What the tests of a comparison assume, and what its seeds cannot show."""
    tested = [pair for pair in compared if not math.isnan(pair.p)]
    counts = Counter(pair.untested for pair in compared if pair.untested)
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
    text += "The exact signed-rank test, which does not assume normal differences, is given too, uncorrected."
    by_t = [pair for pair in tested if not pair.by_ranks]
    if few := sorted(n for pair in by_t if least_signed_rank(n := pair.difference.seeds) * len(tested) > LEVEL):
        seeds = plural(few[-1], "seed") if few[0] == few[-1] else f"{few[0]} to {few[-1]} seeds"
        text += (
            f" With the {seeds} of {'all' if len(few) == len(tested) else plural(len(few), 'pair')} it cannot give "
            f"less than {least_signed_rank(few[-1]):.3g}, which would not reject after the correction: there, the "
            "t test relies on normal differences."
        )
    if found := sorted(pair.detectable for pair in tested if pair.by_t):
        text += (
            f" Detectable is the smallest difference that as many seeds find in {100 * POWER:.0f} % of studies after "
            f"the correction, if differences vary as they do here: {tables.three_digits(median(found))} points in the "
            f"median, {tables.three_digits(found[0])} to {tables.three_digits(found[-1])}; seeds needed are those that "
            "would find the observed one so."
        )
    if (margin := tested[0].margin) is not None:
        text += (
            f" Equal means: within {margin:g} points, by two one-sided t tests, with Holm's correction over the same "
            "pairs."
        )
    return text + (f" {plural(counts.total(), 'pair')} could not be tested: {reasons}." if counts else "")


def table(tested: Sequence[Pair]) -> Table:
    """A row for each pair: the difference in points, its interval, effect size and tests."""
    return from_rows(
        [
            {
                "sparsity": f"{pair.sparsity:.10g}",
                "criteria": f"{pair.better} – {pair.worse}",
                "difference": f"{pair.difference.estimate.mean:.2f}",
                f"{100 * (1 - LEVEL):.0f} % interval": pair.interval() or "–",
                "seeds": str(pair.difference.seeds),
                "detectable": number(pair.detectable, "{:.2f}"),
                "seeds needed": seeds_text(pair),
                "effect d_z": number(pair.difference.effect, "{:.2f}"),
                "p": number(pair.p),
                "p, Holm": number(pair.corrected),
                "signed rank p": number(pair.difference.wilcoxon),
                "": verdict(pair),
            }
            for pair in tested
        ]
    )


def verdict(pair: Pair) -> str:
    """What the tests say of a pair, in a word or two; empty if they say nothing."""
    said = "differ" if pair.significant else "too few seeds" if pair.too_few else ""
    return pair.untested or ", ".join(filter(None, [said, "equal" if pair.equal else ""]))


def seeds_text(pair: Pair) -> str:
    """How many seeds a difference like that of a pair needs, as text."""
    if not pair.by_t:
        return "–"
    return f"> {MOST_SEEDS:,}" if (count := pair.seeds_for_it) is None else f"{count:,}"


def number(value: float, form: str = "{:.2g}") -> str:
    """A number, or a dash for NaN."""
    return "–" if math.isnan(value) else form.format(value)
