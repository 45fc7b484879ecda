"""The networks of a training and what trains them, which an event may replace by a smaller one."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from pai_bench.training.events import Action, Pause, Successor
from pai_bench.training.recorded import Recorded
from pai_bench.training.step import Step
from pai_bench.training.trainable_groups import Masks, TrainableGroup

Make = Callable[[Sequence[nn.Module], Masks], tuple[TrainableGroup, Step | Recorded]]
"""What makes the program and the step that train networks under masks."""


class Networks:
    """Networks under training, their masks, and the program and the step that train them."""

    def __init__(self, models: Sequence[nn.Module], masks: Masks, make: Make) -> None:
        self.models, self.masks = models, list(masks)
        self._make = make
        self.program, self.step = make(models, masks)

    def act(
        self,
        actions: Sequence[Action],
        *,
        done: int,
        steps: int,
        diverged: Sequence[bool],
        gradients: Mapping[int, Tensor] | None = None,
    ) -> None:
        """Let events act after `done` of all `steps`, some with the gradients of a step, by index of the weight.

        `diverged` is that of the networks.
        """
        self.program.finish()
        step = self.step.plain
        named = [] if gradients is None else step.by_network(gradients)
        for action in actions:
            pause = Pause(
                *(self.program, step, self.models, self.masks),
                done=done,
                steps=steps,
                gradients=named,
                diverged=diverged,
            )
            action(pause)
            self.masks = list(pause.masks)
            if pause.successor is not None:
                self._continue_with(pause.successor)
                step = self.step.plain
        self.program.resume()

    @torch.no_grad()
    def _continue_with(self, successor: Successor) -> None:
        self.models, self.masks = [successor.model], [successor.mask]
        self.program, self.step = self._make(self.models, self.masks)
        for name, tensor in successor.memory.items():
            self.step.tensors[name].copy_(tensor)
        self.program.enforcer()
