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


def validated(value: object, structure: type[T]) -> T:
    """Plain values as a type, such as a dataclass; ValueError if they are not of it, or beyond the limits.

    Truth values are no numbers. Keys that a dataclass does not declare are not looked at.
    """
    result = convert(value, structure)
    require(within_limits(result))
    return result


def require(*conditions: bool) -> None:
    """Raise ValueError if a condition on the fields of a result does not hold."""
    if not all(conditions):
        raise ValueError("a field has an impossible value")


def fits(value: object, form: Any) -> bool:
    """Whether a plain value is of a type, and within the limits."""
    try:
        validated(value, form)
    except ValueError:
        return False
    return True


def within_limits(value: Any) -> bool:
    """Whether a file can hold what `validated` gives: texts that can be written, numbers that a measurement may give.

    That is no infinity, nothing beyond `HUGE` or below `TINY`, and no whole number beyond `MOST`. Fields that a
    dataclass names in ``UNLIMITED`` are not looked at.
    """
    pending = [value]
    while pending:  # a store has many values: no call for each
        value = pending.pop()
        exact = type(value)
        if exact is float:
            if not (value == 0 or TINY <= abs(value) <= HUGE):
                return False
        elif exact is int:
            if abs(value) > MOST:
                return False
        elif exact is str:
            if not value.isascii() and SURROGATES.search(value):
                return False
        elif exact is tuple or exact is list:
            pending += value
        elif exact is dict:
            pending += [*value, *value.values()]
        elif value is not None and exact is not bool:
            if unlimited := exact.__dict__.get("UNLIMITED"):
                pending += [item for name, item in vars(value).items() if name not in unlimited]
            else:
                pending += vars(value).values()
    return True
