"""Listeners that note what a sweep does and that interrupt it, and what must not depend on interrupts."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pai_bench.execution import run_catalog
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.trial import Trial
from pai_bench.results import Store
from pai_bench.results.checkpoints import CheckpointFolder
from tests.experiment.test_runner import Count, sweep


def outcome(folder: str) -> dict[str, Any]:
    """What must not depend on interrupts or on other processes."""
    return {
        one.identity: (one.status, one.error, one.training.curve, one.evaluation, one.pruning.mask)
        for one in Store(folder)
    }


class Notes(Count):
    """Also notes what was skipped, and what was waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped, self.waited = list[str](), list[tuple[int, Sequence[str]]]()

    def on_skip(self, trial: Trial) -> None:
        self.skipped.append(trial.identity)

    def on_wait(self, trials: Sequence[Trial], owners: Sequence[str]) -> None:
        self.waited.append((len(trials), owners))


class Interrupts(Notes):
    """Interrupts the process when it has trained so many epochs of all trials."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left, self.begun = after, set[str]()

    def on_epoch(self, trial: Trial, epoch: int) -> None:
        self.left -= trial.identity in self.begun
        self.begun.add(trial.identity)
        if self.left == 0:
            self.left -= 1
            os.kill(os.getpid(), signal.SIGINT)


def interrupted_stack(lanes: int = 3) -> tuple[str, ...]:
    """The trials of the checkpoint that an interrupted sweep leaves in the folder ``r``."""
    with pytest.raises(KeyboardInterrupt):
        run_catalog(resolve(sweep(lanes=lanes)), "r", listener=Interrupts(3))
    (checkpoint,) = CheckpointFolder(Path("r"))
    return checkpoint.trials
