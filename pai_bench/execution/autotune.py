"""Choose how many workers run a sweep, how many trials train together, and how: as the sweep says, or the fastest."""

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
from pai_bench.support.environment import devices_of
from pai_bench.support.memory import free_bytes
from pai_bench.training.trainer import Engine

logger = logging.getLogger(__name__)

START_UP = 3.0
"""Seconds that a worker takes until it trains: it imports torch and reads the data."""

WORKER = 2**29
"""Bytes of memory that a worker takes besides its data and its training."""

GAIN = 1.05
"""How much faster worker processes must be to be used."""


def choose(runner: Runner, missing: Sequence[Trial], *, workers: int | str | None = None) -> ExecutionPlan:
    """How to run the `missing` trials: as the sweep says, and where it says ``auto``, by measured training steps.

    A backend may give another number of `workers` than the sweep. Workers share the threads of the processor. They are
    used if that is faster than all threads for one trial, or for lanes; not for a sweep that takes seconds. Where a
    machine has several GPUs, there is one worker for each, unless the sweep names one of them.
    """
    sweep, tuner = runner.catalog.sweep, Tuner(runner, missing)
    number = sweep.workers if workers is None else workers
    if number != "auto":
        return tuner.plan(int(number), sweep.lanes)
    here = tuner.plan(1, 1)
    if sweep.lanes != 1 and (sweep.lanes != "auto" or tuner.seconds(here) >= 2 * START_UP):
        here = tuner.plan(1, sweep.lanes)
    possible = (runner.device.type == "cpu" or tuner.devices > 1) and runner.catalog.by_name and os.name == "posix"
    if not possible or tuner.seconds(here) < 2 * START_UP or (most := tuner.most_workers()) < 2:
        return here
    in_workers = tuner.plan(most, sweep.lanes)
    return in_workers if tuner.seconds(in_workers) * GAIN + START_UP < tuner.seconds(here) else here


class Tuner:
    """Ways to run the `missing` trials, and how long each would take."""

    def __init__(self, runner: Runner, missing: Sequence[Trial]) -> None:
        self.runner, self.kinds, self.threads = runner, kinds(missing), torch.get_num_threads()
        self.memory = WORKER + sum(data.nbytes for data in runner.catalog.data.values())
        """Bytes that a worker takes besides its training."""
        self.devices = len(devices_of(runner.catalog.sweep.device))
        """Among which workers are divided."""

    def plan(self, workers: int, lanes: int | str) -> ExecutionPlan:
        """The fastest plan with so many workers."""
        share = max(1, self.threads // workers)
        memory = free_bytes(self.runner.device) // -(-workers // self.devices)
        memory -= self.memory if workers > 1 else 0
        lanes_of, engine_of, seconds_of = {}, {}, {}
        for kind, (trial, count) in self.kinds.items():
            measure = functools.partial(measured_step, self.runner, trial, share)
            search = Search(self.runner, trial, -(-count // workers), memory, measure)
            lanes_of[kind], engine_of[kind], seconds = search.best(lanes)
            seconds_of[kind] = seconds / workers
        return ExecutionPlan(workers, share, lanes_of, engine_of, seconds_of)

    def seconds(self, plan: ExecutionPlan) -> float:
        """Seconds for all trials."""
        total = 0.0
        for kind, (trial, count) in self.kinds.items():
            data = self.runner.inputs.whole(trial)
            steps = training_steps(trial, data) + evaluation_steps(trial, data)
            total += plan.seconds_of[kind] * count * steps
        return total

    def most_workers(self) -> int:
        """How many workers the processor, the trials and the memory allow; of GPUs, one each."""
        if self.devices > 1:
            return min(self.devices, sum(count for _, count in self.kinds.values()))
        size = self.memory + max(self._training_bytes(trial, count) for trial, count in self.kinds.values())
        fitting = free_bytes(self.runner.device) // size
        if fitting < 2:
            logger.warning("memory has no room for worker processes: each would take %.1f GiB", size / 2**30)
        return min(self.threads, sum(count for _, count in self.kinds.values()), fitting)

    def _training_bytes(self, trial: Trial, count: int) -> int:
        """Bytes for the training of a trial, or of as many as the sweep wants trained together."""
        sweep = self.runner.catalog.sweep
        lanes = 1 if sweep.lanes == "auto" else min(int(sweep.lanes), count)
        try:
            return measured_step(self.runner, trial, self.threads, lanes, Engine(compile=sweep.compile))[1]
        except Exception:  # the trial itself will fail, and say why
            return 0
