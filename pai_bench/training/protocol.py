"""Protocols: everything that training depends on besides network, data, mask and seed. Imports no torch."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal, get_args

from pai_bench.errors import UserError, unknown

LearningRateSchedule = Literal["constant", "steps", "cosine", "one-cycle"]

WARM_UP = 0.25
"""Share of a one-cycle schedule in which the learning rate rises."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """SGD with momentum and weight decay on the mean cross-entropy, for a number of whole epochs.

    `lr_schedule`: ``constant``; ``steps``, times `gamma` at each of the `milestones` (shares of the training in
    (0, 1)); ``cosine`` to zero; ``one-cycle``, linearly up for a quarter of the steps and linearly down to zero.
    """

    name: str
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    lr_schedule: LearningRateSchedule = "one-cycle"
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1

    def __post_init__(self) -> None:
        for key, least in (("epochs", 0), ("batch_size", 1)):
            if getattr(self, key) < least:
                raise UserError(f"{key.replace('_', ' ')} {getattr(self, key)} must be at least {least}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise UserError(f"learning rate {self.learning_rate} must be positive")
        if not (0 <= self.weight_decay < math.inf):
            raise UserError(f"weight decay {self.weight_decay} must be at least 0")
        if self.lr_schedule not in get_args(LearningRateSchedule):
            raise unknown("learning-rate schedule", self.lr_schedule, get_args(LearningRateSchedule))

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of `step` (from 0) out of `steps`."""
        done = step / steps
        if self.lr_schedule == "steps":
            return self.learning_rate * self.gamma ** sum(done >= m for m in self.milestones)
        if self.lr_schedule == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * done)) / 2
        if self.lr_schedule == "one-cycle":
            middle = (step + 0.5) / steps  # the middle of the step, so that neither the first nor the last is idle
            return self.learning_rate * min(middle / WARM_UP, (1 - middle) / (1 - WARM_UP))
        return self.learning_rate

    def describe(self) -> str:
        """The protocol in one line."""
        unit = "epoch" if self.epochs == 1 else "epochs"
        steps = f" at {', '.join(map(str, self.milestones))}, times {self.gamma:g}" if self.milestones else ""
        return (
            f"{self.epochs} {unit}, batch {self.batch_size}, SGD, learning rate {self.learning_rate:g} "
            f"({self.lr_schedule}{steps}), momentum {self.momentum:g}, weight decay {self.weight_decay:g}"
        )


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(name="short", epochs=10, batch_size=32, learning_rate=0.02),
        # batch norm lets a deep network reach its accuracy in a fraction of the epochs
        Protocol(name="short-bn", epochs=2, batch_size=32, learning_rate=0.02),
    )
}


def get_protocol(name: str, **changes: int | float | None) -> Protocol:
    """The protocol called `name`, with those `changes` that are not None."""
    if (protocol := PROTOCOLS.get(name)) is None:
        raise unknown("protocol", name, PROTOCOLS)
    given = {key: value for key, value in changes.items() if value is not None}
    return dataclasses.replace(protocol, **given) if given else protocol  # type: ignore[arg-type]
