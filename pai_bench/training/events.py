"""What happens between two steps of training: a cut, a look at the networks, other masks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from pai_bench.support.errors import UserError
from pai_bench.training.trainable_groups import Masks, TrainableGroup


class Pause:
    """Training between two steps, as an event finds it."""

    def __init__(
        self, program: TrainableGroup, models: Sequence[nn.Module], masks: Masks, step: int, steps: int
    ) -> None:
        self.models, self.step, self.steps = models, step, steps
        """The networks with the weights that they have now, after so many `step` of all `steps`."""
        self.masks = masks
        self._program = program

    def replace(self, masks: Masks) -> None:
        """Let other masks hold from here on, one for each network; what they remove is zero at once.

        They cover what the masks at the beginning do, and are written where these lie, so that a recorded step goes on.
        What returns begins at zero, with the momentum that it had.
        """
        if len(masks) != len(self.models):
            raise ValueError(f"{len(masks)} masks for {len(self.models)} networks")
        self._program.enforcer.replace(self._program.keeps(masks))
        self._program.enforcer()
        self._program.finish()
        self.masks = list(masks)


@dataclass(frozen=True)
class Event:
    """An `action` that is done once so many steps have been taken: `after` 0, before the first.

    It may replace masks (`Pause.replace`), and change nothing else of the networks. Its time is not that of training.
    """

    after: int
    action: Callable[[Pause], None]

    def __post_init__(self) -> None:
        if not isinstance(self.after, int):
            raise UserError(f"an event is after a whole number of steps, not {self.after}")
        if self.after < 0:
            raise UserError(f"an event after {self.after} steps is before training begins")


def by_step(events: Sequence[Event], steps: int) -> Mapping[int, Sequence[Callable[[Pause], None]]]:
    """The actions of `events` by the number of steps that have been taken; those of a step in their order."""
    found: dict[int, list[Callable[[Pause], None]]] = {}
    for event in events:
        if event.after > steps:
            raise UserError(f"an event after {event.after} steps never comes: training has {steps}")
        found.setdefault(event.after, []).append(event.action)
    return found
