"""What a person sees of a sweep while it runs: a live display on a terminal, a line per trial in a log."""

from collections import defaultdict
from statistics import fmean

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pai_bench.plan import Trial
from pai_bench.report.summary import plural
from pai_bench.report.tables import duration
from pai_bench.runner import Listener, Runner
from pai_bench.store import Record


class Forecast:
    """Seconds that trials will take: as finished ones of their kind did; before that, from one step of training."""

    def __init__(self, runner: Runner, missing: list[Trial]) -> None:
        self.missing = list(missing)
        self._seen: dict[tuple[str, ...], list[float]] = defaultdict(list)
        self._steps: dict[tuple[str, str], float] = {}
        for trial in missing:
            if (key := (trial.data, trial.model)) not in self._steps:
                try:
                    self._steps[key] = runner.step_seconds(trial)
                except Exception:  # the trial itself will fail, and say why
                    self._steps[key] = 0.0
        self._data = runner.catalog.data

    def add(self, trial: Trial, seconds: float) -> None:
        """A trial has taken `seconds`."""
        self.missing.remove(trial)
        for key in self._kinds(trial):
            self._seen[key].append(seconds)

    def seconds(self, trial: Trial) -> float:
        """What `trial` is likely to take."""
        for key in self._kinds(trial):
            if seen := self._seen[key]:
                return fmean(seen)
        return trial.protocol.steps(self.size(trial)) * self._steps[trial.data, trial.model]

    def size(self, trial: Trial) -> int:
        """How many examples `trial` trains on."""
        return self._data[trial.data].train_size(trial.train_fraction)

    def left(self) -> float:
        """Seconds until all missing trials are done."""
        return sum(self.seconds(trial) for trial in self.missing)

    @staticmethod
    def _kinds(trial: Trial) -> tuple[tuple[str, ...], ...]:
        return (trial.data, trial.model, trial.method), (trial.data, trial.model)


class Display(Listener):
    """Shows trials done, the running trial's epoch and the time left."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = Progress(
            TextColumn("[bold]trials"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )

    def begin(self, runner: Runner, total: int, missing: list[Trial]) -> None:
        done = total - len(missing)
        self.total, self.done, self.share = total, done, 0.0
        if done:
            self.console.print(f"{done} of {total} trials are already stored", highlight=False)
        if not missing:
            return
        with self.console.status("measuring a training step of each network"):
            self.forecast = Forecast(runner, missing)
        left = duration(self.forecast.left())
        self.console.print(f"{plural(len(missing), 'trial')} to run on {runner.device}, about {left}", highlight=False)
        self.live.start()
        self.task = self.live.add_task("", total=total, completed=done, left="")

    def start(self, trial: Trial) -> None:
        self.share = 0.0
        self._show(f"{describe(trial)}: scoring" if trial.criterion else f"{describe(trial)}: starting", trial)

    def epoch(self, trial: Trial, epoch: int) -> None:
        epochs = trial.protocol.passes(self.forecast.size(trial))
        self.share = epoch / max(1, epochs)
        self._show(f"{describe(trial)}: epoch {min(epoch + 1, epochs)} of {epochs}", trial)

    def finish(self, trial: Trial, record: Record, seconds: float) -> None:
        self.forecast.add(trial, seconds)
        self.done += 1
        self.live.update(self.task, completed=self.done)
        dead = f"; dead: {', '.join(record.dead_layers)}" if record.dead_layers else ""
        if record.connected is False:
            dead = f"; disconnected, first in {record.first_cut}"
        accuracy = "failed" if record.test_accuracy is None else f"{100 * record.test_accuracy:.2f} %"
        line = f"[{self.done}/{self.total}] {describe(trial)}: {accuracy}{dead}, {duration(seconds)}"
        left = f", {duration(self.forecast.left())} left" if self.forecast.missing else ""
        if record.status == "failed":
            self.console.print(f"{line}: {record.error}{left}", style="red", markup=False, highlight=False)
        elif not self.console.is_terminal:
            self.console.print(line + left, markup=False, highlight=False)

    def skip(self, trial: Trial) -> None:
        self.forecast.missing.remove(trial)
        self.done += 1
        self.live.update(self.task, completed=self.done)

    def end(self) -> None:
        self.live.stop()

    def _show(self, text: str, trial: Trial) -> None:
        left = self.forecast.left() - self.share * self.forecast.seconds(trial)
        self.live.update(self.task, description=text, left=f"{duration(left)} left")


def describe(trial: Trial) -> str:
    """A trial in a few words."""
    pruned = f" {trial.method} {trial.sparsity:g}" if trial.criterion else " dense"
    return f"{trial.data} {trial.model}{pruned} seed {trial.seed}"
