"""Durations as texts."""

import pytest

from pai_bench.support.durations import seconds_of
from pai_bench.support.errors import UserError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("1.5h", 5400), ("3h55m", 14_100), ("2d1h1m1s", 176_461), (" 2H ", 7200), ("0.2s", 0.2)],
)
def test_what_is_a_duration(text: str, seconds: float) -> None:
    assert seconds_of(text, "limit") == seconds


@pytest.mark.parametrize("text", ["", "5", "5 minutes", "-5m", "m", "5m3h", "5mm", "h5", "1e3s", "nan", "5m\0"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(UserError) as error:
        seconds_of(text, "limit")
    assert str(error.value) == f"limit {text!r} is no duration: write it as 90s, 5m, 2h or 3h55m"


@pytest.mark.parametrize("text", ["0s", "0h0m", "99999999999999999999d", "10001d"])
def test_what_is_too_short_or_too_long(text: str) -> None:
    with pytest.raises(UserError) as error:
        seconds_of(text, "limit")
    assert str(error.value) == f"limit {text!r} must be longer than nothing, and at most 10,000 days"
