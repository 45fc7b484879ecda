"""How many worker processes, how many trials in one program, and how: as asked for, or what is measured fastest."""

import functools
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from pai_bench.data import DataSet
from pai_bench.execution.measure import measured_step, steps_of
from pai_bench.execution.search import Search
from pai_bench.experiment.sources import DataSource, ModelSource
from pai_bench.memory import free_bytes
from pai_bench.plan import Trial
from pai_bench.runner import Runner
from pai_bench.training.trainer import ENGINE, Engine

logger = logging.getLogger(__name__)

Kind = tuple[DataSource, ModelSource, object]
"""Data set, network and protocol: what decides how long a step takes."""

START_UP = 3.0
"""Seconds that a worker takes until it trains: it imports torch and reads the data."""

WORKER = 2**29
"""Bytes of memory that a worker takes beside its data and its training."""

GAIN = 1.05
"""How much faster worker processes must be to be taken."""

FORWARD = 1 / 3
"""The share that a forward pass has in a training step, about: each of its products has two more for the gradients."""


@dataclass(frozen=True)
class Choice:
    """How a sweep is run."""

    workers: int = 1
    threads: int = 1
    """Of the processor, for each worker."""
    lanes_of: dict[Kind, int] = field(default_factory=dict)
    engine_of: dict[Kind, Engine] = field(default_factory=dict)
    seconds_of: dict[Kind, float] = field(default_factory=dict)
    """Seconds for a step of one trial of a kind, when all that run at once are counted."""

    def lanes(self, trial: Trial) -> int:
        """How many trials of this kind are trained together."""
        return self.lanes_of.get(kind_of(trial), 1)

    def engine(self, trial: Trial) -> Engine:
        """How trials of this kind are trained."""
        return self.engine_of.get(kind_of(trial), ENGINE)

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
        kind: count * (steps_of(runner, trial) + evaluation(trial, runner.inputs.whole(trial)))
        for kind, (trial, count) in found.items()
    }

    def measure(kind: Kind, threads: int, networks: int, engine: Engine) -> tuple[float, int]:
        return measured_step(runner, found[kind][0], threads, networks, engine)

    own = WORKER + sum(data.nbytes for data in runner.catalog.data.values())

    def way(workers: int, lanes: int | str) -> Choice:
        share, room = max(1, threads // workers), free_bytes(runner.device) // workers
        room -= own if workers > 1 else 0
        best = {
            kind: Search(runner, trial, -(-count // workers), room, functools.partial(measure, kind, share)).best(lanes)
            for kind, (trial, count) in found.items()
        }
        lanes_of = {kind: networks for kind, (networks, _, _) in best.items()}
        engines = {kind: engine for kind, (_, engine, _) in best.items()}
        return Choice(workers, share, lanes_of, engines, {kind: one / workers for kind, (_, _, one) in best.items()})

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
            return measure(kind, threads, lanes, Engine(compile=sweep.compile))[1]
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


def evaluation(trial: Trial, data: DataSet) -> float:
    """What testing a trial's network after every epoch costs, in training steps of `trial` on `data`."""
    passes = trial.protocol.passes(data.train_size(trial.train_fraction))
    return FORWARD * max(1, passes) * len(data.test.targets) / trial.protocol.batch_size
