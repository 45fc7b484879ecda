"""How the trials of a sweep are run: workers, threads, and trials trained together, for each kind of trial."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pai_bench.experiment.trial import Trial
from pai_bench.training.trainer import ENGINE, Engine

Kind = tuple[str, str, object]
"""Data set, network and protocol: what decides how long a step takes."""


def kind_of(trial: Trial) -> Kind:
    """The kind of a trial."""
    return trial.data.name, trial.model.name, trial.protocol


def kinds(missing: Sequence[Trial]) -> dict[Kind, tuple[Trial, int]]:
    """The kinds of some trials, each with its first trial and the number of trials."""
    counts = Counter(map(kind_of, missing))
    return {kind_of(trial): (trial, counts[kind_of(trial)]) for trial in reversed(missing)}


@dataclass(frozen=True)
class ExecutionPlan:
    """How many workers run a sweep, with how many threads each, and how each of them trains trials of a kind."""

    workers: int = 1
    threads: int = 1
    """Of the processor, for each worker."""
    lanes_of: dict[Kind, int] = field(default_factory=dict)
    engine_of: dict[Kind, Engine] = field(default_factory=dict)
    seconds_of: dict[Kind, float] = field(default_factory=dict)
    """Seconds for a step of one trial of a kind, divided by the number of trials that run at once."""

    def lanes(self, trial: Trial) -> int:
        """How many trials of this kind are trained together."""
        return 1 if trial.structured else self.lanes_of.get(kind_of(trial), 1)  # smaller networks differ in shape

    def engine(self, trial: Trial) -> Engine:
        """How trials of this kind are trained."""
        return self.engine_of.get(kind_of(trial), ENGINE)

    def __str__(self) -> str:
        most = max(self.lanes_of.values(), default=1)
        lanes = f"up to {most} trials together" if most > 1 else "one trial at a time"
        return f"{self.workers} worker processes, {lanes} in each" if self.workers > 1 else lanes
