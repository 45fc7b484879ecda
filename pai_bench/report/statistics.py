"""What seeds allow to say: intervals, paired differences, corrections, ranks. Numbers in, numbers out."""

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Values = Sequence[float] | NDArray[Any]

LEVEL = 0.05
"""Share of studies without any difference in which one may be declared; intervals hold the rest."""

DIGITS = 9
"""Of means in per cent, behind the point, that count: sums of the same numbers differ in their last digits."""

FEWEST = 3
"""Number of seeds below which there is no verdict: the interval of two is 13 times as wide as their deviation."""

FROM_BOOTSTRAP = 10
"""Number of seeds from which intervals are bootstrapped."""

ROUNDING = 1e-6
"""Share of the values up to which their differences are due to rounding: no test set has a million examples."""

Bounds = tuple[float, float]

ANY: Bounds = (-math.inf, math.inf)
PERCENT: Bounds = (0.0, 100.0)
POINTS: Bounds = (-100.0, 100.0)
"""Between what a measure lies, in per cent or points: an interval does not reach beyond."""

RESAMPLES = 9_999


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, with the sample standard deviation (n - 1) and the interval of 1 - `LEVEL`.

    What too few seeds do not give is NaN.
    """

    mean: float
    deviation: float
    low: float
    high: float
    count: int
    kind: Literal["none", "t", "BCa"]
    """How the interval was made: Student's t (below `FROM_BOOTSTRAP` seeds), or the BCa bootstrap."""


def estimate(values: Values, bounds: Bounds = ANY, *, floor: float = 0.0) -> Estimate:
    """Mean, standard deviation and interval of `values`, which lie within `bounds`; so does the interval.

    Student's t: mean ± t(1 - LEVEL/2, n - 1) s / sqrt(n). From `FROM_BOOTSTRAP` values on, the bias-corrected and
    accelerated bootstrap (Efron 1987), with resamples that are the same every time. A standard deviation below `floor`
    is not believed: the interval is then Student's t with `floor` for s.
    """
    return _estimate(tuple(map(float, values)), bounds, floor)


@cache
def _estimate(values: tuple[float, ...], bounds: Bounds, floor: float) -> Estimate:
    x = np.asarray(values)
    n = len(x)
    if n < 2:
        return Estimate(float(x.mean()) if n else math.nan, math.nan, math.nan, math.nan, n, "none")
    mean, deviation = float(x.mean()), float(x.std(ddof=1))
    kind: Literal["t", "BCa"] = "t" if n < FROM_BOOTSTRAP or deviation <= floor else "BCa"
    half = t_quantile(n - 1) * max(deviation, floor) / math.sqrt(n)
    low, high = (mean - half, mean + half) if kind == "t" else bca(x)
    return Estimate(mean, deviation, max(low, bounds[0]), min(high, bounds[1]), n, kind)


@cache
def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """The quantile of Student's t that leaves `level` outside, in both tails."""
    return float(stats.t.isf(level / 2, freedom))


def bca(x: NDArray[np.float64]) -> tuple[float, float]:
    """The ends of the BCa bootstrap interval of a mean (Efron 1987, J. Am. Stat. Assoc. 82:171).

    It is too narrow for few values; as Hesterberg (2015, Am. Stat. 69:371) proposes, quantiles are taken as far out as
    Student's t and the divisor n - 1 ask for: sqrt(n / (n - 1)) t(n - 1) stands for the normal quantile z.

    With z0 the normal quantile of the share of resampled means below the mean, ties half, and a the skewness of the
    jackknife, sum d^3 / (6 (sum d^2)^1.5), ends are the quantiles Phi(z0 + (z0 + z) / (1 - a (z0 + z))) of the means.
    """
    means, mean = shares(len(x)) @ x, x.mean()
    above = np.round(means - mean, DIGITS)  # the means of the same values differ in their last digits
    below = (np.count_nonzero(above < 0) + np.count_nonzero(above <= 0)) / (2 * len(means))
    z0 = special.ndtri(below)  # never at an end: of ten values, a third of the means leave out the most extreme one
    d = (x - mean) / (len(x) - 1)
    a = (d**3).sum() / (6 * (d**2).sum() ** 1.5)
    n = len(x)
    z = z0 + np.array([-1, 1]) * math.sqrt(n / (n - 1)) * t_quantile(n - 1)
    low, high = np.quantile(means, special.ndtr(z0 + z / (1 - a * z)))
    return float(low), float(high)


@cache
def shares(n: int) -> NDArray[np.float64]:
    """What share each of `n` values has in each resample, (RESAMPLES, n): a resampled mean is a product with it."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES) / n


@dataclass(frozen=True)
class Difference:
    """The paired differences of two methods over the seeds that both have, in the unit of what was measured."""

    estimate: Estimate
    p: float
    """Of the paired t test, two-sided; NaN if it cannot be made: below `FEWEST` seeds, or without spread."""
    wilcoxon: float
    """Of the exact signed-rank test; NaN below two seeds that differ."""
    effect: float
    """Cohen's d_z: mean of the differences by their standard deviation."""
    same: bool = False
    """Whether the difference is the same for all of several seeds, but for rounding."""
    against: bool = False
    """Whether the signed ranks lean to one side, and the mean does not."""

    @property
    def seeds(self) -> int:
        """How many seeds both methods have."""
        return self.estimate.count


def difference(one: Values, other: Values, *, resolution: float = 0.0, bounds: Bounds = ANY) -> Difference:
    """`one` minus `other`, seed by seed.

    The paired t test (Student 1908) asks whether the mean difference is zero, t = mean / (s / sqrt(n)) with n - 1
    degrees of freedom; it holds exactly where differences are normal. Differences that are the same for all seeds have
    no spread to judge by, and no p; if all are zero, p is 1.

    `resolution` is what one example of the test set counts. Seeds that agree to less than it do not show how much they
    vary: a smaller s is raised to it.
    """
    a, b = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    noise = ROUNDING * float(np.abs([a, b]).max(initial=0.0))
    d = a - b
    d[np.abs(d) <= noise] = 0.0  # accuracies are quotients, whose differences are never exact
    same = len(d) > 1 and bool(np.ptp(d) <= noise)
    floor = 0.0 if same else resolution
    found = estimate(d, bounds, floor=floor)
    p = effect = math.nan
    if found.count >= FEWEST and not same:
        t = found.mean * math.sqrt(found.count) / max(found.deviation, floor)
        p = float(2 * special.stdtr(found.count - 1, -abs(t)))
    elif found.count >= FEWEST and not d.any():
        p = 1.0
    if not same and found.deviation > 0:
        effect = found.mean / found.deviation
    wilcoxon, lean = signed_ranks(d)
    return Difference(found, p, wilcoxon, effect, same, lean != 0 and lean * found.mean <= 0)


def signed_rank(differences: Values) -> float:
    """The p of `signed_ranks`."""
    return signed_ranks(differences)[0]


def signed_ranks(differences: Values) -> tuple[float, int]:
    """The two-sided p of Wilcoxon's signed-rank test, from all 2^n signs of the ranks, and to which side they lean.

    The side is positive where positive differences have the larger sum of ranks.

    Differences of zero are left out, as Wilcoxon (1945) did; equal ones share their mean rank, and the distribution is
    that of the ranks as they are, so that it is exact with ties too. It asks for no more than that, without a
    difference, either sign is as likely.
    """
    d = np.asarray(differences, dtype=float)
    d = d[d != 0]
    if len(d) < 2 or np.isnan(d).any():
        return math.nan, 0
    sizes = np.round(np.abs(d), 12)
    ordered = np.sort(sizes)
    # twice the mean rank of each: whole numbers, whose sums can be counted
    ranks = np.searchsorted(ordered, sizes, "left") + np.searchsorted(ordered, sizes, "right") + 1
    ways = np.zeros(ranks.sum() + 1)
    ways[0] = 1.0
    for rank in ranks:
        ways[rank:] = ways[rank:] + ways[: len(ways) - rank]
    observed = int(ranks[d > 0].sum())
    low = min(observed, len(ways) - 1 - observed)
    return float(min(1.0, 2 * ways[: low + 1].sum() / ways.sum())), 2 * observed - (len(ways) - 1)


def least_signed_rank(n: int) -> float:
    """The least p that the exact signed-rank test can give with `n` seeds, 2 / 2^n."""
    return 2.0 ** (1 - n)


@cache
def seeds_needed(tests: int = 1) -> int:
    """Seeds with which the exact signed-rank test can reject any one of so many `tests`, by Holm's correction."""
    return next(n for n in itertools.count(1) if least_signed_rank(n) * tests <= LEVEL)


SETTLED = seeds_needed()
"""Seeds with which it can reject by itself: six."""


def by_ranks(tested: Difference) -> float:
    """The p of a difference by the exact signed-rank test alone, for what is not normal; NaN where there is none.

    There is none below `SETTLED` seeds, nor where all differences are the same. Where less than two differ from zero,
    or where the mean is not on the side of the ranks, so that nothing could be said of who is better, it is 1.
    """
    if tested.same:
        return tested.p
    if tested.seeds < SETTLED:
        return math.nan
    return 1.0 if tested.against or math.isnan(tested.wilcoxon) else tested.wilcoxon


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979) of a family of p values; NaN, a test that was not made, stays and counts not.

    The i-th smallest of m becomes the largest of (m - j + 1) p_j up to it, and at most 1. Rejecting what is at most
    `LEVEL` then declares any difference wrongly in at most that share of families, whatever their dependence.
    """
    made = sorted((p, i) for i, p in enumerate(values) if not math.isnan(p))
    found, highest = [math.nan] * len(values), 0.0
    for rank, (p, i) in enumerate(made):
        highest = max(highest, (len(made) - rank) * p)
        found[i] = min(1.0, highest)
    return found


@dataclass(frozen=True)
class Ranks:
    """Mean ranks of methods over independent blocks, 1 the best, and whether they differ."""

    methods: tuple[str, ...]
    mean: tuple[float, ...]
    blocks: int
    p: float
    """Of Friedman's test; NaN where it cannot be made: below three methods or two blocks."""
    critical: float
    """Nemenyi's critical difference: two mean ranks farther apart differ at `LEVEL`."""


def ranks(methods: Sequence[str], blocks: Sequence[Sequence[float]]) -> Ranks:
    """Rank `methods` in each of the `blocks`, rows of one value for each method, the higher the better.

    Friedman (1937), chi-square with k - 1 degrees of freedom; Nemenyi's critical difference as in Demšar (2006),
    q sqrt(k (k + 1) / (6 N)) with q the quantile of the studentized range by sqrt(2).
    """
    table = np.round(np.asarray(blocks, dtype=float).reshape(len(blocks), len(methods)), DIGITS)
    n, k = table.shape
    order = stats.rankdata(-table, axis=1)
    p = critical = math.nan
    if n > 1 and k > 2:
        with warnings.catch_warnings():  # all ranks tied: no difference
            warnings.simplefilter("ignore")
            p = float(stats.friedmanchisquare(*table.T).pvalue)
        p = 1.0 if math.isnan(p) else p
    if n > 1 and k > 1:
        critical = (
            float(stats.studentized_range.ppf(1 - LEVEL, k, np.inf)) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))
        )
    return Ranks(tuple(methods), tuple(map(float, order.mean(0))), n, p, critical)
