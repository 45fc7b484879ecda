"""Checkpoints: the state of a training between two steps, from which it resumes as if nothing had been."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

MOST_SHARE = 0.01
"""Share of the time that saving may take: what takes long is saved less often."""


@dataclass(frozen=True)
class TrainingState:
    """Everything that the steps to come depend on, and the results of those before.

    Names of tensors begin with what they belong to: ``network.``, ``optimizer.``, ``generator.``, ``masks.``, or
    ``training.``. `values` are plain JSON values.
    """

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors that belong to `name`, without it."""
        return {key.partition(".")[2]: tensor for key, tensor in self.tensors.items() if key.startswith(f"{name}.")}


class StateError(ValueError):
    """Raised for a state that is not of the training that is to resume from it."""


class Saver:
    """Saves the state of a training: `every` so many seconds, and when it is interrupted.

    `state` is that from which the training resumes, if there is one; it is emptied when that is done.
    """

    def __init__(
        self, save: Callable[[TrainingState], None], *, every: float, state: TrainingState | None = None
    ) -> None:
        self._save, self._every, self.state = save, every, state
        self._next = time.monotonic() + every
        self._took = 0.0
        """Seconds that the last save took."""

    def is_due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() >= self._next

    def save(self, state: TrainingState) -> None:
        """Save the state now."""
        start = time.monotonic()
        self._save(state)
        now = time.monotonic()
        # a single slow one, the first of a process, say, or while a disk is busy, tells nothing of the next
        usual, self._took = min(self._took, now - start), now - start
        self._next = now + max(self._every, usual / MOST_SHARE)


def check_same(tensors: Mapping[str, Tensor], stored: Mapping[str, Tensor], what: str) -> None:
    """Raise StateError if `stored` has other names, shapes or types than `tensors`."""
    shapes, stored_shapes = ({n: (t.shape, t.dtype) for n, t in each.items()} for each in (tensors, stored))
    if shapes != stored_shapes:
        names = sorted(name for name in {**shapes, **stored_shapes} if shapes.get(name) != stored_shapes.get(name))
        raise StateError(f"it is of another {what}: {names[0]} is different")
