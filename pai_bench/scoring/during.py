"""Methods that prune during training: the contract of a criterion that changes the mask between steps."""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pai_bench.masks import Mask
from pai_bench.scoring.batch import Scores
from pai_bench.scoring.criterion import Criterion
from pai_bench.support import spec
from pai_bench.support.errors import UserError
from pai_bench.support.failures import described
from pai_bench.support.spec import added_later


@dataclass(frozen=True)
class Timeline:
    """The training in which a method prunes. Times are numbers of completed steps."""

    steps: int
    """Of the whole training."""
    epoch: int
    """Of one epoch."""
    budget: float = 1.0
    """Share of the published length that is trained: published times are scaled by it."""
    densities: tuple[float, ...] = ()
    """After each cut of the trial's schedule; the last is the trial's own."""

    def after(self, published: float) -> int:
        """The time of so many steps in the published training: ``max(1, round(budget * published))``."""
        return max(1, round(self.budget * published))

    def step_of(self, when: str, what: str) -> int:
        """The time that ``500`` or ``2%`` stands for, in 0..steps; UserError, which calls it `what`, if it is none."""
        if when.endswith("%"):
            share: float = spec.convert(when.removesuffix("%"), float, what) / 100
            if not 0 <= share <= 1:
                raise UserError(f"{what} {when} is outside [0, 100%]: it is a share of the steps of training")
            if share and not self.steps:
                raise UserError(f"{what} {when} is a share of the steps of training, which has none")
            return max(1, round(share * self.steps)) if share else 0
        steps: int = spec.convert(when, int, what)
        step = self.after(steps) if steps else 0
        if steps < 0 or step > self.steps:
            raise UserError(f"{what} {when} is not within the {self.steps:,} steps of training")
        return step

    def after_epochs(self, published: float) -> int:
        """The time of so many epochs in the published training."""
        return self.after(published * self.epoch)


@dataclass(frozen=True)
class Moment:
    """A network between two steps, for a method that changes its mask.

    Mappings are by parameter name, over the prunable parameters, tensors on the device of training. Nothing in them may
    be changed but `state`.
    """

    step: int
    """How many steps are done."""
    number: int
    """Which of the method's moments it is, from 0."""
    density: float
    """The share of connections that the trial keeps at last."""
    timeline: Timeline
    mask: Mask
    """The present mask. Structured methods get that of the smaller network, or what is left of the groups."""
    weights: Mapping[str, Tensor]
    """Zero where the mask removes them."""
    gradients: Mapping[str, Tensor]
    """Dense ones of a batch of training (`DuringTraining.needs_gradients`), also at removed weights; else empty."""
    state: dict[str, Tensor]
    """What the method keeps from moment to moment; saved in checkpoints."""
    random: torch.Generator
    """For random numbers of this moment, on the processor, so that they are the same on every device."""
    score: Callable[[], Scores]
    """The scores of the method's formula for the network as it is, on the trial's score batch; not of structured
    methods."""
    select: Callable[..., Mask]
    """``select(scores, density, returns=False)``: the mask that keeps the highest scores, by the trial's scope; removed
    connections stay so unless they may return. Not of structured methods."""
    cut: Callable[[float], Any]
    """``select(score(), density)``, of structured methods too."""
    initial: Callable[[], Mapping[str, Tensor]]
    """Another draw of the initial weights."""


@dataclass(frozen=True)
class Change:
    """What a method changes: the mask, and `weights` that connections begin with which return; by default, zero."""

    mask: Mapping[str, Tensor]
    weights: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class DuringTraining(Criterion):
    """A criterion that changes the mask between steps of training.

    A subclass implements `moments` and `change`, and as every criterion `score`. Before the first step, the mask is
    made by `score` as of any criterion, unless `begins_dense`. Removed weights stay zero, and what the optimiser keeps
    of them is zero, too.

    * ``optimizer_state``: whether what the optimiser keeps of all other weights stays at a change (``keep``), or the
      optimiser begins anew (``reset``).
    """

    optimizer_state: Literal["keep", "reset"] = added_later("keep")

    @property
    def during(self) -> bool:
        """Whether it changes the mask during training, with its present options."""
        return True

    @property
    def begins_dense(self) -> bool:
        """Whether nothing is removed before the first step."""
        return self.during

    @property
    def needs_gradients(self) -> bool:
        """Whether `change` reads dense gradients."""
        return False

    @property
    def replaces_step(self) -> bool:
        """Whether its changes take the place of the optimiser's step."""
        return False

    @abstractmethod
    def moments(self, timeline: Timeline) -> Sequence[int]:
        """After how many steps the mask is changed, in ascending order. `UserError` if that does not fit."""

    @abstractmethod
    def change(self, moment: Moment) -> Any:
        """The new mask at a moment, or a `Change`; of structured methods, what ``moment.cut`` gives."""

    def checked_moments(self, timeline: Timeline) -> list[int]:
        """The moments, if they are in order and within the training; else a `UserError` that names the method."""
        try:
            moments = [int(moment) for moment in self.moments(timeline)]
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{self} cannot say when it changes the mask ({described(error)})") from error
        first, last = int(self.needs_gradients and not self.replaces_step), timeline.steps - self.replaces_step
        if moments != sorted(set(moments)) or any(not first <= moment <= last for moment in moments):
            raise UserError(f"{self} gives moments that are not in order, or not in {first}..{last} steps of training")
        if self.begins_dense and not moments:
            raise UserError(f"{self} begins dense and gives no moment at which the mask is changed")
        return moments


@dataclass(frozen=True, kw_only=True)
class DuringOrBefore(DuringTraining):
    """A criterion whose schedule of cuts is run before training, or as an option during it.

    * ``when``: ``before`` training, all cuts, one after the other; or ``during`` it, which begins dense: cut i = 1, 2,
      ... after ``delay + i * every`` epochs.
    * ``delay``, ``every``: epochs of the published training, which a budget scales.
    """

    when: Literal["before", "during"] = added_later("before")
    delay: int = added_later(4)
    every: int = added_later(4)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("delay", 0), ("every", 1)):
            if (value := getattr(self, name)) < least:
                raise UserError(f"{name}={value} must be at least {least}")
        usual = {f.name: f.default for f in dataclasses.fields(self)}
        if self.when == "before" and (self.delay, self.every) != (usual["delay"], usual["every"]):
            raise UserError("delay and every are for when=during: before training, nothing waits")

    @property
    def during(self) -> bool:
        return self.when == "during"

    def moments(self, timeline: Timeline) -> list[int]:
        """The end of epoch ``delay + i * every`` for each cut i = 1, 2, ... of the schedule."""
        epochs = [self.delay + i * self.every for i in range(1, len(timeline.densities) + 1)]
        steps = [timeline.after_epochs(epoch) for epoch in epochs]
        if steps[-1] >= timeline.steps or len(set(steps)) < len(steps):
            whole, needed = timeline.steps / timeline.epoch, epochs[-1] * timeline.budget
            cure = "give a smaller delay and every, fewer steps of the schedule, or more epochs"
            raise UserError(
                f"{self}: its {len(epochs)} cuts end after {needed:g} epochs, and training has {whole:g}: {cure}"
            )
        return steps

    def change(self, moment: Moment) -> Any:
        """The cut of the schedule to the next density."""
        return moment.cut(moment.timeline.densities[moment.number])
