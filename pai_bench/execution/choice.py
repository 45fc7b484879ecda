"""How many worker processes and how many lanes: as asked for, or what is measured to be fastest."""

import functools
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from pai_bench.data import DataSet
from pai_bench.memory import free_bytes, no_memory
from pai_bench.plan import Trial
from pai_bench.precision import arithmetic
from pai_bench.runner import Runner
from pai_bench.timing import measured, synchronise
from pai_bench.training.batches import Batches, Order
from pai_bench.training.layout import prepare_layout
from pai_bench.training.programs import Alone, Lanes, Program
from pai_bench.training.step import FIRST, step_for

logger = logging.getLogger(__name__)

Kind = tuple[str, str, object]
"""Data set, network and protocol: what decides how long a step takes."""

START_UP = 3.0
"""Seconds that a worker takes until it trains: it imports torch and reads the data."""

WORKER = 2**29
"""Bytes of memory that a worker takes beside its data and its training."""

GAIN = 1.05
"""How much faster another way must be to be taken."""

MOST_LANES = 512
SMALL = 0.02
"""Seconds of a small step."""

FORWARD = 1 / 3
"""The share that a forward pass has in a training step, about: each of its products has two more for the gradients."""

SHORT = 0.2
"""Seconds that a measurement takes, about."""


@dataclass(frozen=True)
class Choice:
    """How a sweep is run."""

    workers: int = 1
    threads: int = 1
    """Of the processor, for each worker."""
    lanes_of: dict[Kind, int] = field(default_factory=dict)
    seconds_of: dict[Kind, float] = field(default_factory=dict)
    """Seconds for a step of one trial of a kind, when all that run at once are counted."""

    def lanes(self, trial: Trial) -> int:
        """How many trials of this kind are trained together."""
        return self.lanes_of.get(kind_of(trial), 1)

    def __str__(self) -> str:
        most = max(self.lanes_of.values(), default=1)
        lanes = f"up to {most} trials together" if most > 1 else "one trial at a time"
        return f"{self.workers} worker processes, {lanes} in each" if self.workers > 1 else lanes


def kind_of(trial: Trial) -> Kind:
    """The kind of a trial."""
    return trial.data, trial.model, trial.protocol


def choose(runner: Runner, missing: Sequence[Trial]) -> Choice:
    """How to run the `missing` trials: as the sweep says, where it says ``auto`` as some training steps tell.

    Workers share the threads of the processor. They are taken if that is faster than all threads for one trial, or for
    lanes. A sweep that takes seconds is run as it comes.
    """
    sweep, threads = runner.catalog.sweep, torch.get_num_threads()
    found = kinds(missing)
    work = {
        kind: count * (steps_of(runner, trial) + evaluation(trial, runner.whole(trial)))
        for kind, (trial, count) in found.items()
    }

    def measure(kind: Kind, threads: int, lanes: int) -> tuple[float, int]:
        return measured_step(runner, found[kind][0], threads, lanes)

    own = WORKER + sum(data.nbytes for data in runner.catalog.data.values())

    def way(workers: int, lanes: int | str) -> Choice:
        share, room = max(1, threads // workers), free_bytes(runner.device) // workers
        room -= own if workers > 1 else 0
        best = {
            kind: best_lanes(runner, trial, -(-count // workers), lanes, room, functools.partial(measure, kind, share))
            for kind, (trial, count) in found.items()
        }
        seconds = {kind: one / workers for kind, (_, one) in best.items()}
        return Choice(workers, share, {kind: lanes for kind, (lanes, _) in best.items()}, seconds)

    def total(choice: Choice) -> float:
        return sum(choice.seconds_of[kind] * count for kind, count in work.items())

    if sweep.workers != "auto":
        return way(sweep.workers, sweep.lanes)
    here = simple = way(1, 1)
    if sweep.lanes != 1 and (sweep.lanes != "auto" or total(simple) >= 2 * START_UP):
        here = way(1, sweep.lanes)
    if total(here) < 2 * START_UP:
        return here
    if runner.device.type != "cpu" or not sweep.by_name or os.name != "posix":
        return here

    def needs(kind: Kind) -> int:
        lanes = 1 if sweep.lanes == "auto" else min(int(sweep.lanes), found[kind][1])
        try:
            return measure(kind, threads, lanes)[1]
        except Exception:  # the trial itself will fail, and say why
            return 0

    each = own + max(map(needs, found))
    room = free_bytes(runner.device) // each
    if (workers := min(threads, len(missing), room)) < 2:
        if room < 2:
            logger.warning("memory has no room for worker processes: each would take %.1f GiB", each / 2**30)
        return here
    apart = way(workers, sweep.lanes)
    return apart if total(apart) * GAIN + START_UP < total(here) else here


def kinds(missing: Sequence[Trial]) -> dict[Kind, tuple[Trial, int]]:
    """The kinds of some trials, with one of each and how many there are."""
    counts = Counter(map(kind_of, missing))
    return {kind_of(trial): (trial, counts[kind_of(trial)]) for trial in reversed(missing)}


def steps_of(runner: Runner, trial: Trial) -> int:
    """How many steps a trial trains."""
    return trial.protocol.steps(runner.whole(trial).train_size(trial.train_fraction))


def evaluation(trial: Trial, data: DataSet) -> float:
    """What testing a trial's network after every epoch costs, in training steps of `trial` on `data`."""
    passes = trial.protocol.passes(data.train_size(trial.train_fraction))
    return FORWARD * max(1, passes) * len(data.test.targets) / trial.protocol.batch_size


@contextmanager
def using(threads: int) -> Iterator[None]:
    """A block in which torch uses so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def best_lanes(
    runner: Runner, trial: Trial, count: int, asked: int | str, room: int, measure: Callable[[int], tuple[float, int]]
) -> tuple[int, float]:
    """How many of `count` trials to train together, and what a step of one of them takes then, in seconds.

    Lanes are doubled as long as that is faster and they fit into `room` bytes. `measure` gives seconds and bytes of
    some lanes.
    """
    try:
        if asked != "auto":
            lanes = min(int(asked), count)
            if lanes > 1 and (why := runner.alone(trial)) is not None:
                logger.warning("%s is trained one at a time: %s", trial.model, why)
                lanes = 1
            try:
                return lanes, measure(lanes)[0]
            except Exception as error:
                if not no_memory(error):
                    raise
                return lanes, measure(1)[0]  # they will be split
        lanes, (seconds, taken) = 1, measure(1)
    except Exception:  # the trial itself will fail, and say why
        return 1, 0.0
    # on a processor, lanes are for networks whose steps are too small to keep it busy
    most = min(count, MOST_LANES) if runner.device.type != "cpu" or seconds < SMALL else 1
    while 2 * lanes <= most and 2.5 * taken < room and runner.alone(trial) is None:
        try:
            found, taken = measure(2 * lanes)
        except Exception as error:  # as many as have worked will do
            logger.debug("%s is not trained %d at a time: %s", trial.model, 2 * lanes, error)
            break
        if found * GAIN > seconds:
            break
        lanes, seconds = 2 * lanes, found
    return lanes, seconds


def measured_step(runner: Runner, trial: Trial, threads: int, lanes: int) -> tuple[float, int]:
    """`step_seconds` with so many threads, measured once for each kind of trial."""
    key = kind_of(trial), threads, lanes
    if key not in runner.measured_steps:
        with using(threads):
            runner.measured_steps[key] = step_seconds(runner, trial, lanes)
    return runner.measured_steps[key]


def step_seconds(runner: Runner, trial: Trial, lanes: int) -> tuple[float, int]:
    """Seconds for a training step of one of several trials, after a warm-up, and the bytes that all of them take."""
    if not steps_of(runner, trial):
        return 0.0, 0
    with arithmetic(trial.protocol.precision, runner.device):
        return _step_seconds(runner, trial, lanes)


def _step_seconds(runner: Runner, trial: Trial, lanes: int) -> tuple[float, int]:
    data = runner.data(trial)
    batches = Batches(data, [Order(i) for i in range(lanes)], trial.protocol)
    rate = trial.protocol.rate(0, 1)
    with measured(runner.device, memory=True) as first:  # weights, gradients, the optimiser's memory, activations
        model = runner.model(trial)
        program: Program
        if lanes == 1:
            prepare_layout(model, data.normalised(data.train.inputs[:2]))
            program = Alone(model)
        else:
            program = Lanes([model] * lanes, [None] * lanes)
        step = step_for(program, trial.protocol, runner.device, compile=runner.catalog.sweep.compile)
        step(*next(batches.epoch()), rate)
    for _ in range(FIRST if runner.device.type == "cuda" else 0):  # until the step is recorded
        step(*next(batches.epoch()), rate)
    synchronise(runner.device)
    start, done = time.perf_counter(), 0
    while not done or time.perf_counter() - start < SHORT:
        for inputs, targets in batches.epoch():
            step(inputs, targets, rate)
            done += 1
            if time.perf_counter() - start > SHORT:
                break
    synchronise(runner.device)
    return (time.perf_counter() - start) / done / lanes, first.peak_bytes or 0
