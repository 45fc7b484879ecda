"""What paired t tests over seeds can show: which differences they find, with how many seeds, and what is no difference.

All of it is of differences that are normal. An effect d is the true difference divided by the true standard deviation
of the differences over seeds.
"""

import itertools
import math
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from pai_bench.report.statistics import FEWEST, LEVEL, t_quantile

POWER = 0.8
"""Share of studies that are to find a difference."""

MOST_SEEDS = 10_000
"""Seeds that are looked for at most."""

NODES = 500
"""Standard deviations over which a mean is taken."""


def power(effect: float, seeds: int, level: float = LEVEL) -> float:
    """The share of studies of n `seeds` that find a true `effect` d by a two-sided paired t test at a `level`.

    P(|T| > t) = E[Phi(|d| sqrt(n) - t S) + Phi(-|d| sqrt(n) - t S)], with S the sample standard deviation divided by
    the true one, (n - 1) S^2 chi-square with n - 1 degrees of freedom, and t the quantile of Student's t at `level`.
    """
    shift, limits = abs(effect) * math.sqrt(seeds), t_quantile(seeds - 1, level) * deviations(seeds)
    return float((special.ndtr(shift - limits) + special.ndtr(-shift - limits)).mean())


@lru_cache(maxsize=1024)
def deviations(seeds: int) -> NDArray[np.float64]:
    """Equally likely sample standard deviations of so many normal numbers, divided by the true one."""
    likely = (np.arange(NODES) + 0.5) / NODES
    return np.sqrt(2 * special.gammaincinv((seeds - 1) / 2, likely) / (seeds - 1))


@cache
def detectable(seeds: int, tests: int = 1) -> float:
    """The smallest effect that `seeds` find in 80 % of studies, after the correction for so many `tests`.

    At `LEVEL` / tests, which Holm's correction asks of the smallest p: other tests that reject make it less.
    """
    level, most = LEVEL / tests, 1.0
    while power(most, seeds, level) < POWER:
        most *= 2
    return float(optimize.brentq(lambda effect: power(effect, seeds, level) - POWER, 0, most, xtol=1e-9))


@cache
def seeds_for(effect: float, tests: int = 1) -> int | None:
    """The least number of seeds that find an `effect` in 80 % of studies, after the correction for so many `tests`.

    None above `MOST_SEEDS`.
    """
    level, size = LEVEL / tests, abs(effect)
    if detectable(MOST_SEEDS, tests) > size:
        return None
    known = ((special.ndtri(1 - level / 2) + special.ndtri(POWER)) / size) ** 2  # if the spread were known: fewer
    return next(n for n in itertools.count(max(FEWEST, math.ceil(known))) if power(size, n, level) >= POWER)


def equivalence(mean: float, spread: float, seeds: int, margin: float) -> float:
    """The p of two one-sided t tests (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15:657) that a difference is small.

    It is P(T > (margin - |mean|) sqrt(n) / spread): a small one says that the true difference is within ± `margin`.
    `mean`, `spread` (the standard deviation of the differences) and `margin` are in one unit. NaN below `FEWEST` seeds,
    or without spread.
    """
    if seeds < FEWEST or not spread > 0:
        return math.nan
    return float(special.stdtr(seeds - 1, (abs(mean) - margin) * math.sqrt(seeds) / spread))
