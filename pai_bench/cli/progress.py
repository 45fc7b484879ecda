"""The progress of a sweep: a live display on a terminal, one line for each trial in a log."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from pai_bench.execution.backend import Backend
from pai_bench.execution.execution_plan import ExecutionPlan, kind_of
from pai_bench.execution.listener import Listener
from pai_bench.execution.measure import evaluation_steps, training_steps
from pai_bench.experiment.examples import epoch_size
from pai_bench.experiment.resolve import Catalog
from pai_bench.experiment.trial import Trial
from pai_bench.report.summary import plural
from pai_bench.report.tables import duration
from pai_bench.results import Record, TrialMetrics

REFRESH = 0.1
"""Seconds between two updates of the live display."""


@dataclass
class Group:
    """Trials of the same data, network and method, which take about the same time."""

    expected: float = 0.0
    """Mean seconds of one, by measured training steps."""
    missing: int = 0
    shares: float = 0.0
    """Trials' worth of work that is done of those that run."""
    seconds: float = 0.0
    """Of the finished ones, which are `done`."""
    done: int = 0


class Forecast:
    """Seconds that trials will take: as finished ones of their group did; before that, by measured training steps.

    Reporting a trial costs the same however many there are, and the time left is a sum over groups.
    """

    def __init__(self, catalog: Catalog, plan: ExecutionPlan, missing: Sequence[Trial]) -> None:
        self.catalog, self.plan = catalog, plan
        self.missing = {trial.identity for trial in missing}
        self._groups = defaultdict[tuple[str, str, str], Group](Group)
        self._shares: dict[str, float] = {}
        for trial in missing:
            group = self._group(trial)
            group.expected += (self.expected(trial) - group.expected) / (group.missing + 1)  # the mean of all
            group.missing += 1

    def _group(self, trial: Trial) -> Group:
        return self._groups[trial.data.name, trial.model.name, trial.method]

    def expected(self, trial: Trial) -> float:
        """Seconds by which `trial` makes the sweep longer, by measured training steps."""
        data = self.catalog.data[trial.data.name]
        return (training_steps(trial, data) + evaluation_steps(trial, data)) * self.plan.seconds_of.get(
            kind_of(trial), 0.0
        )

    def size(self, trial: Trial) -> int:
        """By how many examples the epochs of `trial` are counted."""
        return epoch_size(trial, self.catalog.data[trial.data.name])

    def reach(self, trial: Trial, share: float) -> None:
        """A `share` of a trial that runs is done."""
        self._group(trial).shares += share - self._shares.get(trial.identity, 0.0)
        self._shares[trial.identity] = share

    def drop(self, trial: Trial) -> None:
        """A trial is no longer missing."""
        self.missing.remove(trial.identity)
        group = self._group(trial)
        group.missing -= 1
        group.shares -= self._shares.pop(trial.identity, 0.0)

    def add(self, trial: Trial, seconds: float) -> None:
        """A trial has taken `seconds`."""
        self.drop(trial)
        group = self._group(trial)
        group.seconds, group.done = group.seconds + seconds / self.plan.workers, group.done + 1

    def left(self) -> float:
        """Seconds until all missing trials are done: by the finished ones of their group, or of their network."""
        seconds, done = defaultdict[tuple[str, str], float](float), defaultdict[tuple[str, str], int](int)
        for (data, model, _), group in self._groups.items():
            seconds[data, model] += group.seconds
            done[data, model] += group.done
        left = 0.0
        for (data, model, _), group in self._groups.items():
            expected = seconds[data, model] / done[data, model] if done[data, model] else group.expected
            left += (group.missing - group.shares) * (group.seconds / group.done if group.done else expected)
        return max(0.0, left)


class Display(Listener):
    """Shows trials done, those that run and the epoch they are in, and the time left of all grids."""

    def __init__(self, console: Console) -> None:
        self.console, self.shown = console, 0.0
        self.live = Progress(
            TextColumn("[bold]{task.fields[what]}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            # what is too long for the terminal is cut here, not at the counters or the time left
            TextColumn(
                "{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
            ),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True)),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            expand=True,
        )
        self.status = console.status("measuring training steps")
        self.total = self.done = 0
        self.forecasts: list[Forecast] = []
        self.backends: list[str] = []
        self.forecasts_of: dict[str, list[Forecast]] = defaultdict(list)
        """By the identity of a trial that is still missing: of each folder that it is to be stored in, in order."""
        self.running: dict[str, str] = {}

    def on_planning(self, trials: int) -> None:
        if trials:
            self.status.start()

    def on_begin(self, catalog: Catalog, backend: Backend, total: int, missing: list[Trial]) -> None:
        self.total += total
        if missing:
            forecast = Forecast(catalog, backend.plan, missing)
            self.forecasts.append(forecast)
            for trial in missing:
                self.forecasts_of[trial.identity].append(forecast)
            self.backends += [] if backend.description == str(ExecutionPlan()) else [backend.description]

    def on_ready(self) -> None:
        self.status.stop()
        missing = sum(len(forecast.missing) for forecast in self.forecasts)
        self.done = self.total - missing
        if self.done:
            self.console.print(f"{self.done} of {self.total} trials are already stored")
        if not self.forecasts:
            return
        device = self.forecasts[0].catalog.device
        plan = f"{plural(missing, 'trial')} to run on {device}, about {duration(self.left())}"
        self.console.print("; ".join([plan, *dict.fromkeys(self.backends)]))
        self.live.start()
        self.task = self.live.add_task("", what="trials", total=self.total, completed=self.done, left="")

    def left(self) -> float:
        """Seconds until the trials of all grids are done."""
        return sum(forecast.left() for forecast in self.forecasts)

    def on_start(self, trial: Trial) -> None:
        self.running[trial.identity] = f"{describe(trial)}: {'scoring' if trial.criterion else 'starting'}"
        self._show()

    def on_epoch(self, trial: Trial, epoch: int) -> None:
        forecast = self.forecasts_of[trial.identity][0]
        epochs = trial.protocol.passes(forecast.size(trial))
        forecast.reach(trial, epoch / max(1, epochs))
        self.running[trial.identity] = f"{describe(trial)}: epoch {min(epoch + 1, epochs)} of {epochs}"
        self._show()

    def on_finish(self, trial: Trial, record: Record, seconds: float) -> None:
        self.forecasts_of[trial.identity].pop(0).add(trial, seconds)
        self.running.pop(trial.identity, None)
        self.done += 1
        self.live.update(self.task, completed=self.done)
        dead = f"; dead: {', '.join(record.pruning.dead_layers)}" if record.pruning.dead_layers else ""
        if record.pruning.connected is False:
            dead = f"; disconnected, first in {record.pruning.first_cut}"
        accuracy = "failed" if (share := record.evaluation.test_accuracy) is None else f"{100 * share:.2f} %"
        text = f"[{self.done}/{self.total}] {describe(trial)}: {accuracy}{dead}, {duration(seconds)}"
        failed = record.status == "failed"
        text += f": {record.error}" if failed else ""
        if not self.console.is_terminal and self.done < self.total:  # on a terminal, it stands below
            text += f", {duration(self.left())} left"
        self.console.print(text, style="red" if failed else None)
        self._show()

    def on_skip(self, trial: Trial) -> None:
        self.forecasts_of[trial.identity].pop(0).drop(trial)
        self.running.pop(trial.identity, None)
        self.done += 1
        self.live.update(self.task, completed=self.done)

    def on_wait(self, trials: Sequence[Trial], owners: Sequence[str]) -> None:
        self.running.clear()
        self._show()
        text = f"{plural(len(trials), 'trial')} left, run by {', '.join(owners) or 'other processes'}"
        self.console.print(f"{text}: waiting for the results, or to take over what they leave")

    def on_evaluation(self, trials: Sequence[Trial]) -> None:
        self.running.clear()
        self.to_evaluate, self.networks = {trial.identity: trial for trial in trials}, len(trials)
        self.evaluation_start = time.monotonic()
        self.console.print(f"{plural(len(trials), 'network')} to evaluate")
        for task in self.live.task_ids:  # that of the training
            self.live.remove_task(task)
        self.live.start()
        self.task = self.live.add_task(describe(trials[0]), what="networks", total=len(trials), left="")

    def on_evaluated(self, trial: Trial, metrics: TrialMetrics | None, seconds: float) -> None:
        del self.to_evaluate[trial.identity]
        following, total = list(self.to_evaluate.values()), self.networks
        done = total - len(following)
        left = duration(len(following) * (time.monotonic() - self.evaluation_start) / done)
        numbers = [] if metrics is None else main_values(metrics)
        text = f"[{done}/{total}] {describe(trial)}: {', '.join(numbers)}, {duration(seconds)}"
        self.console.print(text + (f", {left} left" if following and not self.console.is_terminal else ""))
        now = describe(following[0]) if following else ""
        self.live.update(self.task, completed=done, description=now, left=f"{left} left")

    def on_end(self) -> None:
        self.status.stop()
        self.live.stop()

    def _show(self) -> None:
        """The first of the trials that run, how many run beside it, and the time left."""
        if self.live.disable or time.monotonic() < self.shown + REFRESH:  # hundreds of lanes report at once
            return
        self.shown = time.monotonic()
        texts = list(self.running.values())
        more = f"{plural(len(texts) - 1, 'trial')} beside " if len(texts) > 1 else ""
        left = f"{duration(self.left())} left"
        self.live.update(self.task, description=(more + texts[0]) if texts else "", left=left)


def main_values(metrics: TrialMetrics) -> list[str]:
    """The main value of each metric, or all of one that has none."""
    return [
        f"{name}{f'.{key}' * bool(key)} {value:.4g}"
        for name, one in metrics.metrics.items()
        for key, value in one.values.items()
        if value is not None and (not key or "" not in one.values)
    ]


def describe(trial: Trial) -> str:
    """A trial in a few words."""
    pruned = f" {trial.method} {trial.sparsity:g}" if trial.criterion else " dense"
    return f"{trial.data} {trial.model}{pruned} seed {trial.seed}"
