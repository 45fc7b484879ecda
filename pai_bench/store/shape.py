"""What values have to be like, so that whatever reads results may rely on it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any, Literal, NotRequired, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

Form = Any
"""A type, with its arguments. Of a mapping that is a ``TypedDict``, keys that it does not name are not looked at."""


class Named(TypedDict):
    """What the configuration of every trial says."""

    data: str
    model: str
    model_version: NotRequired[int]
    seed: int


class UsedCriterion(TypedDict):
    """The criterion in the configuration of a trial."""

    name: str
    schedule: str
    revision: int
    options: tuple[tuple[str, Any], ...]


class Scored(Named):
    """The configuration of a trial with a criterion."""

    scope: str
    score_batch: int
    score_sampling: str
    score_batches: NotRequired[int]
    variant: NotRequired[str]
    target: NotRequired[str]
    min_per_layer: NotRequired[int]
    repair: NotRequired[str]
    prunable: NotRequired[str]
    keep_first: NotRequired[bool]
    keep_last: NotRequired[bool]
    traced: NotRequired[tuple[str, ...]]
    criterion: UsedCriterion


class UsedProtocol(TypedDict):
    """The protocol in the configuration of a trial."""

    batch_size: int
    budget: NotRequired[float]


class Trained(Named):
    """The configuration of a trial that was trained."""

    sparsity: float
    train_fraction: float
    init: NotRequired[str]
    label_noise: NotRequired[float]
    validation: NotRequired[float]
    protocol: UsedProtocol


class Environment(TypedDict):
    """Where a result comes from."""

    versions: Mapping[str, Any]
    device: str
    processor: str
    system: str
    threads: int
    kernels: NotRequired[str]


class Origin(TypedDict):
    """The provenance of every result."""

    command: NotRequired[str | None]
    finished: NotRequired[str]
    commit: NotRequired[str | None]


class UsedData(TypedDict):
    """The data in the provenance of a trial."""

    label: str
    checksum: str
    train: int
    test: int
    classes: NotRequired[int]
    shape: NotRequired[tuple[int, ...]]


class OfTrial(Origin):
    """The provenance of a trial."""

    data: UsedData
    workers: NotRequired[int]
    lanes: NotRequired[int]
    together: NotRequired[str | None]


HUGE, TINY, MOST = 1e300, 1e-300, 2**62
"""The largest number that a result may hold, the smallest but 0, and the largest whole one."""

SURROGATES = re.compile("[\ud800-\udfff]")
"""Halves of characters, which no file can hold."""


def fits(value: object, form: Form) -> bool:
    """Whether a value has a form.

    A float may be a whole number; a truth value is no number, and what no measurement gives is none either: infinities,
    more than `HUGE`, or less than `TINY`. A text can be written.
    """
    return checker(form)(value)


@cache
def checker(form: Form) -> Callable[[Any], bool]:
    """What tells whether a value has a form: made once, since a store has many values of few forms."""
    if form is Any:
        return lambda _value: True
    if form in BASIC:
        return BASIC[form]
    if is_typeddict(form):
        keys = [(key, key in form.__required_keys__, checker(of)) for key, of in get_type_hints(form).items()]
        return lambda value: (
            isinstance(value, Mapping)
            and all(test(value[key]) if key in value else not needed for key, needed, test in keys)
        )
    if hasattr(form, "__dataclass_fields__"):
        hints = get_type_hints(form)
        tested = [(field.name, checker(hints[field.name])) for field in fields(form)]
        return lambda value: isinstance(value, form) and all(test(getattr(value, name)) for name, test in tested)
    kind: Any = get_origin(form)
    of = get_args(form)
    if kind is None:
        return lambda value: isinstance(value, form)
    if kind is Literal:
        return lambda value: value in of
    tests = [checker(one) for one in of if one is not ...]
    if kind is tuple and of[-1] is ...:
        return lambda value: isinstance(value, (tuple, list)) and all(map(tests[0], value))
    if kind is tuple:
        return lambda value: (
            isinstance(value, (tuple, list))
            and len(value) == len(tests)
            and all(test(one) for test, one in zip(tests, value, strict=True))
        )
    if kind is Mapping:
        return lambda value: (
            isinstance(value, Mapping) and all(map(tests[0], value)) and all(map(tests[1], value.values()))
        )
    return lambda value: any(test(value) for test in tests)  # of a union


def is_number(value: object) -> bool:
    """A number that a measurement may give."""
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and (value == 0 or TINY <= abs(value) <= HUGE)
    )


def is_whole(value: object) -> bool:
    """A whole number, not too large for an array."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MOST


def is_text(value: object) -> bool:
    """A text that can be written to a file."""
    return isinstance(value, str) and (value.isascii() or not SURROGATES.search(value))


BASIC: dict[Form, Callable[[Any], bool]] = {float: is_number, int: is_whole, str: is_text}
