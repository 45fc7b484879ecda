"""Events between two steps of training: cuts, measurements, other masks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from pai_bench.support.errors import UserError
from pai_bench.training.trainable_groups import Masks, TrainableGroup


class Pause:
    """The state of training between two steps, for an event."""

    def __init__(
        self, program: TrainableGroup, models: Sequence[nn.Module], masks: Masks, step: int, steps: int
    ) -> None:
        self.models, self.step, self.steps = models, step, steps
        """The networks with their present weights, after `step` of all `steps`."""
        self.masks = masks
        self._program = program

    def replace(self, masks: Masks) -> None:
        """Replace the masks, one for each network. Removed weights are zero at once.

        The new masks must name only parameters that the masks at the beginning do. They are written into the same
        memory, so that a recorded step stays valid. Returning weights begin at zero, with their former momentum. Raises
        `ValueError` for masks of another number, name or shape.
        """
        if len(masks) != len(self.models):
            raise ValueError(f"{len(masks)} masks for {len(self.models)} networks")
        self._program.enforcer.replace(self._program.keeps(masks))
        self._program.enforcer()
        self._program.finish()
        self.masks = list(masks)


@dataclass(frozen=True)
class Event:
    """An `action` that runs `after` so many steps; 0: before the first.

    It may replace masks (`Pause.replace`), but change nothing else of the networks. Its time does not count as
    training. Raises `UserError` for a number of steps that is negative or not whole.
    """

    after: int
    action: Callable[[Pause], None]

    def __post_init__(self) -> None:
        if not isinstance(self.after, int):
            raise UserError(f"an event is after a whole number of steps, not {self.after}")
        if self.after < 0:
            raise UserError(f"an event after {self.after} steps is before training begins")


def by_step(events: Sequence[Event], steps: int) -> Mapping[int, Sequence[Callable[[Pause], None]]]:
    """Number of steps -> actions of `events` after so many, in their order."""
    actions: dict[int, list[Callable[[Pause], None]]] = {}
    for event in events:
        if event.after > steps:
            raise UserError(f"an event after {event.after} steps never comes: training has {steps}")
        actions.setdefault(event.after, []).append(event.action)
    return actions
