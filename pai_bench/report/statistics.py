"""Statistics over seeds: intervals, paired differences, corrections for many tests, ranks."""

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
"""Significance level: the largest share of studies without a difference in which one is declared."""

DIGITS = 9
"""Decimals to which means in per cent are compared: sums of the same numbers differ in their last digits."""

FEWEST = 3
"""Number of seeds below which there is no verdict: the interval of two is 13 times as wide as their deviation."""

FEWEST_BOOTSTRAPPED = 10
"""Number of seeds from which intervals are bootstrapped."""

ROUNDING = 1e-6
"""Share of the values up to which their differences are due to rounding: no test set has a million examples."""

Bounds = tuple[float, float]
"""Least and largest value of a measure: its intervals end there."""

ANY: Bounds = (-math.inf, math.inf)
PERCENT: Bounds = (0.0, 100.0)
POINTS: Bounds = (-100.0, 100.0)

RESAMPLES = 9_999

AT_ONCE = 2**23
"""Numbers of resamples that are in memory at once: 64 MiB."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, with the sample standard deviation (divisor n - 1) and a 95 % interval.

    NaN where there are too few seeds: the mean of none, deviation and interval of one.
    """

    mean: float
    deviation: float
    low: float
    high: float
    count: int
    method: Literal["none", "t", "BCa"]
    """How the interval was made: Student's t (below `FEWEST_BOOTSTRAPPED` seeds), or the BCa bootstrap."""


def estimate(values: Values, bounds: Bounds = ANY, *, floor: float = 0.0) -> Estimate:
    """Mean, standard deviation and 95 % interval of `values`, which lie within `bounds`; so does the interval.

    Below `FEWEST_BOOTSTRAPPED` values the interval is Student's t: mean ± t(0.975, n - 1) s / sqrt(n). From there on it
    is the bias-corrected and accelerated bootstrap (`bca`), with the same resamples every time. Where the standard
    deviation s is below `floor`, the interval is Student's t with `floor` for s. Units are those of `values`.
    """
    return _estimate(tuple(map(float, values)), bounds, floor)


@cache
def _estimate(values: tuple[float, ...], bounds: Bounds, floor: float) -> Estimate:
    x = np.asarray(values)
    n = len(x)
    if n < 2 or np.isinf(x).any():
        return Estimate(float(x.mean()) if n else math.nan, math.nan, math.nan, math.nan, n, "none")
    mean, deviation = float(x.mean()), float(x.std(ddof=1))
    method: Literal["t", "BCa"] = "t" if n < FEWEST_BOOTSTRAPPED or deviation <= floor else "BCa"
    half = t_quantile(n - 1) * max(deviation, floor) / math.sqrt(n)
    low, high = (mean - half, mean + half) if method == "t" else bca(x)
    return Estimate(mean, deviation, max(low, bounds[0]), min(high, bounds[1]), n, method)


@cache
def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """The two-sided quantile of Student's t: t with P(|T| > t) = `level`, at `freedom` degrees of freedom."""
    return float(stats.t.isf(level / 2, freedom))


def bca(x: NDArray[np.float64]) -> tuple[float, float]:
    """The ends of the 95 % BCa bootstrap interval of a mean (Efron 1987, J. Am. Stat. Assoc. 82:171).

    They are the quantiles Phi(z0 + (z0 ± z) / (1 - a (z0 ± z))) of the resampled means. z0 is the normal quantile of
    the share of them below the mean, ties half; a = sum d^3 / (6 (sum d^2)^1.5) with d = x - mean, the acceleration;
    z = sqrt(n / (n - 1)) t(0.975, n - 1). Efron's z = 1.96 gives too narrow intervals of few values; this one is by
    Hesterberg (2015, Am. Stat. 69:371).
    """
    n, mean = len(x), x.mean()
    means, d = resampled_means(x), x - mean
    excess = np.round(means - mean, DIGITS)
    below = (np.count_nonzero(excess < 0) + np.count_nonzero(excess <= 0)) / (2 * len(means))
    z0 = special.ndtri(below)  # finite: of ten values, a third of the means leave out the most extreme one
    a = (d**3).sum() / (6 * (d**2).sum() ** 1.5)
    z = z0 + np.array([-1, 1]) * math.sqrt(n / (n - 1)) * t_quantile(n - 1)
    low, high = np.quantile(means, special.ndtr(z0 + z / (1 - a * z)))
    return float(low), float(high)


def resampled_means(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each of RESAMPLES resamples of `x`, (RESAMPLES,)."""
    n, rows, generator = len(x), max(1, AT_ONCE // len(x)), np.random.default_rng(0)
    if rows >= RESAMPLES:
        return shares(n) @ x
    sizes = [min(rows, RESAMPLES - first) for first in range(0, RESAMPLES, rows)]
    return np.concatenate([x[generator.integers(n, size=(size, n))].mean(1) for size in sizes])


@cache
def shares(n: int) -> NDArray[np.float64]:
    """The share of each of `n` values in each resample, (RESAMPLES, n): its product with the values is their means."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES) / n


@dataclass(frozen=True)
class Difference:
    """The paired differences of two methods over the seeds that both have, in the unit of what was measured."""

    estimate: Estimate
    p: float
    """Of the paired t test, two-sided; NaN if it cannot be made: below `FEWEST` seeds, or without spread."""
    wilcoxon: float
    """Two-sided p of the exact signed-rank test; NaN below two seeds that differ."""
    effect: float
    """Cohen's d_z = mean / s of the differences."""
    constant: bool = False
    """Whether the difference is the same for all of several seeds, but for rounding."""
    opposed: bool = False
    """Whether the larger sum of signed ranks is on another side than the mean."""
    spread: float = math.nan
    """Standard deviation of the differences by which they are tested: at least the resolution."""

    @property
    def seeds(self) -> int:
        """How many seeds both methods have."""
        return self.estimate.count


def difference(one: Values, other: Values, *, resolution: float = 0.0, bounds: Bounds = ANY) -> Difference:
    """The differences `one` minus `other`, seed by seed, with their interval, tests and effect size.

    The paired t test (Student 1908): t = mean / (s / sqrt(n)) with n - 1 degrees of freedom, two-sided; it is exact if
    differences are normal. Differences that are the same for all seeds have no p; if all are zero, p is 1.

    `resolution` is what one example of the test set counts, in the unit of the values; a smaller s is raised to it,
    since seeds that agree to less do not show how much they vary. `bounds` are those of the differences.
    """
    a, b = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    noise = ROUNDING * float(np.abs([a, b]).max(initial=0.0))
    d = a - b
    d[np.abs(d) <= noise] = 0.0  # accuracies are quotients, whose differences are never exact
    constant = len(d) > 1 and bool(np.ptp(d) <= noise)
    floor = 0.0 if constant else resolution
    result = estimate(d, bounds, floor=floor)
    p = effect = math.nan
    spread = max(result.deviation, floor)
    if result.count >= FEWEST and not constant:
        t = result.mean * math.sqrt(result.count) / spread
        p = float(2 * special.stdtr(result.count - 1, -abs(t)))
    elif result.count >= FEWEST and not d.any():
        p = 1.0
    if not constant and result.deviation > 0:
        effect = result.mean / result.deviation
    wilcoxon, side = signed_ranks(d)
    return Difference(result, p, wilcoxon, effect, constant, side != 0 and side * result.mean <= 0, spread)


def signed_ranks(differences: Values) -> tuple[float, int]:
    """The two-sided p of Wilcoxon's exact signed-rank test, and the sum of positive minus that of negative ranks.

    With W the smaller sum of ranks, p = min(1, 2 P(sum of ranks with a random sign <= W)), over all 2^n signs. Zeros
    are left out (Wilcoxon 1945); equal sizes share their mean rank, so that the test is exact with ties too. Its only
    assumption is that, without a difference, either sign is as likely. NaN and 0 below two differences that are not 0.
    """
    d = np.asarray(differences, dtype=float)
    d = d[d != 0]
    if len(d) < 2 or np.isnan(d).any():
        return math.nan, 0
    sizes = np.round(np.abs(d), 12)
    ordered = np.sort(sizes)
    # twice the mean ranks: whole numbers, whose sums can be counted
    ranks = np.searchsorted(ordered, sizes, "left") + np.searchsorted(ordered, sizes, "right") + 1
    ways = np.zeros(ranks.sum() + 1)
    ways[0] = 1.0
    for rank in ranks:
        ways[rank:] = ways[rank:] + ways[: len(ways) - rank]
    observed = int(ranks[d > 0].sum())
    low = min(observed, len(ways) - 1 - observed)
    return float(min(1.0, 2 * ways[: low + 1].sum() / ways.sum())), 2 * observed - (len(ways) - 1)


def least_signed_rank(n: int) -> float:
    """The least p that the exact signed-rank test can give with `n` seeds: 2 / 2^n."""
    return 2.0 ** (1 - n)


@cache
def seeds_needed(tests: int = 1) -> int:
    """The least n with `tests` 2 / 2^n <= `LEVEL`: seeds with which a signed-rank test can reject after correction."""
    return next(n for n in itertools.count(1) if least_signed_rank(n) * tests <= LEVEL)


FEWEST_RANKED = seeds_needed()
"""Seeds with which a single signed-rank test can reject: six."""


def by_ranks(tested: Difference) -> float:
    """The p of a difference by the exact signed-rank test alone, for differences that are not normal.

    NaN below `FEWEST_RANKED` seeds, and where all differences are the same. It is 1 where less than two differ from
    zero, and where the mean and the ranks disagree on which method is better.
    """
    if tested.constant:
        return tested.p
    if tested.seeds < FEWEST_RANKED:
        return math.nan
    return 1.0 if tested.opposed or math.isnan(tested.wilcoxon) else tested.wilcoxon


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Holm 1979, Scand. J. Stat. 6:65) of a family of p values; NaN stays NaN, uncounted.

    The i-th smallest of m becomes min(1, max over j <= i of (m - j + 1) p_j). Rejecting what is at most `LEVEL` then
    makes any wrong rejection in at most that share of families, whatever the dependence of the tests.
    """
    p = np.asarray(values, dtype=float)
    order = np.argsort(p, kind="stable")[: np.count_nonzero(~np.isnan(p))]  # NaN comes last
    p[order] = np.minimum(1, np.maximum.accumulate(np.arange(len(order), 0, -1) * p[order]))
    return [float(value) for value in p]


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
    """Rank k `methods` in each of N `blocks`, rows of one value for each method, the higher the better.

    Friedman's test (1937, J. Am. Stat. Assoc. 32:675), chi-square with k - 1 degrees of freedom. Nemenyi's critical
    difference as in Demšar (2006, J. Mach. Learn. Res. 7:1): q sqrt(k (k + 1) / (6 N)), with q the 0.95 quantile of the
    studentized range of k means divided by sqrt(2).
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
        q = float(stats.studentized_range.ppf(1 - LEVEL, k, np.inf)) / math.sqrt(2)
        critical = q * math.sqrt(k * (k + 1) / (6 * n))
    return Ranks(tuple(methods), tuple(map(float, order.mean(0))), n, p, critical)
