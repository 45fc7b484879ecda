"""What values have to be like, so that whatever reads results may rely on it."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, NotRequired, get_args, get_origin, get_type_hints

Form = Any
"""A type, with its arguments, or a dictionary of key -> form. A key may be absent whose form is ``NotRequired``."""

NAMED: Form = {"data": str, "model": str, "seed": int}
"""What the configuration of every trial says."""

SCORED: Form = {
    "scope": str,
    "score_batch": int,
    "score_sampling": str,
    "score_batches": NotRequired[int],
    "variant": NotRequired[str],
    "target": NotRequired[str],
    "min_per_layer": NotRequired[int],
    "repair": NotRequired[str],
    "criterion": {"name": str, "schedule": str, "revision": int, "options": tuple[tuple[str, Any], ...]},
}
"""And of one with a criterion."""

TRAINED: Form = {
    "sparsity": float,
    "train_fraction": float,
    "protocol": {"batch_size": int, "budget": NotRequired[float]},
}
"""And of one that was trained."""

ENVIRONMENT: Form = {"versions": Mapping[str, Any], "device": str, "processor": str, "system": str, "threads": int}

ORIGIN: Form = {"command": NotRequired[str | None], "commit": NotRequired[str | None]}
"""The provenance of every result."""

OF_TRIAL: Form = ORIGIN | {
    "data": {"label": str, "checksum": str, "train": int, "test": int, "shape": NotRequired[tuple[int, ...]]},
    "workers": NotRequired[int],
    "lanes": NotRequired[int],
}
"""The provenance of a trial."""


HUGE, TINY, MOST = 1e300, 1e-300, 2**62
"""The largest number that a result may hold, the smallest but 0, and the largest whole one."""

SURROGATES = re.compile("[\ud800-\udfff]")
"""Halves of characters, which no file can hold."""


def fits(value: object, form: Form) -> bool:
    """Whether a value has a form.

    A float may be a whole number; a truth value is no number, and what no measurement gives is none either: infinities,
    more than `HUGE`, or less than `TINY`. A text can be written.
    """
    if isinstance(form, dict):
        return isinstance(value, Mapping) and all(
            fits(value[key], of) if key in value else origin(of)[0] is NotRequired for key, of in form.items()
        )
    if form is float:
        return (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and (value == 0 or TINY <= abs(value) <= HUGE)
        )
    if form is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MOST
    if form is str:
        return isinstance(value, str) and (value.isascii() or not SURROGATES.search(value))
    if form is Any:
        return True
    if hasattr(form, "__dataclass_fields__"):
        return isinstance(value, form) and all(fits(getattr(value, name), of) for name, of in hints(form).items())
    kind, of = origin(form)
    if kind is None:
        return isinstance(value, form)
    if kind is Literal:
        return value in of
    if kind is tuple:
        if not isinstance(value, (tuple, list)):
            return False
        forms = of[:1] * len(value) if of[-1] is ... else of
        return len(value) == len(forms) and all(map(fits, value, forms))
    if kind is Mapping:
        return isinstance(value, Mapping) and all(fits(k, of[0]) and fits(v, of[1]) for k, v in value.items())
    return any(fits(value, one) for one in of)  # of a union, or what is not required


@cache
def origin(form: Form) -> tuple[Any, tuple[Form, ...]]:
    """What a type with arguments is made of."""
    return get_origin(form), get_args(form)


@cache
def hints(form: Any) -> dict[str, Form]:
    """The fields of a dataclass and their types."""
    return get_type_hints(form)
