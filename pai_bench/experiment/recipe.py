"""Recipes: sweeps as TOML files.

The keys are the fields of `Sweep` (``-`` and ``_`` are the same), ``out``, the results folder, and what is said about
it: ``title`` and ``source``. Tables ``[[grid]]`` make one sweep each, from the keys at the top and their own.
"""

import dataclasses
import itertools
import os
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pai_bench.experiment.settings import ScoringSettings, TrainingSettings, names, with_effect
from pai_bench.experiment.sweep import Axes, ProtocolSettings, Sweep
from pai_bench.experiment.trial import DENSE
from pai_bench.support import spec
from pai_bench.support.errors import UserError, reason, unknown

SHIPPED = Path(__file__).parents[1] / "recipes"

TOP = 0
"""The part of a recipe before its grids, which are numbered from 1."""


@dataclass(frozen=True)
class Recipe:
    """The title and the source of a recipe, and its grids: keys of `Sweep`, and ``out``."""

    name: str
    grids: tuple[dict[str, Any], ...]
    title: str = ""
    source: str = ""

    @property
    def trials(self) -> int:
        """How many trials it has; what several grids have in common counts once."""
        return sum(len(points) for points in self.points().values())

    def points(self) -> dict[tuple[Any, ...], set[tuple[Any, ...]]]:
        """The points of its grids by what decides how they train: data, model, and the fields that are no scoring."""
        points: dict[tuple[Any, ...], set[tuple[Any, ...]]] = {}
        for grid in self.grids:
            sweep = Sweep(**{key: value for key, value in grid.items() if key != "out"})
            settings = with_effect(vars(sweep))
            training, scoring = (
                tuple((name, settings[name]) for cls in classes for name in names(cls) if name not in GRID)
                for classes in ((ProtocolSettings, TrainingSettings), (ScoringSettings, Axes))
            )
            trials = [DENSE, *itertools.product(sweep.criteria, sweep.variants, sweep.sparsities, [scoring])]
            for criterion, sparsity in itertools.product(sweep.criteria, sweep.sparsities):
                trials += [(criterion, "none", level, scoring) for level in levels_before(criterion, sparsity)]
            for network in itertools.product(sweep.data, sweep.models, [training]):
                points.setdefault(network, set()).update(itertools.product(sweep.seed_list, trials))
        return points


def levels_before(criterion: Any, sparsity: float) -> Iterator[float]:
    """Sparsities of the levels of iterative pruning that come before that of a `sparsity`; each is a trial."""
    from pai_bench.scoring import IterativePruning, get_criterion

    if isinstance(chosen := get_criterion(criterion), IterativePruning):
        while sparsity := chosen.checked_sparsity_before(sparsity):
            yield sparsity


def shipped() -> list[str]:
    """The names of the recipes that come with pai-bench."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load(name: str, *, replaced: Collection[str] = ()) -> Recipe:
    """The recipe in a file, or the one of that name that is shipped.

    Names in the values of keys that are to be `replaced` are not looked up.
    """
    path = Path(name) if name.endswith(".toml") or os.path.isfile(name) else SHIPPED / f"{name}.toml"
    if not os.path.isfile(path):
        raise unknown("recipe", name, shipped()) if path.parent == SHIPPED else UserError(f"no recipe file {name}")
    try:
        return parse(path.read_text(encoding="utf-8-sig"), name, replaced)
    except OSError as error:
        raise UserError(f"recipe {name} cannot be read ({reason(error)})") from error
    except RecursionError as error:
        raise UserError(f"recipe {name} cannot be read: its values are nested too deeply") from error
    except UnicodeDecodeError as error:
        raise UserError(f"recipe {name} is not TOML: {error}") from error


def parse(text: str, name: str, replaced: Collection[str] = ()) -> Recipe:
    """The recipe called `name` with the content `text`; the values of keys that are to be `replaced` as in `load`."""
    try:
        content = tomllib.loads(text)
    except ValueError as error:  # also of an integer with thousands of digits
        raise UserError(f"recipe {name} is not TOML: {error}") from error
    grids = content.pop("grid", [{}])
    if not isinstance(grids, list) or not grids or not all(isinstance(grid, dict) for grid in grids):
        raise UserError(f"recipe {name}: 'grid' is for tables [[grid]], each with keys of its own")
    lines = {(part, key): line for part, key, line in reversed(list(key_lines(text)))}
    about = {key: content.pop(key) for key in ("title", "source") if key in content}
    for key, value in about.items():
        if not isinstance(value, str):
            line = f", line {lines[TOP, key]}" if (TOP, key) in lines else ""
            raise UserError(f"recipe {name}{line}: {key} = {value!r} is not a text")
    parts = [check(part, name, lines, number, replaced) for number, part in enumerate((content, *grids))]
    return Recipe(name, tuple(parts[TOP] | part for part in parts[1:]), **about)


def key_lines(text: str) -> Iterator[tuple[int, str, int]]:
    """Part, key and line (from 1) of whatever looks like a key of a recipe."""
    part, quotes = TOP, ""  # those that will end a text of several lines
    for number, line in enumerate(text.split("\n"), 1):
        if quotes:
            quotes = "" if quotes in line else quotes
            continue
        if re.match(r"\s*\[\[\s*[\"']?grid[\"']?\s*\]\]", line):
            part += 1
        elif key := re.match(r"\s*([\"']?)([\w-]+)\1\s*=", line):
            yield part, key[2], number
            opening = re.match(r"\s*(\"{3}|'{3})", line[key.end() :])
            quotes = opening[1] if opening and line.count(opening[1]) == 1 else ""


AXES = {f.name: float if f.name == "sparsities" else str for f in dataclasses.fields(Sweep) if f.metadata["axis"]}
"""Axes of the grid -> type of their entries, as far as a file or a command line can give them."""

GRID = {*AXES, "seeds"}
"""Keys with several values, of which each trial has one."""

KEYS: dict[str, Any] = get_type_hints(Sweep, include_extras=True) | AXES | {"out": str}
"""Key -> type of everything that a recipe may hold."""


def check(
    keys: Mapping[str, Any], recipe: str, lines: Mapping[tuple[int, str], int], part: int, replaced: Collection[str]
) -> dict[str, Any]:
    """`keys` spelled as fields, after checking that each is known and has a value that it can have."""
    checked: dict[str, Any] = {}
    for key, value in keys.items():
        line = lines.get((part, key))
        label = f"recipe {recipe}" + (f", line {line}" if line else "")
        name = key.replace("-", "_")
        if name not in KEYS:
            raise unknown(f"key in {label}", key, KEYS)
        if name in checked:
            raise UserError(f"{label}: {key} is given twice, with - and with _")
        if name in AXES:
            values = value if isinstance(value, list) else [value]
            checked[name] = tuple(typed(v, KEYS[name], f"{label}: {key}") for v in values)
        else:
            checked[name] = typed(value, KEYS[name], f"{label}: {key}")
        try:
            if name != "out":
                Sweep(**{name: checked[name]})
            if name not in replaced:
                look_up(name, checked[name])
        except UserError as error:
            raise UserError(f"{label}: {error}") from None
    return checked


def look_up(key: str, value: Any) -> None:
    """Find what the value of a key names, if it names something; a name that is not known is a `UserError`."""
    from pai_bench.masks import get_schedule
    from pai_bench.models import find_model
    from pai_bench.pruning import get_variant
    from pai_bench.scoring import get_criterion
    from pai_bench.support.registry import DATA
    from pai_bench.training.protocol import get_protocol

    finders: dict[str, Callable[[str], object]] = {
        "criteria": get_criterion,
        "models": find_model,
        "data": DATA.find,
        "variants": get_variant,
        "schedule": get_schedule,
        "protocol": get_protocol,
    }
    if key in finders:
        for name in value if key in AXES else [value]:
            finders[key](name)


def typed(value: Any, to: Any, label: str) -> Any:
    """`value` if it is of the type `to`; unlike on a command line, no number is read out of a text."""
    if not accepts_text(to) and any(isinstance(v, str) for v in (value if isinstance(value, list) else [value])):
        wanted = "true or false" if to is bool else "a number"
        raise UserError(f"{label} = {value!r} must be {wanted}, not a text")
    if isinstance(value, str) and "\0" in value:
        raise UserError(f"{label} = {value!r} holds a NUL character, which no name may")
    return spec.convert(value, to, label)


def accepts_text(to: Any) -> bool:
    """Whether a text is a value of the type `to`."""
    return to is str or get_origin(to) is Literal or any(accepts_text(t) for t in get_args(to))
