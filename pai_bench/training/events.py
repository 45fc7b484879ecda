"""Events between two steps of training, or in place of one: cuts, other masks, measurements."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pai_bench.support.errors import UserError
from pai_bench.training.trainable_groups import Masks

if TYPE_CHECKING:
    from pai_bench.training.step import Step
    from pai_bench.training.trainable_groups import TrainableGroup


@dataclass(frozen=True)
class Successor:
    """A smaller network that training continues with, and what the optimiser keeps of its parameters."""

    model: nn.Module
    mask: Mapping[str, Tensor] | None
    memory: Mapping[str, Tensor]
    """As of `Step.tensors`."""


class Pause:
    """The state of training at an event.

    `gradients` are those of the networks' losses on the batch of an event that asks for them, by parameter, also at
    removed weights, which are zero. `diverged` says of each network whether one of its losses was not finite.
    """

    def __init__(
        self,
        program: "TrainableGroup",
        step: "Step",
        models: Sequence[nn.Module],
        masks: Masks,
        *,
        done: int,
        steps: int,
        gradients: Sequence[Mapping[str, Tensor]] = (),
        diverged: Sequence[bool],
    ) -> None:
        self.models, self.step, self.steps = models, done, steps
        """The networks with their present weights, after `step` of all `steps`."""
        self.masks, self.gradients, self.diverged = masks, gradients, diverged
        self.successor: Successor | None = None
        """What takes the place of the network (`shrink`)."""
        self._program, self._step = program, step

    @torch.no_grad()
    def replace(self, masks: Masks, *, weights: Sequence[Mapping[str, Tensor]] = (), reset: bool = False) -> None:
        """Replace the masks, one for each network.

        The new masks must name only parameters that the masks at the beginning do. They are written into the same
        memory, so that a recorded step stays valid. Removed weights are zero at once, and returning ones begin at zero,
        or with their values in `weights`, by network and parameter. What the optimiser keeps of both is zero; that of
        all weights with `reset`. Raises `ValueError` for masks of another number, name or shape.
        """
        if len(masks) != len(self.models):
            raise ValueError(f"{len(masks)} masks for {len(self.models)} networks")
        enforcer = self._program.enforcer
        before, after = enforcer.keeps(), self._program.keeps(masks)
        enforcer.replace(after)
        enforcer()
        if weights:
            values = self._program.keeps([self._completed(of) for of in weights])
            for weight, value, old, new in zip(enforcer.weights, values, before, after, strict=True):
                torch.where(new & ~old, value, weight, out=weight)
        survivors = (old & new for old, new in zip(before, after, strict=True))
        self._step.forget(dict(zip(map(id, enforcer.weights), survivors, strict=True)), everything=reset)
        self._program.finish()
        self.masks = list(masks)

    def _completed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values of all weights that masks cover, zero where there are none."""
        covered = dict(zip(self._program.names, self._program.enforcer.weights, strict=False))  # of the first network
        return {
            name: weights[name].to(weight) if name in weights else weight.new_zeros(self._program.shape(name))
            for name, weight in covered.items()
        }

    def shrink(
        self, shrink: Callable[[nn.Module], nn.Module], mask: Mapping[str, Tensor] | None, *, reset: bool
    ) -> None:
        """Continue with a smaller network, the only one: what `shrink` makes of it, under `mask`.

        `shrink` takes slices of all parameters, and is given what the optimiser keeps of them as parameters, too; with
        `reset`, the optimiser begins anew.
        """
        if len(self.models) > 1:
            raise ValueError("networks that are trained together are not made smaller: they would differ in shape")
        if self.successor is not None:
            raise ValueError("a network is made smaller once after a step")
        (model,) = self.models
        self.successor = Successor(shrink(model), mask, {} if reset else self._step.sliced(model, shrink))


Action = Callable[[Pause], None]


@dataclass(frozen=True)
class Event:
    """An `action` that runs `after` so many steps; 0: before the first.

    It may replace masks (`Pause.replace`) or make the network smaller (`Pause.shrink`), but change nothing else of the
    networks. Its time does not count as training. With `gradients`, it is given those of the step just done, before
    which the weights were others; with `replaces_step`, it takes the place of the optimiser's next step, on the batch
    of that step, whose gradients it is given. Raises `UserError` for a number of steps that is negative or not whole.
    """

    after: int
    action: Action
    gradients: bool = False
    replaces_step: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.after, int):
            raise UserError(f"an event is after a whole number of steps, not {self.after}")
        if self.after < 0:
            raise UserError(f"an event after {self.after} steps is before training begins")
        if self.gradients and not self.replaces_step and self.after == 0:
            raise UserError("an event before the first step has no gradients of a step")


class Events:
    """The events of a training of so many `steps`, by the number of steps after which they are."""

    def __init__(self, events: Sequence[Event], steps: int) -> None:
        self.after, self.instead = defaultdict[int, list[Action]](list), defaultdict[int, list[Action]](list)
        """Actions between two steps, and in place of the next, in their order."""
        self.with_gradients: set[int] = set()
        """Numbers of steps of which the last one keeps its gradients."""
        for event in events:
            if event.after + event.replaces_step > steps:
                raise UserError(f"an event after {event.after} steps never comes: training has {steps}")
            (self.instead if event.replaces_step else self.after)[event.after].append(event.action)
            if event.gradients and not event.replaces_step:
                self.with_gradients.add(event.after)

    def __bool__(self) -> bool:
        return bool(self.after or self.instead)
