"""Recipes: sweeps as TOML files.

The keys are the fields of `Sweep` (``-`` and ``_`` are the same) and ``out``, the results folder. Tables ``[[grid]]``
make one sweep each, from the keys at the top and their own.
"""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pai_bench import spec
from pai_bench.errors import UserError, unknown
from pai_bench.plan import Sweep

SHIPPED = Path(__file__).parent / "recipes"


def shipped() -> dict[str, str]:
    """Name -> first comment line of the recipes that come with pai-bench."""
    return {
        path.stem: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        for path in sorted(SHIPPED.glob("*.toml"))
    }


def load(name: str) -> list[dict[str, Any]]:
    """The grids of a recipe, given by file or by the name of one that is shipped: keys of `Sweep`, and ``out``."""
    path = Path(name) if name.endswith(".toml") or Path(name).is_file() else SHIPPED / f"{name}.toml"
    if not path.is_file():
        if path.parent == SHIPPED:
            raise unknown("recipe", name, shipped())
        raise UserError(f"no recipe file {name}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {name} is not TOML: {error}") from error
    grids = content.pop("grid", [{}])
    if not isinstance(grids, list) or not grids or not all(isinstance(grid, dict) for grid in grids):
        raise UserError(f"recipe {name}: 'grid' is for tables [[grid]], each with keys of its own")
    return [check({**content, **grid}, f"recipe {name}") for grid in grids]


AXES = {f.name: float if f.name == "sparsities" else str for f in dataclasses.fields(Sweep) if f.metadata["axis"]}
"""Axes of the grid -> type of their entries, as far as a file or a command line can give them."""

KEYS: dict[str, Any] = get_type_hints(Sweep) | AXES | {"out": str}
"""Key -> type of everything that a recipe may hold."""


def check(given: Mapping[str, Any], label: str) -> dict[str, Any]:
    """`given` with its keys spelled as fields, after checking that each is known and of the right type."""
    checked = {}
    for key, value in given.items():
        name = key.replace("-", "_")
        if name not in KEYS:
            raise unknown(f"key in {label}", key, KEYS)
        if name in AXES:
            values = value if isinstance(value, list) else [value]
            checked[name] = tuple(typed(v, KEYS[name], f"{label}: {key}") for v in values)
        else:
            checked[name] = typed(value, KEYS[name], f"{label}: {key}")
    return checked


def typed(value: Any, to: Any, label: str) -> Any:
    """`value` if it is of the type `to`; unlike on a command line, no number is read out of a text."""
    if isinstance(value, str) and not accepts_text(to):
        raise UserError(f"{label} = {value!r} must be a number, not a text")
    return spec.convert(value, to, label)


def accepts_text(to: Any) -> bool:
    """Whether a text is a value of the type `to`."""
    return to is str or get_origin(to) is Literal or any(accepts_text(t) for t in get_args(to))
