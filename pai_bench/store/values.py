"""The values that a stored result may hold: types with their ranges, and the limits that hold for all of them."""

import re
from typing import Annotated, Any, TypeVar

from msgspec import Meta, convert

T = TypeVar("T")

HUGE, TINY, MOST = 1e300, 1e-300, 2**62
"""The largest number that a result may hold, the smallest but 0, and the largest whole one."""

SURROGATES = re.compile("[\ud800-\udfff]")
"""Halves of characters, which no file can hold."""

# a float may be a whole number, which stays one, so that a file is written as it was read
Number = int | float
Amount = Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0)]
Positive = Annotated[int, Meta(gt=0)] | Annotated[float, Meta(gt=0)]
Share = Annotated[int, Meta(ge=0, le=1)] | Annotated[float, Meta(ge=0, le=1)]
ShareBelow1 = Annotated[int, Meta(ge=0, lt=1)] | Annotated[float, Meta(ge=0, lt=1)]
Zero = Annotated[int, Meta(ge=0, le=0)] | Annotated[float, Meta(ge=0, le=0)]
Count = Annotated[int, Meta(ge=0)]
PositiveCount = Annotated[int, Meta(gt=0)]


def validated(value: object, form: type[T]) -> T:
    """Plain values as a type, such as a dataclass; ValueError if they are not of it, or beyond the limits.

    Truth values are no numbers. Keys that a dataclass does not declare are not looked at.
    """
    found = convert(value, form)
    if not within_limits(found):
        raise ValueError("a field has an impossible value")
    return found


def within_limits(value: Any) -> bool:
    """Whether a file can hold what `validated` gives: texts that can be written, numbers that a measurement may give.

    That is no infinity, nothing beyond `HUGE` or below `TINY`, and no whole number beyond `MOST`.
    """
    kind = type(value)  # exact types, which JSON gives: a store has many values
    if kind is str:
        return bool(value.isascii()) or not SURROGATES.search(value)
    if kind is float:
        return bool(value == 0 or TINY <= abs(value) <= HUGE)
    if kind is int:
        return bool(abs(value) <= MOST)
    if kind is dict:
        return all(map(within_limits, value)) and all(map(within_limits, value.values()))
    if kind is tuple or kind is list:
        return all(map(within_limits, value))
    return value is None or kind is bool or all(map(within_limits, vars(value).values()))


def is_number(value: Any) -> bool:
    """A number that a measurement may give."""
    return isinstance(value, int | float) and not isinstance(value, bool) and within_limits(value)
