"""What seeds can show: beside tables, noncentral t by another formula, and simulated studies."""

import math

import numpy as np
import pytest
from scipy import special, stats

from pai_bench.report.detection import MOST_SEEDS, POWER, detectable, equivalence, power, seeds_for
from pai_bench.report.statistics import LEVEL, t_quantile


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_seeds_are_those_of_published_tables(effect: float, seeds: int) -> None:
    """Cohen's small, medium and large effects, two-sided, 5 %, 80 %: as of G*Power (Faul et al. 2007)."""
    assert seeds_for(effect) == seeds_for(-effect) == seeds


@pytest.mark.parametrize("seeds", [3, 5, 20, 100])
@pytest.mark.parametrize("effect", [0.0, 0.1, 0.5, 1.0])
def test_power_is_that_of_the_noncentral_t_distribution(seeds: int, effect: float) -> None:
    t, shift = t_quantile(seeds - 1), effect * math.sqrt(seeds)
    expected = 1 - special.nctdtr(seeds - 1, shift, t) + special.nctdtr(seeds - 1, shift, -t)
    assert power(effect, seeds) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("seeds", "tests"), [(3, 1), (3, 133), (5, 36), (20, 1), (20, 90)])
def test_simulated_studies_find_what_is_detectable_in_80_percent(seeds: int, tests: int) -> None:
    """20,000 studies at LEVEL / tests; three standard errors are 0.0085."""
    draws = np.random.default_rng(seeds * tests).normal(detectable(seeds, tests), 1.0, (20_000, seeds))
    found = stats.ttest_1samp(draws, 0.0, axis=1).pvalue <= LEVEL / tests
    assert np.mean(found) == pytest.approx(POWER, abs=0.0085)


def test_more_tests_and_smaller_effects_need_more_seeds() -> None:
    assert [seeds_for(effect, 36) for effect in (0.2, 0.5, 1.0, 2.0, 30.0)] == [413, 71, 22, 9, 3]
    assert seeds_for(0.0) is None
    least = detectable(MOST_SEEDS)
    assert seeds_for(1.001 * least) in range(MOST_SEEDS - 50, MOST_SEEDS + 1)
    assert seeds_for(0.999 * least) is None


def test_equivalence_is_two_one_sided_t_tests() -> None:
    values = np.array([0.1, -0.3, 0.2, 0.4, -0.1, 0.0])
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    above = stats.ttest_1samp(values, -0.5, alternative="greater").pvalue
    below = stats.ttest_1samp(values, 0.5, alternative="less").pvalue
    assert equivalence(mean, spread, 6, 0.5) == pytest.approx(max(above, below), rel=1e-12)
    assert equivalence(mean, spread, 6, abs(mean)) == pytest.approx(0.5)
    assert math.isnan(equivalence(0.0, 0.1, 2, 0.5))
    assert math.isnan(equivalence(0.0, 0.0, 9, 0.5))


def test_studies_of_a_difference_at_the_margin_seldom_call_it_equal() -> None:
    draws = np.random.default_rng(0).normal(0.5, 1.0, (4_000, 8))
    called = [equivalence(float(d.mean()), float(d.std(ddof=1)), 8, 0.5) <= LEVEL for d in draws]
    assert np.mean(called) <= LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / len(draws))
