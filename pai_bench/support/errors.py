"""The exceptions that a user can cause and cure."""

import difflib
from collections.abc import Iterable

FROZEN = "make it a frozen dataclass, @dataclass(frozen=True); options are its fields"
"""The cure for a criterion, or another thing with options, that is none."""

MOST = 40
"""Names that are listed at most."""


class UserError(ValueError):
    """A request that cannot be carried out; the message names the thing, the value and the cure."""


class CriterionError(UserError):
    """A criterion broke its contract; the message names the criterion and the layer."""


def reason(error: Exception) -> str:
    """What the system says of an error, without the path that messages name anyway."""
    return getattr(error, "strerror", None) or str(error)


def unknown(kind: str, name: str, accepted: Iterable[str]) -> UserError:
    """An error for a name that does not exist, with the nearest ones that do."""
    names = sorted(accepted)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    more = f" and {len(names) - MOST:,} more" if len(names) > MOST else ""
    known = f"known are {', '.join(names[:MOST]) or 'none'}{more}"
    hint = f"did you mean {' or '.join(near)}?" if near else known
    return UserError(f"unknown {kind} {name!r}: {hint}")
