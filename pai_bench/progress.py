"""What a person sees of a sweep while it runs: a live display on a terminal, a line per trial in a log."""

import time
from collections import defaultdict
from statistics import fmean

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from pai_bench.catalog import Catalog
from pai_bench.execution.choice import Choice, evaluation, kind_of
from pai_bench.execution.sweep import Listener
from pai_bench.plan import Trial
from pai_bench.report.summary import plural
from pai_bench.report.tables import duration
from pai_bench.store import Record

REFRESH = 0.1
"""Seconds between two pictures of what runs."""


class Forecast:
    """Seconds that trials will take: as finished ones of their kind did; before that, by measured training steps."""

    def __init__(self, catalog: Catalog, choice: Choice, missing: list[Trial]) -> None:
        self.catalog, self.choice, self.missing = catalog, choice, list(missing)
        self.shares: dict[str, float] = {}
        """Trials that run now, and how far they are."""
        self._seen: dict[tuple[str, ...], list[float]] = defaultdict(list)

    def add(self, trial: Trial, seconds: float) -> None:
        """A trial has taken `seconds`."""
        self.missing.remove(trial)
        self.shares.pop(trial.identity, None)
        for key in self._kinds(trial):
            self._seen[key].append(seconds / self.choice.workers)

    def seconds(self, trial: Trial) -> float:
        """By how much `trial` is likely to make the sweep longer, with all that runs beside it."""
        for key in self._kinds(trial):
            if seen := self._seen[key]:
                return fmean(seen)
        steps = trial.protocol.steps(self.size(trial)) + evaluation(trial, self.catalog.data[trial.data])
        return steps * self.choice.seconds_of.get(kind_of(trial), 0.0)

    def size(self, trial: Trial) -> int:
        """How many examples `trial` trains on."""
        return self.catalog.data[trial.data].train_size(trial.train_fraction)

    def left(self) -> float:
        """Seconds until all missing trials are done."""
        return sum(self.seconds(t) * (1 - self.shares.get(t.identity, 0.0)) for t in self.missing)

    @staticmethod
    def _kinds(trial: Trial) -> tuple[tuple[str, ...], ...]:
        return (trial.data, trial.model, trial.method), (trial.data, trial.model)


class Display(Listener):
    """Shows trials done, those that run and the epoch they are in, and the time left of all grids."""

    def __init__(self, console: Console) -> None:
        self.console, self.shown = console, 0.0
        self.live = Progress(
            TextColumn("[bold]trials"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            # what is too long for the terminal is cut here, not at the counters or the time left
            TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
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
        self.choices: list[str] = []
        self.of: dict[str, list[Forecast]] = defaultdict(list)
        """By the identity of a trial that is still missing: of each folder that it is to be stored in, in order."""
        self.running: dict[str, str] = {}

    def look(self, trials: int) -> None:
        if trials:
            self.status.start()

    def begin(self, catalog: Catalog, choice: Choice, total: int, missing: list[Trial]) -> None:
        self.total += total
        if missing:
            forecast = Forecast(catalog, choice, missing)
            self.forecasts.append(forecast)
            for trial in missing:
                self.of[trial.identity].append(forecast)
            plain = choice.workers == 1 and max(choice.lanes_of.values(), default=1) == 1
            self.choices += [] if plain else [str(choice)]

    def ready(self) -> None:
        self.status.stop()
        missing = sum(len(forecast.missing) for forecast in self.forecasts)
        self.done = self.total - missing
        if self.done:
            self.console.print(f"{self.done} of {self.total} trials are already stored", highlight=False)
        if not self.forecasts:
            return
        device = self.forecasts[0].catalog.device
        line = f"{plural(missing, 'trial')} to run on {device}, about {duration(self.left())}"
        self.console.print("; ".join([line, *dict.fromkeys(self.choices)]), highlight=False)
        self.live.start()
        self.task = self.live.add_task("", total=self.total, completed=self.done, left="")

    def left(self) -> float:
        """Seconds until the trials of all grids are done."""
        return sum(forecast.left() for forecast in self.forecasts)

    def start(self, trial: Trial) -> None:
        self.running[trial.identity] = (
            f"{describe(trial)}: scoring" if trial.criterion else f"{describe(trial)}: starting"
        )
        self._show()

    def epoch(self, trial: Trial, epoch: int) -> None:
        forecast = self.of[trial.identity][0]
        epochs = trial.protocol.passes(forecast.size(trial))
        forecast.shares[trial.identity] = epoch / max(1, epochs)
        self.running[trial.identity] = f"{describe(trial)}: epoch {min(epoch + 1, epochs)} of {epochs}"
        self._show()

    def finish(self, trial: Trial, record: Record, seconds: float) -> None:
        self.of[trial.identity].pop(0).add(trial, seconds)
        self.running.pop(trial.identity, None)
        self.done += 1
        self.live.update(self.task, completed=self.done)
        dead = f"; dead: {', '.join(record.dead_layers)}" if record.dead_layers else ""
        if record.connected is False:
            dead = f"; disconnected, first in {record.first_cut}"
        accuracy = "failed" if record.test_accuracy is None else f"{100 * record.test_accuracy:.2f} %"
        line = f"[{self.done}/{self.total}] {describe(trial)}: {accuracy}{dead}, {duration(seconds)}"
        failed = record.status == "failed"
        line += f": {record.error}" if failed else ""
        if not self.console.is_terminal and self.done < self.total:  # on a terminal, it stands below
            line += f", {duration(self.left())} left"
        self.console.print(line, style="red" if failed else None, markup=False, highlight=False)
        self._show()

    def skip(self, trial: Trial) -> None:
        self.of[trial.identity].pop(0).missing.remove(trial)
        self.done += 1
        self.live.update(self.task, completed=self.done)

    def end(self) -> None:
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


def describe(trial: Trial) -> str:
    """A trial in a few words."""
    pruned = f" {trial.method} {trial.sparsity:g}" if trial.criterion else " dense"
    return f"{trial.data} {trial.model}{pruned} seed {trial.seed}"
