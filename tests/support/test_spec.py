"""Values and texts as options: what each type takes, and what is written again."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest

from pai_bench.support import spec
from pai_bench.support.errors import UserError


@dataclass(frozen=True)
class Thing:
    power: float = 2.0
    batch_size: int | None = None
    mode: Literal["a-b", "c"] = "c"
    made: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        if self.power == 0:
            raise UserError("power must not be 0")
        if self.power < 0:
            math.sqrt(self.power)
        if self.power > 9:
            raise KeyError("large")


@pytest.mark.parametrize(
    ("value", "to", "expected"),
    [
        ("3", int, 3),
        (3.0, int, 3),
        (np.int64(3), int, 3),
        ("-3", int, -3),
        (2, float, 2.0),
        (np.float32(0.5), float, 0.5),
        ("1e-3", float, 0.001),
        ("TRUE", bool, True),
        ("False", bool, False),
        (False, bool, False),
        ("x", str, "x"),
        (None, int | None, None),
        ("None", int | None, None),
        ("4", int | None, 4),
        ("none", Literal["none", "c"], "none"),
        ("a_b", Literal["a-b", "c"], "a-b"),
        ("auto", int | Literal["auto"], "auto"),
        ("7", int | Literal["auto"], 7),
        ([1], list[int], [1]),
        ({1}, Any, {1}),
    ],
)
def test_what_a_type_takes(value: Any, to: Any, expected: Any) -> None:
    found = spec.convert(value, to, "x")
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "to", "message"),
    [
        ("3.0", int, "x=3.0 is not a whole number"),
        (3.5, int, "x=3.5 is not a whole number"),
        (True, int, "x=True is not a whole number"),
        (True, float, "x=True is not a finite number"),
        (None, float, "x=None is not a finite number"),
        ("1e400", float, "x=1e400 is not a finite number"),
        ("nan", float, "x=nan is not a finite number"),
        (math.inf, float, "x=inf is not a finite number"),
        (math.nan, int, "x=nan is not a whole number"),
        (10**400, float, f"x={10**400} is not a finite number"),
        (1, bool, "x=1 is not true or false"),
        ("yes", bool, "x=yes is not true or false"),
        (1, str, "x=1 is not a text"),
        ("many", int | None, "x=many is not a whole number"),
        ("many", int | Literal["auto"], "x=many is neither a whole number nor auto"),
        ("many", float | Literal["permute"], "x=many is neither a number nor permute"),
        ("d", Literal["a-b", "c"], "x=d is not one of a-b, c"),
        (None, Literal["a-b", "c"], "x=None is not one of a-b, c"),
        ("1", list[int], r"x=1 is not list\[int\]"),
    ],
)
def test_what_a_type_refuses(value: Any, to: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        spec.convert(value, to, "x")


def test_texts_are_divided_and_written_again() -> None:
    assert spec.parse(" thing : batch-size = 4 :power=1=2") == ("thing", {"batch_size": "4", "power": "1=2"})
    assert spec.parse("thing") == ("thing", {})
    made = spec.build(Thing, {"batch_size": "4", "mode": "a_b"}, "thing")
    assert made == Thing(2.0, 4, "a-b")
    assert spec.write("thing", made) == "thing:batch-size=4:mode=a-b"
    assert spec.write("thing", Thing()) == "thing"
    assert list(spec.option_types(Thing)) == ["power", "batch_size", "mode"]


@pytest.mark.parametrize("part", ["power", "=1", " =1", ""])
def test_texts_without_option_or_value(part: str) -> None:
    with pytest.raises(UserError, match=f"in 'thing:{part}': '{part}' is not of the form OPTION=VALUE"):
        spec.parse(f"thing:{part}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"powr": 1}, "unknown option of thing 'powr': did you mean power"),
        ({"made": 1}, "unknown option of thing 'made'"),
        ({"power": "x"}, "thing:power=x is not a finite number"),
        ({"power": 0}, "thing: power must not be 0"),
        ({"power": -1}, "thing: "),  # no type of a ValueError, which says enough
        ({"power": 10}, "thing: KeyError: 'large'"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}") as found:
        spec.build(Thing, options, "thing")
    assert "ValueError" not in str(found.value)
    with pytest.raises(UserError, match="option 'power' is given twice"):
        spec.parse("thing:power=1:power=2")
