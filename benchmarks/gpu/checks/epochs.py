"""What a whole training does: waits for nothing inside an epoch, gives the same bits twice, lives with odd networks."""

import copy
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import pai_bench as pb
from benchmarks.gpu import engine, scoring
from benchmarks.gpu.engine import Precision
from benchmarks.gpu.stage import Context, Finding, Piece
from pai_bench.training.protocol import Protocol

NETWORKS = 3
SPARE = 4 * 2**20
"""Bytes that torch may hold more after a training than before it."""

WAYS: tuple[tuple[engine.Way, bool], ...] = (
    *(("alone", False), ("alone", True), ("stacked", True), ("stacked channels-last", True), ("branches", True)),
)
"""Ways of training, and whether the step is recorded."""


def pieces(context: Context) -> Iterator[Piece]:
    """One piece for each way, network and precision."""
    for way, recorded in WAYS:
        name = f"{way}{', recorded' * recorded}"
        for augmentation in ("none", "flip-crop"):
            yield Piece(
                "no waiting inside an epoch",
                f"{name}, {augmentation}",
                waits(context, way, recorded=recorded, augmentation=augmentation),
                cuda=True,
                needs=4,
            )
        yield Piece("the same bits twice", name, same_bits(context, way, recorded=recorded), cuda=recorded, needs=6)
    for criterion in scoring.criteria():
        yield Piece("the same bits twice", f"scores of {criterion}", same_scores(context, criterion), needs=4)
    for build in (DividesByNumber, DecidesByNumber, ChangesShape):
        yield Piece("networks that cannot be recorded", build.__name__, odd(context, build), needs=10)
    for precision in PRECISIONS:
        work = determinism(context, precision)
        yield Piece("cost of deterministic cuDNN", f"resnet-20, {precision}", work, cuda=True, needs=6)


PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")


@dataclass
class Training:
    """Networks that are trained together, a step for them, and their batches."""

    program: Any
    step: engine.TakeStep
    batches: Any
    protocol: Protocol

    def take(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One step."""
        return self.step(inputs, targets, self.protocol.learning_rate)


def training(
    context: Context, way: engine.Way, protocol: Protocol, data: pb.DataSet, *, recorded: bool, name: str = "resnet-20"
) -> Training:
    """One network, or some in a way that needs several, under masks."""
    count = 1 if way == "alone" else NETWORKS
    models = [copy.deepcopy(engine.model(name, data.input_shape, seed=i)).to(context.device) for i in range(count)]
    if way == "alone":
        engine.default_layout(models[0], data)
    program = engine.program(models, [engine.random_mask(model) for model in models], way)
    step = engine.step(program, protocol, context.device, recorded=recorded)
    return Training(program, step, engine.batches(data, protocol, count), protocol)


def small_data(context: Context, examples: int) -> pb.DataSet:
    """Random images on the device."""
    side = 8 if context.rehearse else 32
    return engine.random_images((3, side, side), examples).to(context.device)


def waits(context: Context, way: engine.Way, *, recorded: bool, augmentation: Any) -> Callable[[], Finding]:
    """A whole epoch after the first ones, in which torch raises an error where something waits for the device.

    What waits as an epoch begins, before its first batch, is counted: the order of the examples is drawn on the CPU.
    """

    def run() -> Finding:
        data = small_data(context, 2000)
        protocol = engine.protocol(batch_size=100, augmentation=augmentation)
        with engine.arithmetic("fp32", context.device):
            made = training(context, way, protocol, data, recorded=recorded)
            for inputs, targets in made.batches.epoch():
                made.take(inputs, targets)
            must_be_recorded(made, recorded)
            epoch = made.batches.epoch()
            with synchronisations() as seen:
                next(epoch)
            steps = 0
            torch.cuda.set_sync_debug_mode("error")
            try:
                for inputs, targets in epoch:
                    made.take(inputs, targets)
                    steps += 1
            finally:
                torch.cuda.set_sync_debug_mode("default")
        begin = sum("called a synchronizing" in str(one.message) for one in seen)
        return Finding({"steps": steps, "waits as it begins": begin, "waits inside": 0}, {"waits inside": 0})

    return run


@contextmanager
def synchronisations() -> Iterator[list[warnings.WarningMessage]]:
    """A block in which every operation that waits for the device is noted."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield seen
        finally:
            torch.cuda.set_sync_debug_mode("default")


def must_be_recorded(made: Training, recorded: bool) -> None:
    """Raise an error where a step that should be recorded by now is not: nothing is known of one then."""
    if recorded and not engine.is_recorded(made.step):
        raise RuntimeError("the step was not recorded")


def same_bits(context: Context, way: engine.Way, *, recorded: bool) -> Callable[[], Finding]:
    """Two trainings of the same networks on the same batches, compared bit by bit."""

    def run() -> Finding:
        data = small_data(context, 200 if context.rehearse else 1000)
        protocol = engine.protocol(batch_size=50 if context.rehearse else 100, augmentation="flip-crop")

        def trained() -> dict[str, Tensor]:
            with engine.arithmetic("fp32", context.device):
                made = training(context, way, protocol, data, recorded=recorded)
                for inputs, targets in made.batches.epoch():
                    made.take(inputs, targets)
            must_be_recorded(made, recorded)
            return {str(i): weight.detach().clone() for i, weight in enumerate(made.program.parameters)}

        return differing(trained(), trained())

    return run


def same_scores(context: Context, criterion: str) -> Callable[[], Finding]:
    """The scores of a network twice, compared bit by bit."""

    def run() -> Finding:
        data = small_data(context, 100)
        model = copy.deepcopy(engine.model("resnet-20", data.input_shape)).to(context.device)
        batch = pb.Batch(*data.score_batch(20, 0))
        chosen = pb.get_criterion(criterion)
        return differing(chosen.score(model, batch), chosen.score(model, batch))

    return run


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Finding:
    """How many tensors are not the same bit for bit."""
    count = sum(not torch.equal(value, other[name]) for name, value in one.items())
    return Finding({"tensors": len(one), "tensors that differ": count}, {"tensors that differ": 0})


class Odd(nn.Module):
    """A linear network that does something in between which a recorded graph could not do again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(torch.tanh(self.first(self.between(x.flatten(1)))))
        return logits

    def between(self, x: Tensor) -> Tensor:
        """What is done to the inputs."""
        raise NotImplementedError


class DividesByNumber(Odd):
    """Divides by a number that it has asked the device for."""

    def between(self, x: Tensor) -> Tensor:
        return x / float(x.abs().max())


class DecidesByNumber(Odd):
    """Looks at a number to decide what to do."""

    def between(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum().item() > 0 else x - 1


class ChangesShape(Odd):
    """Takes as many numbers as are positive."""

    def between(self, x: Tensor) -> Tensor:
        return x + x[x > 0].mean()


def odd(context: Context, build: type[Odd]) -> Callable[[], Finding]:
    """Three trainings in a row: as the CPU trains, memory given back; and other networks can be recorded afterwards."""

    def run() -> Finding:
        data = engine.random_images((1, 8, 8), 400)
        there = data.to(context.device)
        protocol = engine.protocol(batch_size=50)
        wanted = trained_odd(build, data, protocol)
        plain = copy.deepcopy(engine.model("lenet-300-100", (1, 8, 8))).to(context.device)
        engine.train(plain, there, protocol)  # libraries take their memory now
        before = engine.settle_memory(context.device)
        apart = []
        for _ in range(3):
            found = trained_odd(build, there, protocol)
            apart.append(max(float((found[n] - w).abs().max() / w.abs().max()) for n, w in wanted.items()))
        after = engine.settle_memory(context.device)
        values = {"distance from the CPU's weights": max(apart)}
        values |= {"bytes more in use": after[0] - before[0], "bytes more held": after[1] - before[1]}
        limits = {"distance from the CPU's weights": 1e-3, "bytes more in use": SPARE, "bytes more held": SPARE}
        return Finding(values, limits, failed=None if still_recorded(context) else "nothing is recorded any more")

    return run


def trained_odd(build: type[Odd], data: pb.DataSet, protocol: Protocol) -> dict[str, Tensor]:
    """The weights of a network after its training."""
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(0)
        model = build().to(data.device)
    engine.train(model, data, protocol)
    return {name: weight.detach().cpu() for name, weight in model.named_parameters()}


def still_recorded(context: Context) -> bool:
    """Whether a step of an ordinary network is recorded; on a CPU, none is meant to be."""
    if not context.cuda:
        return True
    data, protocol = small_data(context, 400), engine.protocol(batch_size=50)
    with engine.arithmetic("fp32", context.device):
        made = training(context, "alone", protocol, data, recorded=True)
        for inputs, targets in made.batches.epoch():
            made.take(inputs, targets)
    return engine.is_recorded(made.step)


def determinism(context: Context, precision: Precision) -> Callable[[], Finding]:
    """Seconds of a recorded step of ResNet-20, with and without algorithms that give the same bits every time."""

    def run() -> Finding:
        data = small_data(context, 10_000)
        protocol = engine.protocol(precision=precision, batch_size=128, augmentation="flip-crop")
        found = {}
        for on in (False, True):
            with engine.arithmetic(precision, context.device), engine.deterministic(on):
                found[on] = step_seconds(training(context, "alone", protocol, data, recorded=True), context.device)
        values = {"seconds": found[False], "deterministic seconds": found[True], "ratio": found[True] / found[False]}
        return Finding(values, bar="ratio")

    return run


def step_seconds(made: Training, device: torch.device, *, steps: int = 50, rounds: int = 5) -> float:
    """Median seconds of a step, in rounds of so many."""
    stream = engine.endless(made.batches)
    found = []
    for _ in range(engine.WARM_UP):
        made.take(*next(stream))
    for _ in range(rounds):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(steps):
            made.take(*next(stream))
        torch.cuda.synchronize(device)
        found.append((time.perf_counter() - start) / steps)
    return statistics.median(found)
