"""What a person sees of a sweep on a terminal of 80 columns."""

import io
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import pai_bench as pb
from pai_bench.cli import progress
from pai_bench.cli.entry import HEAVY, VERBS, main
from pai_bench.cli.progress import Display, Forecast
from pai_bench.execution import ExecutionPlan, InProcess, run_catalogs
from pai_bench.execution.execution_plan import kind_of
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from tests.experiment import test_runner
from tests.report.records import record

LONG = "a-network-with-a-name-that-no-line-of-eighty-columns-has-room-for-besides-the-rest"


def shown(*sweeps: pb.Sweep, out: Path, terminal: bool = True) -> list[str]:
    """All lines that a run of some grids has printed, also those that were overwritten."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=80, color_system=None, legacy_windows=False)
    display = Display(console)
    run_catalogs([(resolve(sweep), out) for sweep in sweeps], listener=display)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())
    return [line for line in re.split(r"[\r\n]+", text) if line.strip()]


def sweep(**changes: Any) -> pb.Sweep:
    keys: dict[str, Any] = {"criteria": ["random"], "sparsities": [0.5], "seeds": 1, "epochs": 1, "workers": 1}
    return pb.Sweep(**keys | {"models": ["lenet-300-100"], "lanes": 1} | changes)


def test_a_terminal_shows_finished_trials_and_one_time_left(tmp_path: Path) -> None:
    grids = [sweep(criteria=[name]) for name in ("random", "magnitude", "er")]
    lines = shown(*grids, out=tmp_path)
    assert sum(line.startswith("4 trials to run on cpu, about ") for line in lines) == 1  # the dense one is shared
    for number, name in enumerate(("dense", "random 0.5", "magnitude 0.5", "er 0.5"), 1):
        found = [line for line in lines if line.startswith(f"[{number}/4] digits lenet-300-100 {name} seed 0: ")]
        assert len(found) == 1
        assert "left" not in found[0]
    assert not any("already stored" in line for line in lines)
    again = shown(*grids, out=tmp_path)
    assert [line for line in again if "trials" in line] == ["4 of 4 trials are already stored"]


def test_counters_and_time_left_survive_eighty_columns(tmp_path: Path) -> None:
    def network(shape: tuple[int, ...], classes: int) -> Any:
        return pb.create_model("lenet-300-100", input_shape=shape, num_classes=classes)

    network.__name__ = LONG
    lines = [line for line in shown(sweep(models=[network]), out=tmp_path) if line.startswith("trials")]
    running = [line for line in lines if "digits" in line]
    assert running
    for line in running:
        assert re.fullmatch(r"trials +\S* *\d/2 digits a-network\S*…? +\d:\d\d:\d\d .* left *", line), line
        assert len(line) <= 80


def test_a_log_has_a_line_for_each_trial_with_the_time_left_of_all_grids(tmp_path: Path) -> None:
    lines = shown(sweep(), sweep(criteria=["er"]), out=tmp_path, terminal=False)
    trials = [line for line in lines if line.startswith("[")]
    assert [line.partition("]")[0] for line in trials] == ["[1/3", "[2/3", "[3/3"]
    assert [line.endswith(" left") for line in trials] == [True, True, False]


def test_a_trial_of_several_grids_is_run_once_and_stands_in_each(tmp_path: Path) -> None:
    catalogs = [(resolve(sweep(criteria=[name], epochs=0)), tmp_path) for name in ("random", "er")]
    first, second = run_catalogs(catalogs)
    assert first[0].identity == second[0].identity
    assert [record.trial["criterion"] and record.trial["criterion"]["name"] for record in second] == [None, "er"]
    assert len(list((tmp_path / "trials").glob("*.json"))) == 3


def test_a_trial_that_goes_into_two_folders_is_run_for_each(tmp_path: Path) -> None:
    """The dense one, which all have; and a folder has one name, however it is written."""
    file = io.StringIO()
    outs: list[str | Path] = [tmp_path / "a", tmp_path / "b", f"{tmp_path / 'a'}/", tmp_path / "b"]
    names = ["random", "er", "magnitude", "random"]
    pairs = [(resolve(sweep(criteria=[n], epochs=0)), out) for n, out in zip(names, outs, strict=True)]
    run_catalogs(pairs, listener=Display(Console(file=file, width=160)))
    lines = file.getvalue().splitlines()
    assert lines[0].startswith("6 trials to run on cpu")
    assert [line.partition("]")[0] for line in lines[1:]] == [f"[{i}/6" for i in range(1, 7)]
    assert lines[-1].endswith("ms") or "left" not in lines[-1]
    assert [len(list((tmp_path / name / "trials").glob("*.json"))) for name in "ab"] == [3, 3]
    again = io.StringIO()
    run_catalogs(pairs, listener=Display(Console(file=again, width=160)))
    assert again.getvalue().splitlines() == ["6 of 6 trials are already stored"]


def test_every_verb_says_a_word_before_it_imports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert HEAVY.keys() == VERBS.keys()
    said: list[str] = []

    class Status:
        def __init__(self, *_args: Any, **_options: Any) -> None:
            pass

        def status(self, word: str) -> "Status":
            said.append(word)
            return self

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_error: object) -> None:
            said.append("imported")

    monkeypatch.setattr("pai_bench.cli.entry.make_console", Status)
    monkeypatch.setattr("pai_bench.cli.entry.importlib", SimpleNamespace(import_module=said.append))
    assert main(["report", str(tmp_path / "none")]) == 2
    assert said == ["starting", "pai_bench.report.page", "imported"]


def test_results_do_not_depend_on_the_callers_defaults(tmp_path: Path) -> None:
    import torch

    plain = pb.run(sweep(), out=tmp_path / "plain")
    torch.set_default_dtype(torch.float64)
    try:
        other = pb.run(sweep(), out=tmp_path / "other")
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert list(plain.identity) == list(other.identity)
    assert list(plain.test_loss) == list(other.test_loss)


class Scenario:
    """A display and its reports of four trials of 88 seconds each, of six, by hand."""

    def __init__(self, *, terminal: bool, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
        monkeypatch.setattr(progress, "REFRESH", 0.0)
        keys: dict[str, Any] = {"criteria": ["random"], "epochs": 4, "train_fraction": 0.1, "batch_size": 6}
        catalog = resolve(test_runner.sweep(**keys | {"score_batch": 9} | changes))
        self.trials = catalog.trials
        # 4 epochs of 24 examples, and of a third of the work for 60 more, in batches of 6 that take 3 seconds
        seconds = {kind_of(trial): 3.0 for trial in self.trials}
        self.file = io.StringIO()
        console = Console(file=self.file, force_terminal=terminal, width=160, color_system=None, legacy_windows=False)
        self.display = Display(console)
        lanes = {kind_of(self.trials[0]): 3}
        plan = ExecutionPlan(seconds_of=seconds, lanes_of=lanes)
        self.display.on_begin(catalog, InProcess(Runner(catalog), plan), len(self.trials) + 2, self.trials)
        self.display.on_ready()

    @property
    def lines(self) -> list[str]:
        """What was printed in a log."""
        return self.file.getvalue().splitlines()

    @property
    def below(self) -> tuple[str, str, float]:
        """Of the live line on a terminal: what runs, the time left, and how many trials are done."""
        (task,) = self.display.live.tasks
        return task.description, task.fields["left"], task.completed


def test_lines_of_a_log_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario(terminal=False, monkeypatch=monkeypatch)
    display, trials = scenario.display, scenario.trials
    display.on_finish(trials[0], record(None, 0.0, 0, 0.975), 10.0)
    cut = record("random", 0.5, 0, 0.1, connected=False, first_cut="b", dead_layers=("a", "b"))
    display.on_finish(trials[1], cut, 16.0)
    display.on_skip(trials[2])
    display.on_finish(trials[3], record("random", 0.5, 1, None), 0.5)
    assert scenario.lines == [
        "2 of 6 trials are already stored",
        "4 trials to run on cpu, about 5:52 min; up to 3 trials together",
        "[3/6] blobs tiny dense seed 0: 97.50 %, 10 s, 30 s left",  # of one network: 3 x 10
        "[4/6] blobs tiny random 0.5 seed 0: 10.00 %; disconnected, first in b, 16 s, 26 s left",  # 10 and 16
        "[6/6] blobs tiny random 0.5 seed 1: failed, 500 ms: RuntimeError: oh | no",
    ]
    dead = Scenario(terminal=False, monkeypatch=monkeypatch, seeds=1)
    dead.display.on_finish(dead.trials[0], record("snip", 0.5, 0, 0.5, kept=0), 1.0)
    assert dead.lines[-1] == "[3/4] blobs tiny dense seed 0: 50.00 %; dead: b.weight, 1 s, 1 s left"


def test_what_stands_below_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario(terminal=True, monkeypatch=monkeypatch)
    display, trials = scenario.display, scenario.trials
    assert scenario.below == ("", "", 2)
    display.on_start(trials[0])
    assert scenario.below == ("blobs tiny dense seed 0: starting", "5:52 min left", 2)
    display.on_epoch(trials[0], 0)
    assert scenario.below[0] == "blobs tiny dense seed 0: epoch 1 of 4"
    display.on_epoch(trials[0], 1)
    assert scenario.below == ("blobs tiny dense seed 0: epoch 2 of 4", "5:30 min left", 2)  # a quarter of 88 s is done
    display.on_start(trials[1])
    assert scenario.below[0] == "1 trial beside blobs tiny dense seed 0: epoch 2 of 4"
    display.on_epoch(trials[0], 4)
    assert scenario.below == ("1 trial beside blobs tiny dense seed 0: epoch 4 of 4", "4:24 min left", 2)
    display.on_finish(trials[0], record(None, 0.0, 0, 0.9), 10.0)
    assert scenario.below == ("blobs tiny random 0.5 seed 0: scoring", "30 s left", 3)
    display.on_skip(trials[2])
    monkeypatch.setattr(progress, "REFRESH", 1e9)  # not yet drawn again, but counted
    display.on_finish(trials[1], record("random", 0.5, 0, 0.9), 10.0)
    assert scenario.below == ("blobs tiny random 0.5 seed 0: scoring", "30 s left", 5)
    monkeypatch.setattr(progress, "REFRESH", 0.0)
    display.on_finish(trials[3], record("random", 0.5, 0, 0.9), 10.0)
    assert scenario.below == ("", "0 ms left", 6)
    assert display.shown == pytest.approx(time.monotonic(), abs=60)
    display.on_end()
    assert not display.live.live.is_started
    printed = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", scenario.file.getvalue())
    for line in printed.splitlines():
        assert not (line.startswith("[") and "left" in line)


def test_trials_of_other_processes_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario(terminal=False, monkeypatch=monkeypatch)
    display, trials = scenario.display, scenario.trials
    display.on_start(trials[0])
    display.on_wait(trials[:2], ["a:7", "b:1"])
    display.on_wait(trials[:1], [])
    what = "waiting for the results, or to take over what they leave"
    assert scenario.lines[-2:] == [
        f"2 trials left, run by a:7, b:1: {what}",
        f"1 trial left, run by other processes: {what}",
    ]
    assert display.running == {}


def test_a_trial_that_another_process_has_stored_runs_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario(terminal=True, monkeypatch=monkeypatch)
    scenario.display.on_start(scenario.trials[0])
    scenario.display.on_skip(scenario.trials[0])
    assert (scenario.below[0], scenario.display.running) == ("blobs tiny dense seed 0: starting", {})


def test_a_trial_of_no_epochs_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario(terminal=True, monkeypatch=monkeypatch, epochs=0)
    scenario.display.on_start(scenario.trials[0])
    scenario.display.on_epoch(scenario.trials[0], 0)
    assert scenario.below == (
        "blobs tiny dense seed 0: epoch 0 of 0",
        "40 s left",
        2,
    )  # 60 examples for the test: 10 s each
    scenario.display.on_end()


def test_a_trial_of_one_epoch_is_done_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four trials of 22 seconds each."""
    scenario = Scenario(terminal=True, monkeypatch=monkeypatch, epochs=1)
    scenario.display.on_start(scenario.trials[0])
    assert scenario.below[1] == "88 s left"
    scenario.display.on_epoch(scenario.trials[0], 1)
    assert scenario.below[1] == "66 s left"
    scenario.display.on_end()


def test_the_display_is_renewed_ten_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = progress.REFRESH
    scenario = Scenario(terminal=True, monkeypatch=monkeypatch)
    monkeypatch.setattr(progress, "REFRESH", seconds)
    display, trials = scenario.display, scenario.trials
    for now, trial, shown in (
        (0.5, 0, ""),
        (0.59, 1, ""),
        (0.6, 2, "2 trials beside "),
        (0.6875, 3, "2 trials beside "),
    ):
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda now=now: now))
        display.on_start(trials[trial])
        assert scenario.below[0] == f"{shown}blobs tiny dense seed 0: starting"
    display.on_end()


@pytest.mark.parametrize("ended", [Display.on_ready, Display.on_end])
def test_measuring_is_named_as_long_as_it_lasts(ended: Callable[[Display], None]) -> None:
    display = Display(Console(file=io.StringIO(), force_terminal=True, width=80, legacy_windows=False))
    display.on_planning(0)
    seen = [display.status._live.is_started]
    display.on_planning(2)
    seen.append(display.status._live.is_started)
    ended(display)
    seen.append(display.status._live.is_started)
    assert seen == [False, True, False]
    assert display.status.status == "measuring training steps"


def test_nothing_is_known_of_the_time_of_what_was_not_measured() -> None:
    catalog = resolve(test_runner.sweep())
    assert Forecast(catalog, ExecutionPlan(), catalog.trials).left() == 0
