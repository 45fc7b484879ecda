"""What becomes of trials whose process has died: which run again, and which have failed."""

import logging
from collections import Counter
from collections.abc import Sequence

from pai_bench.execution.backend import Cell
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial

logger = logging.getLogger(__name__)

ATTEMPTS = 2
"""Runs of a trial whose worker dies; one, if more workers died of its network, and none has run it."""


class Deaths:
    """Names which trial ended a worker, halves what ran together, and tries once more."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._run: set[str] = set()
        """Networks of which a worker has run a trial."""
        self._deaths: Counter[str] = Counter()
        """Of workers that ran a single trial, by its identity and by its network."""

    def on_finish(self, trial: Trial) -> None:
        """Note that a worker has run a trial."""
        self._run.add(trial.model.name)

    def cells_to_run(self, cell: Sequence[Trial], how: str) -> list[Cell]:
        """The cells that a dead worker leaves to be run again; none if its only trial has failed."""
        names = ", ".join(trial.identity for trial in cell)
        self._deaths.update([names])
        checkpoints = self.runner.checkpoints
        if self._deaths[names] < ATTEMPTS and checkpoints and checkpoints.holds([trial.identity for trial in cell]):
            logger.warning("a worker process died (%s) while it ran %s; it resumes from its checkpoint", how, names)
            return [cell]
        if half := len(cell) // 2:  # the cause may be any of them, or memory that is too short for all
            logger.warning("a worker process died (%s) while it ran %s; once more, half of them at a time", how, names)
            if checkpoints:  # or else all would resume together
                checkpoints.remove([trial.identity for trial in cell])
            return [cell[half:], cell[:half]]
        model = cell[0].model.name
        self._deaths.update([model])
        hopeless = self._deaths[model] > ATTEMPTS and model not in self._run
        again = self._deaths[names] < ATTEMPTS and not hopeless
        logger.warning("a worker process died (%s) while it ran %s%s", how, names, "; once more" if again else "")
        return [cell] if again else []
