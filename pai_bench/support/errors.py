"""The exceptions that a user can cause and resolve."""

import difflib
from collections.abc import Iterable

FROZEN = "make it a frozen dataclass, @dataclass(frozen=True); options are its fields"
"""The advice for a criterion, or another class with options, that is no frozen dataclass."""

MAX_NAMES = 40
"""Names that a message lists at most."""


class UserError(ValueError):
    """A request that cannot be carried out; the message names the thing, the value and what would be accepted."""


class CriterionError(UserError):
    """A criterion broke its contract; the message names the criterion and the layer."""


def reason(error: Exception) -> str:
    """What the system says of an error, without the path that messages name anyway."""
    return getattr(error, "strerror", None) or str(error)


def unknown(kind: str, name: str, accepted: Iterable[str]) -> UserError:
    """An error for a name that does not exist, with the nearest ones that do."""
    names = sorted(accepted)
    if matches := difflib.get_close_matches(name, names, n=3, cutoff=0.5):
        return UserError(f"unknown {kind} {name!r}: did you mean {' or '.join(matches)}?")
    more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
    return UserError(f"unknown {kind} {name!r}: known are {', '.join(names[:MAX_NAMES]) or 'none'}{more}")


def check_least(value: float, label: str = "min_per_layer") -> None:
    """Raise for what is neither a number of connections or units, nor a share of those of a layer."""
    if value < 0:
        raise UserError(f"{label} {value:g} must not be negative")
    if not (0 <= value < 1 or float(value).is_integer()):
        raise UserError(f"{label} {value:g} is neither a whole number nor a share below 1")


def no_sparsity(value: float, sparsity_of: str = "weights") -> UserError:
    """The error for a number that is no sparsity, the removed share of weights, units (``nodes``) or operations."""
    removed = {"nodes": "units", "flops": "operations"}.get(sparsity_of, "weights")
    return UserError(f"sparsity {value:g} is outside [0, 1): it is the share of {removed} removed")
