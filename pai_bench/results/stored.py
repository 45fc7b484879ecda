"""What the files of a results folder have in common: plain values as JSON, which validate when read, and a checksum.

Files are flat: a section, a dataclass within another, has its keys beside those of the outer one. The metadata of a
field say so: `SECTION`, whose default is an empty one; `IF_ANY` and `NEVER`, of what is not always in the file.
"""

import functools
import json
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import Field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from msgspec import ValidationError

from pai_bench.results.values import validated
from pai_bench.support.errors import UserError
from pai_bench.support.identity import digest

SCHEMA = 1
"""Version of the record's form; a reader refuses what is newer than itself."""

LONGEST = 2**23
"""Bytes that a file may have; a record has some thousand."""

MALFORMED = (KeyError, TypeError, AttributeError, IndexError, ArithmeticError, RecursionError)
"""What reading a damaged file may raise, besides ValueError."""

LONGEST_REASON = 200
"""Characters of a message about a damaged file, which may hold a value of it."""

CHECKSUM = "checksum"
"""The key of the checksum of all the others; files of earlier versions have none."""

DIGITS = 16
"""Hexadecimal digits of a checksum."""

SECTION = {"in the file": "field by field"}
IF_ANY = {"in the file": "if it is not empty"}
NEVER = {"in the file": "never"}

cached_fields: Callable[[Any], tuple[Field[Any], ...]] = functools.cache(fields)
"""The fields of a dataclass, which are looked up for every result of a store."""


class NewerSchemaError(UserError):
    """A record that a later version of pai-bench wrote."""


class UnstorableError(UserError):
    """A result that could not be read again if it were written."""


class UnwritableError(UserError):
    """A results folder that nothing can be written to."""


class Stored:
    """A frozen dataclass of plain values, which is the content of one file."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    folder: ClassVar[str]
    """Where its files are, in a results folder."""
    added: ClassVar[Mapping[str, Any]] = {}
    """Keys that older files do not have, such as ``provenance.lanes``, and what they mean there.

    Those whose absence means that a value is unknown are not listed: that is the default of their field.
    """

    if TYPE_CHECKING:

        @property
        def identity(self) -> str:
            """The name of the file, without its suffix; a field of some, and derived from the settings of others."""

    @property
    def settings(self) -> Any:
        """What the hash at the end of the file's name is of."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise an error of some type if fields, each of its type, do not fit each other."""

    def check_name(self, name: str) -> None:
        """Raise ValueError if a file of that name, without its suffix, has other settings."""
        if digest(self.settings) != name.rpartition("-")[2]:
            raise ValueError("its settings are not those that the file is named by")

    def content(self) -> dict[str, Any]:
        """The fields that are in the file."""
        return flattened(self)

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(with_checksum(plain(self.content())), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The dataclass from the text of its file, or ValueError."""
        try:
            raw = json_object(text)
            if raw.get("schema", 0) > SCHEMA:
                raise NewerSchemaError(f"schema {raw['schema']} is newer than this version reads ({SCHEMA})")
            content = without_checksum(raw)
            for path, value in cls.added.items():
                *outer, key = path.split(".")
                functools.reduce(operator.getitem, outer, content).setdefault(key, value)
            result = validated(nested(content, cls), cls)
            result.check()
        except (ValidationError, *MALFORMED) as error:
            raise ValueError(f"a field is missing or malformed: {repr(error)[:LONGEST_REASON]}") from error
        return result


def nested(flat: Mapping[str, Any], structure: Any) -> dict[str, Any]:
    """What the file holds, with the keys of each section of the dataclass `structure` in an object of their own."""
    return {
        field.name: nested(flat, field.default_factory) if field.metadata == SECTION else flat[field.name]
        for field in cached_fields(structure)
        if field.metadata == SECTION or (field.name in flat and field.metadata != NEVER)
    }


def flattened(structure: Any) -> dict[str, Any]:
    """The fields of a dataclass that are in the file, those of its sections among them."""
    flat: dict[str, Any] = {}
    for field in cached_fields(type(structure)):
        value = getattr(structure, field.name)
        if field.metadata == SECTION:
            flat |= flattened(value)
        elif not field.metadata or (field.metadata == IF_ANY and value):
            flat[field.name] = value
    return flat


def plain(value: Any) -> Any:
    """`value` as JSON holds it and gives it back, or TypeError.

    Halves of characters, such as Python makes of bytes that are no UTF-8, are written as escapes; scalars of numpy and
    torch become Python's; a number that is not finite, which nothing has measured, is None.
    """
    if isinstance(value, str):
        return plain_text(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if is_dataclass(value):
        return plain(flattened(value))
    if getattr(value, "ndim", None) == 0:
        return plain(value.item())
    raise TypeError(f"{type(value).__name__} is no plain value")


def plain_text(text: str) -> str:
    r"""A text that any file can hold: halves of characters are written as ``\udcff``."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def json_object(text: str | bytes) -> dict[str, Any]:
    """The JSON object that a text is, or ValueError."""
    raw = json.loads(text if isinstance(text, str) else text.decode(), parse_constant=refuse_constant)
    if not isinstance(raw, dict):
        raise ValueError("not a record")
    return raw


def refuse_constant(text: str) -> None:
    """An error about NaN or an infinity, which no record holds."""
    raise ValueError(f"{text} is no number that a record holds")


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a file, with its checksum."""
    return {**content, CHECKSUM: digest(content, DIGITS)}


def without_checksum(raw: dict[str, Any]) -> dict[str, Any]:
    """The content of a file without its checksum, or ValueError if it has another one."""
    content = {key: value for key, value in raw.items() if key != CHECKSUM}
    if CHECKSUM in raw and raw[CHECKSUM] != digest(content, DIGITS):
        raise ValueError("its content is not that of its checksum: something has changed it")
    return content
