"""Parse, check, build and write specifications ``NAME[:OPTION=VALUE]...``.

They stand for frozen dataclasses (criteria, schedules), whose fields are the options. ``-`` and ``_`` are the same.
"""

import itertools
import math
import types
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from numbers import Real
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pai_bench.support.errors import FROZEN, UserError, unknown

T = TypeVar("T")


def parse(text: str) -> tuple[str, dict[str, str]]:
    """Split ``grasp:temperature=1`` into its name and its options.

    In ``group:of=grasp:of.temperature=1``, an option is itself written like this, and its options behind its name.
    """
    name, *rest = text.strip().split(":")
    options: dict[str, str] = {}
    for part in rest:
        key, equals, value = part.partition("=")
        key = key.strip().replace("-", "_")
        if not (equals and key):
            raise UserError(f"in {text!r}: {part!r} is not of the form OPTION=VALUE")
        if key in options:
            raise UserError(f"in {text!r}: option {key!r} is given twice")
        outer, dot, inner = key.partition(".")
        if dot and outer in options:
            options[outer] += f":{inner}={value.strip()}"
        else:
            options[key] = value.strip()
    return name.strip(), options


def build(cls: type[T], options: Mapping[str, Any], label: str) -> T:
    """`cls` with `options`; texts are converted to the types of its fields."""
    hints = option_types(cls)
    for key in options:
        if key not in hints:
            raise unknown(f"option of {label}", key, hints)
    if lacking := [name for name in required_options(cls) if name not in options]:
        form = ":".join([label, *(f"{name.replace('_', '-')}=VALUE" for name in lacking)])
        raise UserError(f"{label} needs the option {lacking[0].replace('_', '-')}: {form}")
    try:
        return cls(**{key: convert(value, hints[key], f"{label}:{key}") for key, value in options.items()})
    except UserError as error:
        raise UserError(str(error) if str(error).startswith(label) else f"{label}: {error}") from None
    except Exception as error:  # an option without a value, a class that is not finished or whose constructor breaks
        error_type = "" if isinstance(error, (TypeError, ValueError)) else f"{type(error).__name__}: "
        hint = f"; {FROZEN}" if isinstance(error, FrozenInstanceError) else ""
        raise UserError(f"{label}: {error_type}{error}{hint}") from error


def option_types(cls: type) -> dict[str, Any]:
    """Option name -> type, for the fields of a dataclass that its constructor takes."""
    try:
        hints = get_type_hints(cls, include_extras=True)
    except NameError:  # annotations that name what is local to a function; such options are not converted
        return {}
    return {f.name: hints[f.name] for f in fields(cls) if f.init}


def required_options(cls: type) -> list[str]:
    """The names of the options of a dataclass that have no default."""
    return [f.name for f in fields(cls) if f.init and f.default is MISSING and f.default_factory is MISSING]


@dataclass(frozen=True)
class OneOf:
    """In ``Annotated[str, OneOf(...)]``: the text is one of some words or of some names, which are looked up later.

    `shown` is how both stand in a help text.
    """

    words: tuple[str, ...]
    names: Collection[str]
    shown: str = "NAME"

    def __iter__(self) -> Iterator[str]:
        return itertools.chain(self.words, self.names)


def convert(value: Any, to: Any, label: str) -> Any:
    """`value` as an instance of the type `to`; a text is read, anything else is checked."""
    origin, choices = get_origin(to), get_args(to)
    if to is Any:
        return value
    if origin in (Literal, Annotated):
        return accepted_value(value, choices[1] if origin is Annotated else choices, label)
    if origin in (Union, types.UnionType):
        return first_that_fits(value, choices, label)
    return plain(value, to, label)


def accepted_value(value: Any, accepted: Iterable[Any], label: str) -> Any:
    """The accepted value that is equal to `value`, with ``-`` for ``_``."""
    text = value.replace("_", "-") if isinstance(value, str) else value
    for candidate in accepted:
        if candidate in (value, text):
            return candidate
    raise UserError(f"{label}={value} is not one of {', '.join(map(str, accepted))}")


def first_that_fits(value: Any, choices: Sequence[Any], label: str) -> Any:
    """`value` as an instance of the first of some types that it can be converted to."""
    if type(None) in choices and (value is None or (isinstance(value, str) and value.lower() == "none")):
        return None
    *others, last = (choice for choice in choices if choice is not type(None))
    for choice in others:
        with suppress(UserError):
            return convert(value, choice, label)
    words = [word for choice in choices if get_origin(choice) is Literal for word in get_args(choice)]
    if words and others and value not in words:
        number = "a number" if float in choices else "a whole number"
        raise UserError(f"{label}={value} is neither {number} nor {' or '.join(words)}")
    found = convert(value, last, label)
    return int(found) if int in choices and isinstance(found, float) and found.is_integer() else found


def plain(value: Any, to: Any, label: str) -> Any:
    """`value` as a truth value, a number, or an instance of a class."""
    if to is bool and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if to in (int, float) and isinstance(value, (str, Real)) and not isinstance(value, bool):
        try:
            number = to(value)
            finite = math.isfinite(number)
        except (ValueError, OverflowError):
            finite = False
        if finite and (isinstance(value, str) or number == value):
            return number
    elif not isinstance(to, type):  # list[int] and the like: not converted, but there is no text for it
        if not isinstance(value, str):
            return value
    elif isinstance(value, to) and (to is bool or not isinstance(value, bool)):
        return value
    names = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false"}
    raise UserError(f"{label}={value} is not {names.get(to, to)}")


def added_later(default: Any) -> Any:
    """A field that came after the first results: at its default, it is left out of identities and records."""
    return field(default=default, metadata={"left_out": default})


def identity_fields(value: Any, declared_by: Any = None) -> dict[str, Any]:
    """The values of a dataclass's fields, or those of a base class, that belong to its identity, by name."""
    values = ((f, getattr(value, f.name)) for f in fields(declared_by or value))
    return {f.name: item for f, item in values if f.metadata.get("left_out", MISSING) != item}


def write(name: str, value: Any) -> str:
    """The text from which `value` can be built again: its name and the options that differ from the defaults."""
    options = ((f, getattr(value, f.name)) for f in fields(value) if f.init)
    parts = (option_text(f.name.replace("_", "-"), str(item)) for f, item in options if item != f.default)
    return ":".join([name, *parts])


def option_text(key: str, value: str) -> str:
    """An option as `parse` reads it, the options of its value as options of their own: ``of=grasp:of.bn=eval``."""
    first, *inner = value.split(":")
    if not all("=" in part for part in inner):
        return f"{key}={value}"
    return ":".join([f"{key}={first}", *(f"{key}.{part}" for part in inner)])
