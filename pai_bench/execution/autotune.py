"""How many worker processes, how many trials in one program, and how: as asked for, or what is measured fastest."""

import functools
import logging
import os
from collections.abc import Sequence

import torch

from pai_bench.execution.execution_plan import ExecutionPlan, kinds
from pai_bench.execution.measure import evaluation_steps, measured_step, training_steps
from pai_bench.execution.search import Search
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.support.memory import free_bytes
from pai_bench.training.trainer import Engine

logger = logging.getLogger(__name__)

START_UP = 3.0
"""Seconds that a worker takes until it trains: it imports torch and reads the data."""

WORKER = 2**29
"""Bytes of memory that a worker takes beside its data and its training."""

GAIN = 1.05
"""How much faster worker processes must be to be taken."""


def choose(runner: Runner, missing: Sequence[Trial], *, workers: int | str | None = None) -> ExecutionPlan:
    """How to run the `missing` trials: as the sweep says, where it says ``auto`` as some training steps tell.

    A backend that knows better than the sweep says by how many `workers`.
    Workers share the threads of the processor. They are taken if that is faster than all threads for one trial, or for
    lanes. A sweep that takes seconds is run as it comes.
    """
    sweep, tuner = runner.catalog.sweep, Tuner(runner, missing)
    wanted = sweep.workers if workers is None else workers
    if wanted != "auto":
        return tuner.plan(int(wanted), sweep.lanes)
    here = simple = tuner.plan(1, 1)
    if sweep.lanes != 1 and (sweep.lanes != "auto" or tuner.seconds(simple) >= 2 * START_UP):
        here = tuner.plan(1, sweep.lanes)
    if tuner.seconds(here) < 2 * START_UP:
        return here
    if runner.device.type != "cpu" or not runner.catalog.by_name or os.name != "posix":
        return here
    if (most := tuner.most_workers()) < 2:
        return here
    apart = tuner.plan(most, sweep.lanes)
    return apart if tuner.seconds(apart) * GAIN + START_UP < tuner.seconds(here) else here


class Tuner:
    """Ways to run the `missing` trials, and how long each would take."""

    def __init__(self, runner: Runner, missing: Sequence[Trial]) -> None:
        self.runner, self.kinds, self.threads = runner, kinds(missing), torch.get_num_threads()
        self.memory = WORKER + sum(data.nbytes for data in runner.catalog.data.values())
        """Bytes that a worker takes beside its training."""

    def plan(self, workers: int, lanes: int | str) -> ExecutionPlan:
        """The fastest way by so many workers."""
        share, room = max(1, self.threads // workers), free_bytes(self.runner.device) // workers
        room -= self.memory if workers > 1 else 0
        lanes_of, engine_of, seconds_of = {}, {}, {}
        for kind, (trial, count) in self.kinds.items():
            measure = functools.partial(measured_step, self.runner, trial, share)
            search = Search(self.runner, trial, -(-count // workers), room, measure)
            lanes_of[kind], engine_of[kind], seconds = search.best(lanes)
            seconds_of[kind] = seconds / workers
        return ExecutionPlan(workers, share, lanes_of, engine_of, seconds_of)

    def seconds(self, plan: ExecutionPlan) -> float:
        """Seconds for all trials."""
        return sum(
            plan.seconds_of[kind]
            * count
            * (training_steps(self.runner, trial) + evaluation_steps(trial, self.runner.inputs.whole(trial)))
            for kind, (trial, count) in self.kinds.items()
        )

    def most_workers(self) -> int:
        """How many workers the processor, the trials and the memory have room for."""
        each = self.memory + max(self._bytes(trial, count) for trial, count in self.kinds.values())
        room = free_bytes(self.runner.device) // each
        workers = min(self.threads, sum(count for _, count in self.kinds.values()), room)
        if workers < 2 and room < 2:
            logger.warning("memory has no room for worker processes: each would take %.1f GiB", each / 2**30)
        return workers

    def _bytes(self, trial: Trial, count: int) -> int:
        """Bytes that the training of a trial takes, or of all that are asked to be trained together."""
        sweep = self.runner.catalog.sweep
        lanes = 1 if sweep.lanes == "auto" else min(int(sweep.lanes), count)
        try:
            return measured_step(self.runner, trial, self.threads, lanes, Engine(compile=sweep.compile))[1]
        except Exception:  # the trial itself will fail, and say why
            return 0
