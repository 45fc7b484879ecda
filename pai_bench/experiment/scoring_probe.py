"""What making a mask costs, measured around the stage that makes it."""

import dataclasses
from collections.abc import Callable

from torch import nn

from pai_bench.experiment.inputs import Inputs
from pai_bench.experiment.stages import mask_maker
from pai_bench.experiment.trial import Trial
from pai_bench.masks import Mask, Schedule
from pai_bench.scoring import Scorer
from pai_bench.support.timing import Measurement, measured

FEWEST_CUTS = 2
"""Cuts of a schedule in which a pruning takes as much memory as in all of them: one dense, one under a mask."""


class ScoringProbe:
    """Measures seconds and memory of prunings, each of which is made once for good."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self._peaks: dict[object, int | None] = {}

    def mask(self, trial: Trial, model: nn.Module) -> tuple[Mask | None, Measurement | None]:
        """The trial's mask and what it cost, after a warm-up; nothing for the dense reference."""
        if trial.criterion is None or trial.schedule is None:
            return None, None
        kind = trial.data, trial.model, trial.method
        make = mask_maker(self.inputs, trial, model)
        if kind not in self._peaks:
            self._peaks[kind] = self._warm_up(trial, model, make)
        with measured(self.inputs.device) as cost:
            mask = make(trial.schedule)
        if cost.peak_bytes is None:
            cost.peak_bytes = self._peaks[kind]
        return mask, cost

    def _warm_up(self, trial: Trial, model: nn.Module, make: Callable[[Schedule], Mask]) -> int | None:
        """Score once, for libraries to load and caches to fill; the peak of memory of a few cuts.

        On a processor, memory is not measured together with time, which that would change; a few cuts will do.
        """
        inputs, criterion, schedule = self.inputs, trial.criterion, trial.schedule
        assert criterion is not None
        assert schedule is not None
        names = inputs.prunable(trial, model, biases=criterion.biases)
        with Scorer(criterion, model, draw=inputs.draw(trial), only=names) as scorer:
            scorer.score(inputs.score_batch(trial, inputs.data(trial)))
        fewer = dataclasses.replace(schedule, steps=min(schedule.steps, FEWEST_CUTS))
        with measured(inputs.device, memory=True) as few:
            make(fewer)
        return few.peak_bytes
