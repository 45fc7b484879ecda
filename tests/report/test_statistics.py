"""Statistics: examples by hand, scipy's functions, and how often chance is called a difference."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from pai_bench.report import statistics
from pai_bench.report.statistics import (
    FEWEST_RANKED,
    LEVEL,
    PERCENT,
    POINTS,
    by_ranks,
    difference,
    estimate,
    holm,
    least_signed_rank,
    ranks,
    seeds_needed,
    shares,
    signed_ranks,
)


def test_an_interval_by_hand() -> None:
    # mean 3, s^2 = (4 + 1 + 0 + 1 + 4) / 4 = 2.5; t(0.975, 4) = 2.776445
    found = estimate([1, 2, 3, 4, 5])
    half = 2.7764451052 * math.sqrt(2.5 / 5)
    assert (found.mean, found.count, found.method) == (3, 5, "t")
    assert found.deviation == pytest.approx(math.sqrt(2.5))
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half))


@pytest.mark.parametrize("values", [[], [0.5]])
def test_too_few_for_an_interval(values: list[float]) -> None:
    found = estimate(values)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.method == "none"


@pytest.mark.parametrize("n", [2, 5, 9])
def test_t_intervals_are_those_of_scipy(n: int) -> None:
    x = np.random.default_rng(n).normal(size=n)
    found = estimate(x)
    expected = stats.ttest_1samp(x, 0).confidence_interval(1 - LEVEL)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)


@pytest.mark.parametrize("n", [10, 20, 50])
def test_bootstrap_intervals_are_those_of_scipy(n: int) -> None:
    """Up to the error of the resamples: the ends are quantiles of 9,999 means."""
    x = np.random.default_rng(n).exponential(size=n)
    found = estimate(x)
    assert found.method == "BCa"
    # at the level that Hesterberg's wider quantiles have
    level = 1 - 2 * stats.norm.cdf(-math.sqrt(n / (n - 1)) * stats.t.ppf(1 - LEVEL / 2, n - 1))
    expected = stats.bootstrap((x,), np.mean, confidence_level=level, n_resamples=99_999, rng=1).confidence_interval
    width = expected.high - expected.low
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.03 * width)
    assert estimate(x) == found  # the same every time


def test_many_values_are_resampled_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """In little memory, with the interval that all resamples at once have, but for their chance."""
    x = np.random.default_rng(1).exponential(size=500)
    whole = estimate(x)
    monkeypatch.setattr(statistics, "shares", None)
    monkeypatch.setattr(statistics, "AT_ONCE", 500 * 1000)
    assert statistics.resampled_means(x).shape == (statistics.RESAMPLES,)
    assert statistics.bca(x) == pytest.approx((whole.low, whole.high), abs=0.05 * (whole.high - whole.low))


def test_values_without_spread() -> None:
    found = estimate([0.1] * 12)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize("n", [3, 5, 8, 20])
def test_differences_are_those_of_scipy(n: int) -> None:
    draw = np.random.default_rng(n)
    one, other = draw.normal(0.3, 1, n), draw.normal(0, 1, n)
    found = difference(one, other)
    assert found.p == pytest.approx(stats.ttest_rel(one, other).pvalue, rel=1e-10)
    assert found.wilcoxon == pytest.approx(stats.wilcoxon(one, other, method="exact").pvalue, rel=1e-10)
    d = one - other
    assert found.effect == pytest.approx(d.mean() / d.std(ddof=1))
    back = difference(other, one)
    assert (back.p, back.wilcoxon) == pytest.approx((found.p, found.wilcoxon))
    assert back.estimate.mean == pytest.approx(-found.estimate.mean)


def test_a_paired_test_by_hand() -> None:
    # Student's sleep data (1908): differences 1.2 2.4 1.3 1.3 0 1 1.8 0.8 4.6 1.4, t = 4.0621, p = 0.002833
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = difference(second, first)
    assert found.p == pytest.approx(0.002833, abs=5e-7)
    assert found.effect == pytest.approx(4.0621 / math.sqrt(10), abs=1e-4)


def test_signed_ranks_with_ties_count_all_signs() -> None:
    for values in ([-1, -1, 2, 2, 3], [1, -1, 2, 2, 3], [0.25, 0.5, 0.5, -0.25, 0, 1], [1, 1, 1, 1]):
        d = np.array([v for v in values if v])
        order = stats.rankdata(abs(d))
        sums = [
            sum(r for r, s in zip(order, signs, strict=True) if s) for signs in itertools.product([0, 1], repeat=len(d))
        ]
        seen, total = order[d > 0].sum(), order.sum()
        low = min(seen, total - seen)
        expected = min(1.0, 2 * np.mean([s <= low for s in sums]))
        assert signed_ranks(values)[0] == pytest.approx(expected)
    assert math.isnan(signed_ranks([0, 0, 0])[0])
    assert signed_ranks([1, 2, 3, 4, 5])[0] == least_signed_rank(5) == 0.0625


@pytest.mark.parametrize(("apart", "side"), [(0.0, 0), (3e-13, 0), (3e-12, -2)])
def test_differences_that_differ_by_their_rounding_are_ties(apart: float, side: int) -> None:
    assert signed_ranks(np.array([1.0, -1.0 - apart]))[1] == side


@pytest.mark.parametrize(("tests", "seeds"), [(1, 6), (2, 7), (10, 9), (60, 12)])
def test_seeds_that_a_family_of_signed_ranks_needs(tests: int, seeds: int) -> None:
    for n, rejects in ((seeds, True), (seeds - 1, False)):
        least = signed_ranks(np.arange(1, n + 1))[0]
        assert least == least_signed_rank(n)
        assert (holm([least, *[1.0] * (tests - 1)])[0] <= LEVEL) is rejects
    assert seeds_needed(tests) == seeds


def test_the_signed_ranks_alone() -> None:
    x = np.arange(1.0, 9.0)
    assert by_ranks(difference(x, 0 * x)) == 2 / 2**8
    assert by_ranks(difference(-x, 0 * x)) == 2 / 2**8
    assert math.isnan(by_ranks(difference(x[: FEWEST_RANKED - 1], 0 * x[: FEWEST_RANKED - 1])))
    assert by_ranks(difference(x, x)) == 1
    assert math.isnan(by_ranks(difference(x + 1, x)))  # the same for all
    assert by_ranks(difference([*x[:7], 9.0], x)) == 1  # one differs
    assert by_ranks(difference([*x[:7], -100.0], 0 * x)) == 1  # the mean is negative, the ranks are not


def test_differences_that_cannot_be_tested() -> None:
    assert difference([0.5, 0.5, 0.4], [0.5, 0.5, 0.4]).p == 1
    assert math.isnan(difference([0.9, 0.8, 0.7], [0.8, 0.7, 0.6]).p)  # always 0.1: no spread to judge by
    assert math.isnan(difference([0.9], [0.8]).p)
    assert math.isnan(difference([0.9, 0.7], [0.8, 0.65]).p)  # two seeds
    assert math.isnan(signed_ranks([math.nan, 1, 2])[0])
    assert math.isnan(difference([], []).p)


@pytest.mark.parametrize("scale", [1, 100])
@pytest.mark.parametrize("seeds", [2, 3, 5, 10, 50])
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_equal_differences_are_not_significant(kind: type[np.floating], seeds: int, scale: int) -> None:
    """Equal but for rounding, which is of the size of the values and not of their differences."""
    draw = np.random.default_rng(seeds)
    for examples in (450, 10_000, 50_000):
        right = draw.integers(examples // 2, examples - 9, seeds)
        for more in (-1, 1, 7):
            one, other = (kind(scale) * (count / examples).astype(kind) for count in (right + more, right))
            found = difference(one, other)
            assert math.isnan(found.p), (examples, more)
            assert math.isnan(found.effect)
            assert found.constant


def test_equal_values_are_not_told_apart() -> None:
    values = 100 * np.array([0.9001, 0.9013, 0.9027])
    found = difference(values, 3 * (values / 3))
    assert (found.p, found.constant) == (1, True)
    assert math.isnan(found.wilcoxon)


def test_accuracies_of_zero_are_not_told_apart() -> None:
    found = difference([0.0] * 3, [0.0] * 3, resolution=0.1)
    assert (found.p, found.constant) == (1, True)
    assert math.isnan(found.effect)


def test_a_small_spread_is_raised_to_the_resolution() -> None:
    one, other = np.array([90.01, 90.13, 90.28]), np.array([90.00, 90.12, 90.26])  # 1, 1 and 2 images of 10,000
    found = difference(one, other, resolution=0.01)
    t = 0.04 / 3 * math.sqrt(3) / 0.01
    assert found.p == pytest.approx(2 * stats.t.sf(t, 2))
    half = stats.t.ppf(1 - LEVEL / 2, 2) * 0.01 / math.sqrt(3)
    assert found.estimate.high - found.estimate.mean == pytest.approx(half)
    many = difference(np.tile(one, 4), np.tile(other, 4), resolution=0.01)
    assert many.estimate.method == "t"  # a bootstrap would show the spread as it is


@pytest.mark.parametrize("seeds", [2, 3, 9, 10, 30])
def test_intervals_of_shares_stay_within_what_they_can_be(seeds: int) -> None:
    draw = np.random.default_rng(seeds)
    for low, high in (PERCENT, POINTS, (0.0, 1.0)):
        for _ in range(20):
            values = np.clip(draw.normal(high - (high - low) / 50, (high - low) / 10, seeds), low, high)
            for found in (estimate(values, (low, high)), estimate(high + low - values, (low, high))):
                assert low <= found.low <= found.mean <= found.high <= high
    assert estimate([99.9, 95.0]).high > 100


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.02, 0.03, 0.04: times 4, 3, 2, 1, never less than the one before
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    found = holm([math.nan, 0.02])
    assert math.isnan(found[0])
    assert found[1] == 0.02
    assert holm([]) == []


def test_ranks_by_hand() -> None:
    # Demšar's (2006) example of mean ranks is larger; here: a is best in 3 blocks of 4, b in one, c is last in all
    found = ranks(["a", "b", "c"], [[0.9, 0.8, 0.1], [0.9, 0.8, 0.1], [0.7, 0.8, 0.1], [0.9, 0.5, 0.1]])
    assert found.mean == pytest.approx((1.25, 1.75, 3.0))
    assert found.p == pytest.approx(stats.chi2.sf(12 / (4 * 3 * 4) * (5**2 + 7**2 + 12**2) - 3 * 4 * 4, 2))
    # q(0.05) for 3 methods is 2.343 in Demšar's table 5
    assert found.critical == pytest.approx(2.343 * math.sqrt(3 * 4 / (6 * 4)), rel=1e-3)
    few = ranks(["a", "b", "c"], [[1, 2, 3]])
    assert math.isnan(few.p)
    assert math.isnan(few.critical)
    assert ranks(["a", "b", "c"], [[1, 1, 1], [2, 2, 2]]).p == 1


def test_equal_means_have_equal_ranks_whatever_the_order_of_seeds() -> None:
    right = [305, 310, 302, 325, 417]  # of 450
    orders = list(itertools.permutations(right))
    blocks = [[estimate([100 * n / 450 for n in order]).mean for order in orders[i : i + 3]] for i in range(0, 60, 3)]
    assert len({mean for block in blocks for mean in block}) > 1  # in their last digits
    assert set(ranks(["a", "b", "c"], blocks).mean) == {2.0}


def at_most(share: float, studies: int) -> int:
    """A count that chance passes once in a thousand runs."""
    return int(stats.binom.ppf(0.999, studies, share))


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_chance_is_called_a_difference_in_at_most_one_of_twenty_studies(seeds: int) -> None:
    """Four methods at two sparsities, all pairs, Holm's correction over the twelve."""
    draw, studies, wrong = np.random.default_rng(seeds), 600, 0
    for _ in range(studies):
        shared = draw.normal(0.9, 0.02, seeds)
        found = shared + draw.normal(0, 0.01, (2, 4, seeds))
        tests = [difference(a, b).p for same in found for a, b in itertools.combinations(same, 2)]
        wrong += min(holm(tests)) <= LEVEL
    assert wrong <= at_most(LEVEL, studies)
    assert wrong >= studies / 200  # nor is it never called one


@pytest.mark.parametrize(("seeds", "effect"), [(5, 1.5), (10, 1.0), (20, 0.5)])
def test_a_difference_is_found_as_often_as_theory_says(seeds: int, effect: float) -> None:
    draw, studies = np.random.default_rng(seeds), 2000
    found = sum(difference(draw.normal(effect, 1, seeds), np.zeros(seeds)).p <= LEVEL for _ in range(studies))
    t = stats.t.ppf(1 - LEVEL / 2, seeds - 1)
    power = 1 - stats.nct.cdf(t, seeds - 1, effect * seeds**0.5) + stats.nct.cdf(-t, seeds - 1, effect * seeds**0.5)
    low, high = (stats.binom.ppf(q, studies, power) for q in (0.0005, 0.9995))
    assert low <= found <= high


def test_intervals_hold_the_truth_in_nineteen_of_twenty_studies() -> None:
    draw, studies = np.random.default_rng(0), 2000
    held = sum((e := estimate(draw.normal(0.5, 0.1, size=5))).low <= 0.5 <= e.high for _ in range(studies))
    low, high = (stats.binom.ppf(q, studies, 1 - LEVEL) for q in (0.0005, 0.9995))
    assert low <= held <= high
    for seeds in (10, 20):
        held = sum((e := estimate(draw.normal(0.5, 0.1, size=seeds))).low <= 0.5 <= e.high for _ in range(studies))
        assert low <= held <= high


def test_a_plain_bootstrap_would_not_hold_it() -> None:
    """Why quantiles are taken farther out: the BCa interval of ten values misses twice as often as it says."""
    draw = np.random.default_rng(1)
    samples = draw.normal(size=(1000, 10))
    found = stats.bootstrap((samples,), np.mean, axis=1, n_resamples=999, rng=2, batch=100).confidence_interval
    assert np.mean((found.low <= 0) & (found.high >= 0)) < 0.92


@pytest.mark.parametrize(("count", "ones"), [(10, 5), (10, 3), (20, 8), (30, 24)])
def test_bootstrap_intervals_of_tied_values(count: int, ones: int) -> None:
    """Zeros and ones: a resampled mean is binomial, and equals the mean in a good share of resamples, ties half."""
    x, p = np.repeat([0.0, 1.0], [count - ones, ones]), ones / count
    means = stats.binom(count, p)
    z0 = stats.norm.ppf(means.cdf(ones - 1) + means.pmf(ones) / 2)
    d = x - x.mean()
    a = (d**3).sum() / (6 * (d**2).sum() ** 1.5)
    z = z0 + np.array([-1, 1]) * math.sqrt(count / (count - 1)) * stats.t.ppf(1 - LEVEL / 2, count - 1)
    expected = means.ppf(stats.norm.cdf(z0 + z / (1 - a * z))) / count
    found = estimate(x)
    assert found.method == "BCa"
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.4 / count)


@pytest.mark.parametrize(
    "values", [[0.1] * 3 + [0.2] * 4 + [0.3, 0.5, 0.9], [0.11, 0.12, 0.15, 0.2, 0.22] * 2 + [0.9, 0.95]]
)
def test_the_bootstrapped_interval_by_its_formula(values: list[float]) -> None:
    """Step by step, over the same resamples: bias by the share below the mean, acceleration by the jackknife."""
    n, mean = len(values), math.fsum(values) / len(values)
    means = sorted(math.fsum(share * value for share, value in zip(row, values, strict=True)) for row in shares(n))
    close = 1e-12
    below = sum(m < mean - close for m in means) + sum(abs(m - mean) <= close for m in means) / 2
    z0 = stats.norm.ppf(below / len(means))
    left_out = [(math.fsum(values) - value) / (n - 1) for value in values]
    deviations = [math.fsum(left_out) / n - one for one in left_out]
    a = math.fsum(d**3 for d in deviations) / (6 * math.fsum(d**2 for d in deviations) ** 1.5)
    wide = math.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1)
    found = estimate(values)
    assert found.method == "BCa"
    for end, z in ((found.low, -wide), (found.high, wide)):
        share = stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))
        place = share * (len(means) - 1)
        lower = means[int(place)]
        assert end == pytest.approx(lower + (means[int(place) + 1] - lower) * (place % 1), abs=1e-9)


def test_ranks_of_a_single_method_tell_nothing() -> None:
    found = ranks(["snip"], [[0.5], [0.6]])
    assert math.isnan(found.critical)
    assert math.isnan(found.p)


def test_a_probability_is_at_most_one() -> None:
    """Where the ranks lean to no side, either sum of them has both signs."""
    assert signed_ranks([1.0, -1.0]) == (1.0, 0)
    assert signed_ranks([1.0, 2.0, -3.0]) == (1.0, 0)


@pytest.mark.parametrize(
    ("methods", "blocks", "tested", "critical"),
    [(1, 5, False, False), (2, 1, False, False), (2, 2, False, True), (3, 1, False, False), (3, 2, True, True)],
)
def test_ranks_of_few(methods: int, blocks: int, tested: bool, critical: bool) -> None:
    found = ranks(list("abc"[:methods]), [[float(i + j) for i in range(methods)] for j in range(blocks)])
    assert found.blocks == blocks
    assert found.mean == tuple(float(methods - i) for i in range(methods))
    assert (not math.isnan(found.p), not math.isnan(found.critical)) == (tested, critical)
