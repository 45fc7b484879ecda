"""Schedules, by the formulas and by hand."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pai_bench.errors import UserError
from pai_bench.pruning import Exponential, Halving, Linear, OneShot, Schedule, get_schedule
from pai_bench.pruning.schedule import SCHEDULES


def test_by_hand() -> None:
    assert OneShot().densities(0.02) == [0.02]
    assert Linear(steps=4).densities(0.2) == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert Exponential(steps=2).densities(0.01) == pytest.approx([0.1, 0.01])


def test_halving_cuts_seven_times() -> None:
    # s = 0.98: the distance 0.48 from 0.5 is halved six times from i = 0 on, then s itself
    sparsities = [1 - d for d in Halving(steps=5).densities(0.02)]
    assert sparsities == pytest.approx([0.5, 0.74, 0.86, 0.92, 0.95, 0.965, 0.98])


def test_halving_is_one_shot_up_to_a_half() -> None:
    assert Halving().densities(0.5) == [0.5]
    assert Halving().densities(0.7) == [0.7]


@given(st.sampled_from(sorted(SCHEDULES)), st.floats(1e-6, 1, exclude_min=True))
def test_densities_fall_to_the_target(name: str, density: float) -> None:
    densities = get_schedule(name).densities(density)
    assert densities[-1] == density
    assert all(a >= b for a, b in itertools.pairwise(densities))
    assert 0 < min(densities) <= max(densities) <= 1


@pytest.mark.parametrize("schedule", [OneShot(), Linear(steps=7), Exponential(steps=60, returns=True), Halving()])
def test_text_and_back(schedule: Schedule) -> None:
    assert get_schedule(str(schedule)) == schedule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exponentail", "did you mean exponential"),
        ("linear:steps=0", "steps=0"),
        ("linear:steps=x", "steps=x is not a whole number"),
        ("linear:step=3", "did you mean steps"),
        ("one-shot:steps=3", "single step"),
        ("linear:3", "OPTION=VALUE"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_schedule(text)
