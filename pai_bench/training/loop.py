"""Steps and tests of networks that are trained together, from the first step or from a saved state."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from pai_bench.data import DataSet
from pai_bench.support.processes import Interrupts, interrupts_deferred
from pai_bench.support.randomness import generator_states, restore_generators
from pai_bench.training.batches import Batches
from pai_bench.training.checkpoints import Saver, StateError, TrainingState, check_same
from pai_bench.training.evaluation import evaluate_lanes, evaluated_at_once
from pai_bench.training.events import Action, Events
from pai_bench.training.networks import Networks
from pai_bench.training.protocol import Protocol
from pai_bench.training.snapshot import own_state
from pai_bench.training.trainable_groups import TrainableGroup

logger = logging.getLogger(__name__)


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
    """The learning curve of a training, and its time in seconds, without evaluation and events.

    Networks that were trained together share the seconds equally.
    """

    epochs: tuple[Epoch, ...]
    seconds: float
    images: int
    diverged: str | None = None
    """The first loss that was not finite, as a text; None if all were."""
    event_seconds: float = 0.0
    """Of events, which the time of training leaves out; shared equally, too."""

    @property
    def images_per_second(self) -> float | None:
        """Training throughput; None if nothing was trained."""
        return self.images / self.seconds if self.images else None


OnEpochs = Callable[[Sequence[Epoch | None]], None]
"""Called after each epoch with its results, None for a network whose losses are no longer finite."""


class TrainingLoop:
    """A training under way. Between two steps it can be saved, and another loop of the same settings resumes from it.

    With `start`, so many steps were taken before: rates and batches are those of the following ones.
    Raises `StateError` if the saver's state is of another training.
    """

    def __init__(
        self,
        networks: Networks,
        data: DataSet,
        protocol: Protocol,
        batches: Batches,
        *,
        events: Events,
        on_epochs: OnEpochs,
        saver: Saver | None,
        start: int = 0,
    ) -> None:
        self.networks, self.data, self.protocol, self.batches = networks, data, protocol, batches
        self.events, self.on_epochs, self.saver = events, on_epochs, saver
        self.steps, self.start = protocol.steps(batches.epoch_size), start
        self.done = start
        self.curves: list[list[Epoch]] = [[] for _ in range(self.program.lanes)]
        self.trouble: list[str | None] = [None] * self.program.lanes
        self._losses: list[Tensor] = []
        """Of the steps of the present epoch."""
        self._skipped = 0
        """Batches of the first epoch on which earlier processes have trained, or that come before the start."""
        self._seconds, self._since = 0.0, 0.0
        """Of all epochs before the present one, and when that began, pauses left out."""
        self._event_seconds = 0.0
        self._own_state = own_state(self.program.module) if saver and self.steps else []
        self._interrupts = Interrupts({})

    @property
    def program(self) -> TrainableGroup:
        """What computes the networks."""
        return self.networks.program

    def run(self) -> list[History]:
        """Train to the end, or until one interrupt, before which the state is saved."""
        self.program.enforcer()
        if self.saver is not None and self.saver.state is not None:
            try:
                self._restore(self.saver.state)
            except (KeyError, TypeError, IndexError) as error:
                raise StateError(f"a part of it is missing or malformed: {error!r}") from error
            self.saver.state = TrainingState({}, {})  # its tensors are no longer needed
        else:
            self._skipped = self.batches.skip(self.start)
            self._act(self.events.after)
        with interrupts_deferred(first_only=True) if self.saver else no_interrupts() as self._interrupts:
            while (self.done < self.steps or self._losses) and None in self.trouble:
                self._train_epoch()
                self._end_epoch()
            self._answer_interrupts()
        self.program.finish()
        seconds, images = self._seconds / self.program.lanes, (self.done - self.start) * self.protocol.batch_size
        spent = self._event_seconds / self.program.lanes
        return [
            History(tuple(curve), seconds, images, why, spent)
            for curve, why in zip(self.curves, self.trouble, strict=True)
        ]

    def _train_epoch(self) -> None:
        """Take the steps of an epoch."""
        self._since, skipped, self._skipped = time.perf_counter(), self._skipped, 0
        if self.done == self.steps:  # saved after the last step
            return
        for inputs, targets in self.batches.epoch(skipped):
            gradients = self._step(inputs, targets)
            self.done += 1
            if self.done in self.events.after:
                with self._not_counted():
                    self._act(self.events.after, gradients)
            if self._interrupts or (self.saver is not None and self.saver.is_due()):
                with self._not_counted():
                    self._save()
                    self._interrupts.handle()
            if self.done == self.steps:
                break
        if self.done < self.steps:
            self.batches.draw_ahead()

    def _step(self, inputs: Tensor, targets: Tensor) -> dict[int, Tensor] | None:
        """Take a step, or let events take its place; its gradients, if an event after it needs them."""
        step, rate = self.networks.step, self.protocol.rate(self.done, self.steps)
        if self.done in self.events.instead:
            losses, gradients = step.plain.gradients(inputs, targets)
            self._losses.append(losses)
            with self._not_counted():
                self._act(self.events.instead, gradients)
        elif self.done + 1 in self.events.with_gradients:
            losses, gradients = step.plain.gradients(inputs, targets)
            self._losses.append(losses)
            kept = {i: gradient.clone() for i, gradient in gradients.items()}  # a step may change them
            step.plain.take(gradients, rate)
            return kept
        else:
            self._losses.append(step(inputs, targets, rate))
        return None

    def _act(self, events: Mapping[int, Sequence[Action]], gradients: Mapping[int, Tensor] | None = None) -> None:
        """Let the events act that there are after the present number of steps, and take their time."""
        if self.done in events:
            start, before = time.perf_counter(), self.program.module
            self.networks.act(
                events[self.done],
                done=self.done,
                steps=self.steps,
                diverged=self._diverged(),
                gradients=gradients,
            )
            if self.program.module is not before and self.saver is not None and own_state(before) == self._own_state:
                self._own_state = own_state(self.program.module)  # whose layers are smaller
            self._event_seconds += time.perf_counter() - start

    def _diverged(self) -> list[bool]:
        """Of each network, whether one of its losses was not finite, as the end of the epoch will say."""
        finite = torch.stack(self._losses).isfinite().all(0).tolist() if self._losses else [True] * self.program.lanes
        return [why is not None or not is_finite for why, is_finite in zip(self.trouble, finite, strict=True)]

    @contextmanager
    def _not_counted(self) -> Iterator[None]:
        """A block whose time is none of training; the device has done all steps before it."""
        self._losses[-1].sum().item()
        before = time.perf_counter()
        yield
        self._since += time.perf_counter() - before

    def _end_epoch(self) -> None:
        """Wait for the device, test the networks, and add to their curves."""
        seen = torch.stack(self._losses).cpu()
        self._seconds, self._since = self._seconds + time.perf_counter() - self._since, math.nan
        for lane, bad in enumerate((~seen.isfinite()).int().T):
            if bad.any() and self.trouble[lane] is None:
                first, loss = self.done - len(seen) + int(bad.argmax()), float(seen[bad.argmax(), lane])
                self.trouble[lane] = f"diverged at step {first + 1}: the training loss is {loss}"
        tested = self._tested()
        number = self.start // max(1, self.batches.per_epoch) + len(max(self.curves, key=len)) + 1
        epochs = [Epoch(number, float(mean), *test) for mean, test in zip(seen.double().mean(0), tested, strict=True)]
        for lane, epoch in enumerate(epochs):
            # a step that made the last weights infinite shows here first
            if self.trouble[lane] is None and not math.isfinite(epoch.test_loss):
                self.trouble[lane] = f"diverged at step {self.done}: the test loss after it is {epoch.test_loss}"
            if self.trouble[lane] is None:
                self.curves[lane].append(epoch)
        self._losses = []
        self.on_epochs([None if bad else epoch for bad, epoch in zip(self.trouble, epochs, strict=True)])

    def _tested(self) -> list[tuple[float, float]]:
        """Loss and accuracy of each network on the test set; an interrupt ends it, and the state before is saved."""
        split, batches, program = self.data.test, self.batches, self.program
        at_once = evaluated_at_once(split, program.lanes * self.protocol.batch_size)

        generators = generator_states(self.batches.targets.device) if self.saver is not None else None

        def on_batch() -> None:
            self._answer_interrupts(generators)

        return evaluate_lanes(
            program, split, batches.normalised, by_lane=batches.by_lane, at_once=at_once, on_batch=on_batch
        )

    def _answer_interrupts(self, generators: Mapping[str, Tensor] | None = None) -> None:
        """Save the state, with `generators` as they were before a test, and let an interrupt do what it does."""
        if self._interrupts:
            self._save(generators)
            self._interrupts.handle()

    def _save(self, generators: Mapping[str, Tensor] | None = None) -> None:
        """Save the state, unless the networks have more of one than their parameters and buffers."""
        if self.saver is None:
            return
        if own_state(self.program.module) == self._own_state:
            self.saver.save(self._state(generators))
            return
        logger.warning("%s keeps a state of its own: it has no checkpoints", type(self.program.module).__name__)
        self.saver = None

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        """The tensors that are changed in place, by what they belong to."""
        masks = self.program.enforcer.masks if self.events else []
        return {
            "network": self.program.tensors,
            "optimizer": self.networks.step.tensors,
            "masks": {str(i): mask for i, mask in enumerate(masks)},
        }

    def _training(self) -> dict[str, Tensor]:
        """The order of the present epoch, and its losses."""
        device = self.batches.targets.device
        losses = torch.stack(self._losses) if self._losses else torch.empty(0, self.program.lanes, device=device)
        return {"order": self.batches.epoch_state, "losses": losses}

    def _state(self, generators: Mapping[str, Tensor] | None) -> TrainingState:
        generators = generator_states(self.batches.targets.device) if generators is None else generators
        tensors = self._tensors() | {"generator": dict(generators), "training": self._training()}
        elapsed = 0.0 if math.isnan(self._since) else time.perf_counter() - self._since
        return TrainingState(
            {f"{part}.{name}": tensor for part, named in tensors.items() for name, tensor in named.items()},
            {
                "step": self.done,
                "steps": self.steps,
                "seconds": self._seconds + elapsed,
                "event_seconds": self._event_seconds,
                "trouble": self.trouble,
                "curves": [list(map(dataclasses.astuple, curve)) for curve in self.curves],
            },
        )

    @torch.no_grad()
    def _restore(self, state: TrainingState) -> None:
        """Continue from a state; StateError if it is of another training, and then nothing is changed."""
        device, training = self.batches.targets.device, state.part("training")
        for name, tensors in (*self._tensors().items(), ("generator", generator_states(device))):
            check_same(tensors, state.part(name), name)
        order, losses = (self._training()[name] for name in ("order", "losses"))
        shape = training["losses"][:0].to(losses.dtype)  # of networks in float64, they are float64 once there are some
        check_same({"order": order, "losses": losses[:0]}, training | {"losses": shape}, "training")
        done, curves = self._progress(state)
        for name, tensors in self._tensors().items():
            for key, stored in state.part(name).items():
                tensors[key].copy_(stored)
        if self.program.lanes == 1:  # several networks that are trained together draw nothing
            restore_generators(state.part("generator"), device)
        self.batches.restore(training["order"])
        self._losses = list(training["losses"].to(device))
        self.done, self.curves = done, curves
        self._seconds, self.trouble = float(state.values["seconds"]), list(state.values["trouble"])
        self._event_seconds = float(state.values.get("event_seconds", 0.0))  # which earlier states do not have
        self._skipped = (done - 1) % self.batches.per_epoch + 1 if self._losses else 0  # of the epoch that it is in
        if self.events:
            self.networks.masks = list(self.program.masks())
        self.program.resume()

    def _progress(self, state: TrainingState) -> tuple[int, list[list[Epoch]]]:
        """The steps that are done, and the curves so far; StateError if they are of another training."""
        values, lanes = state.values, self.program.lanes
        if (steps := values["steps"]) != self.steps or not self.start <= values["step"] <= steps:
            raise StateError(f"it is after step {values['step']} of {steps}, and this training has {self.steps}")
        if not len(values["curves"]) == len(values["trouble"]) == lanes:
            raise StateError(f"it is of {len(values['curves'])} networks, and here are {lanes}")
        return values["step"], [[Epoch(*epoch) for epoch in curve] for curve in values["curves"]]


@contextmanager
def no_interrupts() -> Iterator[Interrupts]:
    """A block that an interrupt breaks off."""
    yield Interrupts({})
