"""Sweeps inside a stage: a forecast, and every record into the archive as soon as it is there."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pai_bench as pb
from benchmarks.gpu import engine
from benchmarks.gpu.stage import Context, Finding, OutOfTimeError
from pai_bench.execution import Listener
from pai_bench.experiment.trial import Trial
from pai_bench.results import Record

TRIALS = "trials/"

FIXED, EACH = 12.0, 0.6
"""Seconds of a sweep beside scoring and training: to begin, and for each trial its paths and its record."""

MARGIN = 1.15
"""By how much a sweep may take longer than was forecast."""


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Seconds of what is missing of a sweep, and how many trials are best trained together."""

    training: float
    """Evaluation after every epoch included."""
    scoring: float
    trials: int
    together: int

    @property
    def seconds(self) -> float:
        """Of everything."""
        return self.training + self.scoring + FIXED + EACH * self.trials


class Keeper(Listener):
    """Keeps every record, and ends the sweep when the stage's time is over."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def on_epoch(self, trial: Trial, epoch: int) -> None:
        self.context.need(0)

    def on_finish(self, trial: Trial, record: Record, seconds: float) -> None:
        origin = dataclasses.replace(record.provenance, **self.context.provenance)
        pruning = dataclasses.replace(record.pruning, mask=None)  # masks would be nine tenths of it
        kept = dataclasses.replace(record, pruning=pruning, provenance=origin)
        self.context.keep(f"{TRIALS}{record.identity}.json", kept.to_json())
        accuracy = "" if (share := record.evaluation.test_accuracy) is None else f" {100 * share:.2f} %"
        print(f"    {record.status}{accuracy}: {record.identity}", flush=True)


def run(context: Context, sweep: pb.Sweep) -> Finding:
    """Run what is missing of a sweep; how many trials there are, how many have failed, the seconds it took."""
    start = time.monotonic()
    with TemporaryDirectory(prefix="pai-bench-sweep-") as name:
        folder = Path(name)
        (folder / TRIALS).mkdir()
        for file, text in context.ledger.archive.texts.items():
            if file.startswith(TRIALS):
                (folder / file).write_text(text, encoding="utf-8")
        command = context.provenance.get("command")
        frame = pb.run(sweep, folder, retry_failed=True, listener=Keeper(context), command=command)
    failed = frame[frame.status == "failed"]
    values = {"trials": len(frame), "failed trials": len(failed), "seconds": time.monotonic() - start}
    reason = "; ".join(sorted(set(failed.error.dropna()))[:3]) or None
    return Finding(values, {"failed trials": 0}, bar="seconds", failed=reason)


def stored(context: Context) -> set[str]:
    """Identities of the trials that the archive holds."""
    names = [name for name in context.ledger.archive.texts if name.startswith(TRIALS)]
    return {name.removeprefix(TRIALS).removesuffix(".json") for name in names}


def forecast(context: Context, sweep: pb.Sweep) -> Forecast:
    """What the trials of a sweep that are not stored will take, from a few steps and a score of each criterion."""
    found = engine.estimate(sweep, stored(context))
    if found.failed:
        raise RuntimeError("; ".join(found.failed))
    return Forecast(found.training + found.evaluation, found.scoring, found.trials, found.together)


def at_once(chosen: int, trials: int) -> int:
    """How many trials to train together: all of them if twice as many as were found to be best would be more."""
    return trials if 2 * chosen > trials else chosen


def fitting(options: Sequence[int], seconds_each: float, left: float) -> int:
    """The largest of some numbers, each unit of which takes so many seconds, that fits into the seconds left."""
    fits = [option for option in options if option * seconds_each <= left]
    if not fits:
        raise OutOfTimeError
    return max(fits)
