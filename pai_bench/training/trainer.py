"""The training loop: networks of the same architecture, data on their device, exact masks after each step."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pai_bench.data import DataSet, Split
from pai_bench.support.errors import UserError, unknown
from pai_bench.support.precision import arithmetic
from pai_bench.training.batches import Batches, Order
from pai_bench.training.events import Event, Pause, by_step
from pai_bench.training.layout import prepare_layout
from pai_bench.training.protocol import Protocol
from pai_bench.training.recorded import step_for
from pai_bench.training.trainable_groups import Branches, Masks, SingleModel, StackedModels, TrainableGroup

EVALUATION_BATCH, AT_ONCE = 1000, 4_000
"""Examples in a batch of the test set, and at most in all lanes, or as many as in a step, whose memory suffices."""

AT_ONCE_ON_CUDA = 2**28
"""Elements of the inputs of all lanes on a CUDA device, at most: 1 GiB. Small batches would leave it idle."""

STEPS_AT_ONCE = 3
"""On a CUDA device, the examples of at most so many steps are evaluated at once, in about the memory of one step."""

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


@dataclass(frozen=True)
class Epoch:
    """Results of one epoch: the mean training loss of its steps, and loss and accuracy on the test set after it.

    Losses are mean cross-entropies in nats; the accuracy is in [0, 1].
    """

    epoch: int
    train_loss: float
    test_loss: float
    test_accuracy: float


@dataclass(frozen=True)
class History:
    """The learning curve of a training, and its time in seconds, without evaluation.

    Networks that were trained together share the seconds equally.
    """

    epochs: tuple[Epoch, ...]
    seconds: float
    images: int
    diverged: str | None = None
    """The first loss that was not finite, as a text; None if all were."""

    @property
    def images_per_second(self) -> float | None:
        """Training throughput; None if nothing was trained."""
        return self.images / self.seconds if self.images else None


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
) -> History:
    """Train `model` in place on `data`, both on one device, and evaluate it after each epoch.

    Weights that `mask` removes are exactly 0.0 before the first and after each step. The order of the examples depends
    on `seed` alone. Each epoch takes ``len(train) // batch_size`` whole batches; the rest is left out of that epoch.
    `on_epoch` is called after each epoch. `events` run between two steps, and may replace the mask
    (`pai_bench.training.events`).

    Raises `DivergedError` if a loss is not finite, and `UserError` for a protocol that does not fit the data.
    """

    def on_epochs(epochs: Sequence[Epoch | None]) -> None:
        if epochs[0] is not None:
            on_epoch(epochs[0])

    (history,) = train_together(
        [model], data, protocol, masks=[mask], orders=[Order(seed)], on_epoch=on_epochs, engine=engine, events=events
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
) -> list[History]:
    """Train several networks of the same architecture in place, together, each as `train` would train it alone.

    Waits for the device once an epoch. If a loss of one network is not finite, its history says so, and the others
    continue.
    """
    device = data.train.targets.device
    with arithmetic(protocol.precision, device):
        program = engine.program(models, masks, data.normalised(data.train.inputs[:2]))
        step = step_for(program, protocol, device, compile=engine.compile)
        batches = Batches(data, orders, protocol)
        steps = protocol.steps(batches.size)
        actions, now = by_step(events, steps), list(masks)

        def pause(done: int) -> None:
            program.finish()
            event = Pause(program, models, now, done, steps)
            for action in actions[done]:
                action(event)
            now[:] = event.masks
            program.resume()

        return _fit(program, data, protocol, batches, on_epoch, step, dict.fromkeys(actions, pause))


def _fit(
    program: TrainableGroup,
    data: DataSet,
    protocol: Protocol,
    batches: Batches,
    on_epoch: Callable[[Sequence[Epoch | None]], None],
    step: Callable[[Tensor, Tensor, float], Tensor],
    pauses: Mapping[int, Callable[[int], None]],
) -> list[History]:
    steps, done, seconds = protocol.steps(batches.size), 0, 0.0
    program.enforcer()
    if pauses and 0 in pauses:
        pauses[0](0)
    curves: list[list[Epoch]] = [[] for _ in range(program.lanes)]
    trouble: list[str | None] = [None] * program.lanes
    while done < steps and None in trouble:
        number, start, losses = len(max(curves, key=len)) + 1, time.perf_counter(), []
        for inputs, targets in batches.epoch():
            losses.append(step(inputs, targets, protocol.rate(done, steps)))
            done += 1
            if done in pauses:
                losses[-1].sum().item()  # waits for the device
                before = time.perf_counter()
                pauses[done](done)
                seconds -= time.perf_counter() - before
            if done == steps:
                break
        if done < steps:
            batches.draw_ahead()
        seen = torch.stack(losses).cpu()  # waits for the device
        seconds += time.perf_counter() - start
        for lane, bad in enumerate((~seen.isfinite()).int().T):
            if bad.any() and trouble[lane] is None:
                first = done - len(losses) + int(bad.argmax())
                trouble[lane] = f"diverged at step {first + 1}: the training loss is {float(seen[bad.argmax(), lane])}"
        at_once = evaluated_at_once(data.test, program.lanes * protocol.batch_size)
        tested = evaluate_lanes(program, data.test, batches.normalised, by_lane=batches.by_lane, at_once=at_once)
        epochs = [Epoch(number, float(mean), *test) for mean, test in zip(seen.double().mean(0), tested, strict=True)]
        for lane, epoch in enumerate(epochs):
            # a step that made the last weights infinite shows here first
            if trouble[lane] is None and not math.isfinite(epoch.test_loss):
                trouble[lane] = f"diverged at step {done}: the test loss after it is {epoch.test_loss}"
            if trouble[lane] is None:
                curves[lane].append(epoch)
        on_epoch([None if bad else epoch for bad, epoch in zip(trouble, epochs, strict=True)])
    program.finish()
    images = done * protocol.batch_size
    return [
        History(tuple(curve), seconds / program.lanes, images, bad) for curve, bad in zip(curves, trouble, strict=True)
    ]


def evaluated_at_once(split: Split, step: int) -> int:
    """Examples that go through all lanes at once in evaluation; `step` is their number in a training step."""
    if split.targets.device.type == "cpu":
        return max(AT_ONCE, step)
    most = AT_ONCE_ON_CUDA // max(1, split.inputs[0].numel())
    return max(step, min(most, max(AT_ONCE, STEPS_AT_ONCE * step)))


@torch.inference_mode()
def evaluate_lanes(
    program: TrainableGroup,
    split: Split,
    normalised: Callable[[Tensor], Tensor],
    *,
    by_lane: bool,
    at_once: int = AT_ONCE,
) -> list[tuple[float, float]]:
    """Mean cross-entropy and accuracy (in [0, 1]) of each lane on `split`, normalised alike or `by_lane`."""
    device = split.targets.device
    loss = torch.zeros(program.lanes, dtype=torch.float64, device=device)
    correct = torch.zeros(program.lanes, dtype=torch.int64, device=device)
    batch = max(1, min(EVALUATION_BATCH, at_once // program.lanes))
    for inputs, targets in zip(*(t.split(batch) for t in split), strict=True):
        logits, labels = program.logits(normalised(inputs), by_lane=by_lane), targets.expand(program.lanes, -1)
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        loss += losses.view(labels.shape).sum(1, dtype=torch.float64)
        correct += (logits.argmax(2) == labels).sum(1)
    size = len(split.targets)
    return [(total / size, right / size) for total, right in zip(loss.tolist(), correct.tolist(), strict=True)]
