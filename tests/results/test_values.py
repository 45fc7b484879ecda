"""Which values a result may hold, at both ends of each range."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from pai_bench.results.values import (
    Amount,
    Count,
    Number,
    Positive,
    PositiveCount,
    Share,
    ShareBelow1,
    Zero,
    fits,
    require,
    within_limits,
)

SMALL, LARGE = 1e-9, 1 - 1e-9


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        (Number, [-1.5, -1, 0, 0.0, 2.5], ["1", None]),
        (Amount, [0, 0.0, SMALL, 1, 7.5], [-1, -SMALL]),
        (Positive, [SMALL, 1, 7.5], [0, 0.0, -1, -SMALL]),
        (Share, [0, 0.0, SMALL, 0.5, 1, 1.0], [-1, -SMALL, 1 + 1e-9, 2]),
        (ShareBelow1, [0, 0.0, SMALL, LARGE], [-1, -SMALL, 1, 1.0]),
        (Zero, [0, 0.0], [-1, 1, SMALL, -SMALL]),
        (Count, [0, 1, 10], [-1, 0.5]),
        (PositiveCount, [1, 10], [0, -1]),
    ],
)
def test_ranges(form: Any, good: list[Any], bad: list[Any]) -> None:
    """A number that may be a fraction may be whole, too; truth values are no numbers."""
    assert [value for value in good if not fits(value, form)] == []
    assert [value for value in [*bad, True, False, "x"] if fits(value, form)] == []


def test_limits_of_all_values() -> None:
    """No measurement gives larger or smaller ones; and JSON of other programs holds no larger whole numbers."""
    for good in (0.0, -0.0, 1e300, -1e300, 1e-300, -1e-300, 2**62, -(2**62), 0, "ä", True, None, (), {"a": [0.5]}):
        assert within_limits(good)
    for bad in (2e300, -2e300, 5e-301, -5e-301, float("nan"), float("inf"), 2**62 + 1, -(2**62) - 1, "\ud800"):
        for value in (bad, [0, bad], (bad, 0), {"a": bad}, {"a": [bad]}):
            assert not within_limits(value)
    assert not within_limits({"\ud800": 0})


def test_fields_are_checked_unless_their_class_says_otherwise() -> None:
    @dataclass
    class One:
        a: Any
        b: Any

    class Other(One):
        UNLIMITED: ClassVar = ("a",)

    assert [within_limits(kind(2**63, 0)) for kind in (One, Other)] == [False, True]
    assert [within_limits(kind(0, 2**63)) for kind in (One, Other)] == [False, False]
    assert within_limits([One(0, 1), Other(2, 3)])


def test_all_conditions_must_hold() -> None:
    require()
    require(True, True)
    with pytest.raises(ValueError, match="a field has an impossible value"):
        require(True, False)
