"""The verb `collapse`: its progress, the time that it was expected to take, and which searches are the same."""

import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from pai_bench.analyses.collapse import Settings
from pai_bench.cli import collapses
from pai_bench.cli.collapses import Work, search_all
from pai_bench.cli.entry import main
from pai_bench.results import Collapse, SearchProvenance, Store
from tests.cli.bars import noted_bars
from tests.made import Choice
from tests.made import trial as made_trial
from tests.report.records import ENVIRONMENT
from tests.report.test_figures_of_masks import collapse


class Searches:
    """Replaces searches, of three steps where two were expected, and notes how far the progress is at each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **seconds: float | None) -> None:
        self.expected, self.bars = seconds, noted_bars(monkeypatch, collapses)
        self.seen: list[tuple[str, float]] = []
        self.took: list[float] = []
        monkeypatch.setattr("pai_bench.analyses.collapse.Search", self.search)
        self.file = io.StringIO()

    def run(self, *names: str) -> tuple[int, list[Collapse]]:
        """Search for a criterion of each name; how many failed, and the results."""
        runner: Any = SimpleNamespace(device="cpu")
        store, results = Store("r", create=True), [result("stored")]
        trials = [made_trial(criterion=Choice(name), sparsity=0.5, seed=3) for name in names]
        missing = [Work(store, runner, trial) for trial in trials]
        failed = search_all(Console(file=self.file, width=160), missing, Settings(), results)
        return failed, results

    def search(self, _runner: Any, trial: Any, _settings: Settings) -> SimpleNamespace:
        name = trial.criterion_name

        def steps() -> Iterator[None]:
            (task,) = self.bars[0].tasks
            for _ in range(3):
                self.seen.append((task.description, task.completed))
                yield
                if self.expected[name] is None:
                    raise ValueError("no score today")
            self.seen.append((task.description, task.completed))

        def seconds() -> float:
            if (found := self.expected[name]) is None:
                raise ValueError("no score today")
            return found

        def found(seconds: float) -> Collapse:
            self.took.append(seconds)
            return result(name)

        return SimpleNamespace(steps=steps, evaluations=lambda: 2, seconds=seconds, result=found)


def result(name: str) -> Collapse:
    """Where a network falls apart, as it can be stored."""
    return collapse(name, environment=ENVIRONMENT, provenance=SearchProvenance())


def test_the_progress_is_in_seconds_that_were_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each search has its share of them, however many steps it takes."""
    searches = Searches(monkeypatch, snip=40.0, er=20.0)
    failed, results = searches.run("snip", "er")
    assert failed == 0
    assert [one.trial["criterion"]["name"] for one in results] == ["stored", "snip", "er"]
    assert len(Store("r").read_all(Collapse)) == 2
    assert searches.seen == [
        *(("snip on net, seed 3", done) for done in (0, 20, 40, 40)),
        *(("er on net, seed 3", done) for done in (40, 50, 60, 60)),
    ]
    assert all(0 <= seconds < 10 for seconds in searches.took)  # of a clock that has run for longer
    (task,) = searches.bars[0].tasks
    assert (task.completed, task.total) == (60, 60)
    assert searches.file.getvalue().strip() == "2 searches on cpu, about 60 s; 1 more are stored already"


def test_a_search_that_fails_is_counted_and_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    searches = Searches(monkeypatch, snip=None, er=20.0, grasp=None)
    failed, results = searches.run("snip", "er", "grasp")
    assert failed == 2
    assert [one.trial["criterion"]["name"] for one in results] == ["stored", "er"]
    assert searches.bars[0].finished
    first, *others = searches.file.getvalue().strip().splitlines()
    assert first == "3 searches on cpu, about 20 s; 1 more are stored already"
    assert [line.partition(" (")[0] for line in others] == [
        f"{name} failed on net: ValueError: no score today" for name in ("snip", "grasp")
    ]


def test_searches_over_seeds_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the first one, and together they take as long as each of them."""
    searches = Searches(monkeypatch, snip=20.0)
    measured: list[int] = []
    search = searches.search

    def noted(runner: Any, trial: Any, settings: Settings) -> SimpleNamespace:
        measured.append(trial.seed)
        return search(runner, trial, settings)

    monkeypatch.setattr("pai_bench.analyses.collapse.Search", noted)
    runner: Any = SimpleNamespace(device="cpu")
    store, console = Store("r", create=True), Console(file=searches.file, width=160)
    trials = [made_trial(criterion=Choice("snip"), sparsity=0.5, seed=seed) for seed in (4, 5)]
    forecast = collapses.estimate(console, [Work(store, runner, trial) for trial in trials], Settings(), 0)
    assert measured == [4]
    assert [*forecast.values()] == [20]
    assert searches.file.getvalue() == "2 searches on cpu, about 40 s\n"
    assert collapses.estimate(console, [], Settings(), 0) == {}
    assert searches.file.getvalue().endswith("\n0 searches\n")


def test_what_only_trained_networks_need_does_not_change_a_search() -> None:
    """The keys of a recipe for `run`: sparsities, variants, targets and least numbers of connections."""
    plain = 'criteria = "random"\nmodels = "lenet-300-100"\nseeds = 1\n'
    found = []
    for more in (
        "",
        'sparsities = [0.8, 0.9]\nvariants = ["none", "shuffle"]\ntarget = "effective"\nmin_per_layer = 2\n',
    ):
        Path("r.toml").write_text(plain + more)
        assert main(["collapse", "r.toml", "--points", "2", "--device", "cpu", "--out", "r"]) == 0
        found.append([(one.identity, one.trial) for one in Store("r").read_all(Collapse)])
    assert found[0] == found[1]
    ((_, trial),) = found[0]
    assert not {"variant", "target", "min_per_layer", "repair"} & trial.keys()
