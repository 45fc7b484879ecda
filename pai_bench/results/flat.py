"""Files are flat: a section, a dataclass within another, has its keys beside those of what holds it.

The metadata of a field say so: `SECTION`, whose default is an empty one; `IF_ANY` and `NEVER`, of what is not always in
the file.
"""

from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from functools import cache
from typing import Any

SECTION = {"in the file": "field by field"}
IF_ANY = {"in the file": "if it is not empty"}
NEVER = {"in the file": "never"}

declared: Callable[[Any], tuple[Field[Any], ...]] = cache(fields)
"""The fields of a dataclass, which are looked up for every result of a store."""


def split(flat: Mapping[str, Any], structure: Any) -> dict[str, Any]:
    """What the file holds, with the keys of each section of the dataclass `structure` in an object of their own."""
    nested: dict[str, Any] = {}
    for field in declared(structure):
        if field.metadata == SECTION:
            nested[field.name] = split(flat, field.default_factory)
        elif field.name in flat and field.metadata != NEVER:
            nested[field.name] = flat[field.name]
    return nested


def join(structure: Any) -> dict[str, Any]:
    """The fields of a dataclass that are in the file, those of its sections among them."""
    flat: dict[str, Any] = {}
    for field in declared(type(structure)):
        value = getattr(structure, field.name)
        if field.metadata == SECTION:
            flat |= join(value)
        elif not field.metadata or (field.metadata == IF_ANY and value):
            flat[field.name] = value
    return flat
