"""Training: networks of the same architecture, data on their device, exact masks after each step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn

from pai_bench.data import DataSet
from pai_bench.support.errors import UserError, unknown
from pai_bench.support.precision import arithmetic
from pai_bench.training.batches import Batches, Order
from pai_bench.training.checkpoints import Saver
from pai_bench.training.events import Event, Events
from pai_bench.training.layout import prepare_layout
from pai_bench.training.loop import Epoch, History, TrainingLoop
from pai_bench.training.networks import Networks
from pai_bench.training.protocol import Protocol
from pai_bench.training.recorded import Recorded, step_for
from pai_bench.training.step import Step
from pai_bench.training.trainable_groups import Branches, Masks, SingleModel, StackedModels, TrainableGroup

Together = Literal["stacked", "branches"]
"""How several networks are trained at once: stacked (`StackedModels`), or side by side (`Branches`)."""


@dataclass(frozen=True)
class Engine:
    """How training is executed. The result is the same, up to the order of sums."""

    together: Together = "stacked"
    channels_last: bool = True
    """Whether weights of two-dimensional convolutions are laid out channels-last, for networks that support it."""
    compile: bool = False
    """Whether the losses of a step are compiled by `torch.compile`."""

    def __post_init__(self) -> None:
        if self.together not in get_args(Together):
            raise unknown("way of training together", self.together, get_args(Together))
        if self.compile and self.together == "branches":
            raise UserError("branches cannot be compiled, since torch.compile knows no streams; train them stacked")

    def program(self, models: Sequence[nn.Module], masks: Masks, examples: Tensor) -> TrainableGroup:
        """The group that trains `models`, laid out for inputs like `examples`."""
        prepare_layout(models, examples, channels_last=self.channels_last)
        if len(models) == 1:
            return SingleModel(models[0], masks[0])
        return (Branches if self.together == "branches" else StackedModels)(models, masks)


class DivergedError(RuntimeError):
    """Raised if the training loss, or the test loss after an epoch, is not finite."""


ENGINE = Engine()
"""The default: one network by itself, or several stacked."""


def train(
    model: nn.Module,
    data: DataSet,
    protocol: Protocol,
    *,
    mask: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    on_epoch: Callable[[Epoch], None] = lambda _epoch: None,
    engine: Engine = ENGINE,
    events: Sequence[Event] = (),
    saver: Saver | None = None,
    start: int = 0,
    epoch_size: int | None = None,
) -> History:
    """Train `model` in place on `data`, both on one device, and evaluate it after each epoch.

    Weights that `mask` removes are exactly 0.0 before the first and after each step. The order of the examples depends
    on `seed` alone. Each epoch takes ``len(train) // batch_size`` whole batches; the rest is left out of that epoch.
    `on_epoch` is called after each epoch. `events` run between two steps, and may replace the mask
    (`pai_bench.training.events`). `saver` saves the state of the training, and may have one to resume from. With
    `start`, training begins after so many steps: with the learning rate and the batches of those that follow. With
    `epoch_size`, each epoch has as many steps as one of so many examples.

    Raises `DivergedError` if a loss is not finite, and `UserError` for a protocol that does not fit the data.
    """

    def on_epochs(epochs: Sequence[Epoch | None]) -> None:
        if epochs[0] is not None:
            on_epoch(epochs[0])

    (history,) = train_together(
        [model],
        data,
        protocol,
        masks=[mask],
        orders=[Order(seed)],
        on_epoch=on_epochs,
        engine=engine,
        events=events,
        saver=saver,
        start=start,
        epoch_size=epoch_size,
    )
    if history.diverged is not None:
        raise DivergedError(history.diverged)
    return history


def train_together(
    models: Sequence[nn.Module],
    data: DataSet,
    protocol: Protocol,
    *,
    masks: Masks,
    orders: Sequence[Order],
    on_epoch: Callable[[Sequence[Epoch | None]], None] = lambda _epochs: None,
    engine: Engine = ENGINE,
    events: Sequence[Event] = (),
    saver: Saver | None = None,
    start: int = 0,
    epoch_size: int | None = None,
) -> list[History]:
    """Train several networks of the same architecture in place, together, each as `train` would train it alone.

    Waits for the device once an epoch. If a loss of one network is not finite, its history says so, and the others
    continue. Raises `pai_bench.training.checkpoints.StateError` if the state of `saver` is of another training.
    """
    device = data.train.targets.device
    with arithmetic(protocol.precision, device):

        def make(models: Sequence[nn.Module], masks: Masks) -> tuple[TrainableGroup, Step | Recorded]:
            program = engine.program(models, masks, data.normalised(data.train.inputs[:2]))
            return program, step_for(program, protocol, device, compile=engine.compile)

        batches = Batches(data, orders, protocol, epoch_size=epoch_size)
        planned = Events(events, protocol.steps(batches.epoch_size))
        networks = Networks(models, masks, make)
        loop = TrainingLoop(
            networks, data, protocol, batches, events=planned, on_epochs=on_epoch, saver=saver, start=start
        )
        return loop.run()
