"""Sweeps whose networks are evaluated, and who listens to them."""

from typing import Any

import pandas as pd

import pai_bench as pb
from pai_bench.execution import Listener
from pai_bench.results import TrialMetrics
from tests.execution.sweeps import named

COMMAND = ["run", "--criteria", "snip,random", "--models", "lenet-300-100", "--sparsities", "0.75", "--seeds", "1"]
COMMAND += ["--epochs", "1", "--device", "cpu", "--workers", "1"]


class Seen(Listener):
    """Which trials were trained and evaluated."""

    def __init__(self) -> None:
        self.trained, self.evaluated, self.announced = list[str](), list[str](), list[int]()
        self.seconds, self.waited = list[float](), list[list[str]]()

    def on_wait(self, _trials: Any, owners: Any) -> None:
        self.waited.append(list(owners))

    def on_finish(self, trial: Any, *_others: Any) -> None:
        self.trained.append(trial.identity)

    def on_evaluation(self, trials: Any) -> None:
        self.announced.append(len(trials))

    def on_evaluated(self, trial: Any, metrics: TrialMetrics | None, seconds: float) -> None:
        self.seconds.append(seconds)
        self.evaluated += [trial.identity] if metrics else []


def run(out: str = "r", **changes: Any) -> tuple[pd.DataFrame, Seen]:
    """A sweep of two criteria and one seed."""
    seen = Seen()
    keys: dict[str, Any] = {"seeds": 1, "workers": 1, "sparsities": [0.75]}
    return pb.run(named(**keys | changes), out=out, listener=seen), seen
