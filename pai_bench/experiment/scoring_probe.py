"""The time and the memory that making a mask takes."""

import dataclasses
from collections.abc import Callable

from torch import nn

from pai_bench.experiment.inputs import Inputs
from pai_bench.experiment.stages import mask_maker
from pai_bench.experiment.trial import Trial
from pai_bench.masks import Mask, Schedule
from pai_bench.support.timing import Measurement, measured

FEWEST_CUTS = 2
"""Cuts of a schedule in which a pruning takes as much memory as in all of them: one dense, one under a mask."""


class ScoringProbe:
    """Makes the masks of trials, and measures the seconds and the memory that this takes."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self._peaks: dict[object, int | None] = {}

    def mask(self, trial: Trial, model: nn.Module) -> tuple[Mask | None, Measurement | None]:
        """The trial's mask and what it cost, after a warm-up; nothing for a network that is dense at first."""
        if trial.criterion is None or trial.schedule is None or trial.begins_dense:
            return None, None
        key = trial.data, trial.model, trial.method
        make = mask_maker(self.inputs, trial, model)
        if key not in self._peaks:
            self._peaks[key] = self._warm_up(trial, model, make)
        with measured(self.inputs.device) as cost:
            mask = make(trial.schedule)
        if cost.peak_bytes is None:
            cost.peak_bytes = self._peaks[key]
        return mask, cost

    def _warm_up(self, trial: Trial, model: nn.Module, make: Callable[[Schedule], Mask]) -> int | None:
        """Score once, for libraries to load and caches to fill; the peak of memory of a few cuts, measured apart."""
        assert trial.schedule is not None
        with self.inputs.scorer(trial, model) as scorer:
            scorer.score(self.inputs.score_batch(trial))
        with measured(self.inputs.device, memory=True) as cost:
            make(dataclasses.replace(trial.schedule, steps=min(trial.schedule.steps, FEWEST_CUTS)))
        return cost.peak_bytes
