"""Measure training steps as training runs them, with its batches, and recorded where training records them."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from pai_bench.data import DataSet
from pai_bench.experiment.examples import epoch_size
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.support.precision import arithmetic
from pai_bench.support.timing import measured, synchronise
from pai_bench.training.batches import Batches, Order
from pai_bench.training.recorded import WARM_UP, Recorded, step_for
from pai_bench.training.step import Step
from pai_bench.training.trainer import Engine

SECONDS = 0.2
"""Length of a measurement, about."""

FORWARD = 1 / 3
"""Share of the forward pass in a training step, about: each of its products has two more for the gradients."""

IN_FLIGHT = 2
"""Steps that may be queued on a device: with more, time would be up long before the queue is done."""


def training_steps(trial: Trial, data: DataSet) -> int:
    """How many steps a trial trains on `data`."""
    return trial.protocol.steps(epoch_size(trial, data))


def evaluation_steps(trial: Trial, data: DataSet) -> float:
    """The cost of testing a trial's network after every epoch, in training steps of `trial` on `data`."""
    passes = trial.protocol.passes(epoch_size(trial, data))
    return FORWARD * max(1, passes) * len(data.test.targets) / trial.protocol.batch_size


def measured_step(runner: Runner, trial: Trial, threads: int, networks: int, engine: Engine) -> tuple[float, int]:
    """`step_seconds` with so many threads, measured once for each kind of trial."""
    key = trial.data, trial.model, trial.protocol, threads, networks, engine
    if key not in runner.measured_steps and (isolated := runner.catalog.isolated_process):
        runner.measured_steps[key] = isolated.query("step", trial, threads, networks, engine)
    elif key not in runner.measured_steps:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            runner.measured_steps[key] = step_seconds(runner, trial, networks, engine)
        finally:
            torch.set_num_threads(before)
    return runner.measured_steps[key]


def step_seconds(
    runner: Runner, trial: Trial, networks: int, engine: Engine, *, seconds: float = SECONDS
) -> tuple[float, int]:
    """Seconds for a step of one of several trials that `engine` trains together, and the bytes that all of them take.

    It is measured for about so many `seconds`, one step at least, after a warm-up.
    """
    if not training_steps(trial, runner.inputs.whole(trial)):
        return 0.0, 0
    data, device, rate = runner.inputs.data(trial), runner.device, trial.protocol.rate(0, 1)
    with arithmetic(trial.protocol.precision, device):
        batches = Batches(data, [Order(i) for i in range(networks)], trial.protocol)
        stream = batches.endless()
        with measured(device, memory=True) as first:  # weights, gradients, the optimiser's memory, activations
            # branches are trained in place, and networks that share weights would train them all
            models = [runner.inputs.model(trial) for _ in range(networks if engine.together == "branches" else 1)]
            models *= networks // len(models)
            program = engine.program(models, [None] * networks, data.normalised(data.train.inputs[:2]))
            step = step_for(program, trial.protocol, device, compile=engine.compile)
            step(*next(stream), rate)
        if device.type == "cuda":
            for inputs, targets in islice(stream, WARM_UP + 1):  # until the step is recorded
                step(inputs, targets, rate)
        batches.draw_ahead()
        return timed(step, stream, rate, device, seconds) / networks, first.peak_bytes or 0


def training_step(
    runner: Runner, trial: Trial, model: nn.Module, engine: Engine, batch: tuple[Tensor, Tensor]
) -> Callable[[], Tensor]:
    """A function that takes one step of `trial` with `model` on a batch of `Batches`; ready, and recorded on CUDA."""
    data, rate = runner.inputs.data(trial), trial.protocol.rate(0, 1)
    program = engine.program([model], [None], data.normalised(data.train.inputs[:2]))
    step = step_for(program, trial.protocol, runner.device, compile=engine.compile)
    for _ in range(WARM_UP + 2 if runner.device.type == "cuda" else 1):  # until the step is recorded
        step(*batch, rate)
    return lambda: step(*batch, rate)


def timed(
    step: Step | Recorded,
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
    rate: float,
    device: torch.device,
    seconds: float,
) -> float:
    """Seconds of a step with its batch, by the wall clock, over about so many `seconds`."""
    waiting: deque[torch.cuda.Event] = deque()
    synchronise(device)
    start, steps = time.perf_counter(), 0
    while not steps or time.perf_counter() - start < seconds:
        step(*next(batches), rate)
        steps += 1
        if device.type == "cuda":
            waiting.append(torch.cuda.Event())
            waiting[-1].record(torch.cuda.current_stream(device))
            if len(waiting) > IN_FLIGHT:
                waiting.popleft().synchronize()
    synchronise(device)
    return (time.perf_counter() - start) / steps
