"""Durations as texts: ``90s``, ``5m``, ``3h55m``."""

import re

from pai_bench.support.errors import UserError

SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
"""Of each unit, the longest first."""

LONGEST = 10_000 * SECONDS["d"]

PATTERN = re.compile("".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in SECONDS))


def seconds_of(text: str, label: str) -> float:
    """The seconds of a duration: a number with a unit, or several, the longest first; UserError names the `label`."""
    match = PATTERN.fullmatch(text.strip().lower())
    if match is None or not any(match.groups()):
        raise UserError(f"{label} {text!r} is no duration: write it as 90s, 5m, 2h or 3h55m")
    seconds = sum(float(number or 0) * size for number, size in zip(match.groups(), SECONDS.values(), strict=True))
    if not 0 < seconds <= LONGEST:
        raise UserError(f"{label} {text!r} must be longer than nothing, and at most {LONGEST // SECONDS['d']:,} days")
    return seconds
