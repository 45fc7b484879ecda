"""The verb `time`: which costs are measured, and what is shown of them, also where some could not be."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pai_bench.cli import costs
from pai_bench.cli.console import progress_bar
from pai_bench.cli.entry import main
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.results import BesideDense, Cost, SmallerNetwork, Store
from tests.report.records import drawn, stored
from tests.support.test_timing import cost

TIME = ["time", "--models", "lenet-300-100,lenet", "--criteria", "snip,er", "--device", "cpu", "--out", "r"]


class Measuring:
    """Notes what is measured, in place of measuring; criteria with an error in `fails` fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[str] = []
        self.costs: list[tuple[Any, ...]] = []
        self.fails: dict[str, BaseException] = {}
        self.bars: list[Any] = []
        self.smaller: SmallerNetwork | None = None
        monkeypatch.setattr("pai_bench.analyses.cost.measure_step", self.step)
        monkeypatch.setattr("pai_bench.analyses.cost.measure_cost", self.cost)
        monkeypatch.setattr(costs, "progress_bar", self.bar)

    def step(self, _runner: Runner, trial: Trial) -> float:
        self.steps.append(trial.model.name)
        return float(len(self.steps))

    def cost(self, _runner: Runner, trial: Trial, step: float, *, rounds: int | None, budget: float) -> Cost:
        name = trial.criterion_name
        if name in self.fails:
            raise self.fails[name]
        self.costs.append((trial.model.name, name, trial.sparsity, trial.seed, step, rounds, budget))
        return dataclasses.replace(cost(smaller=self.smaller), trial=trial.configuration(), step_seconds=step)

    def bar(self, *arguments: Any, **options: Any) -> Any:
        self.bars.append(progress_bar(*arguments, **options))
        return self.bars[-1]


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> Measuring:
    return Measuring(monkeypatch)


def test_each_criterion_is_timed_on_each_network(measuring: Measuring, capsys: pytest.CaptureFixture[str]) -> None:
    """With one seed; the step of a network is measured once."""
    assert main([*TIME, "--sparsity", "0.8", "--rounds", "1", "--seconds", "0"]) == 0
    one, other = "lenet-300-100", "lenet-5-caffe"
    assert measuring.steps == [one, other]
    assert measuring.costs == [
        (model, name, 0.8, 0, step, 1, 0.0) for model, step in ((one, 1.0), (other, 2.0)) for name in ("snip", "er")
    ]
    assert len(Store("r").read_all(Cost)) == 4
    out = capsys.readouterr().out
    assert all(f"{model} on digits, a cpu: 1,000 prunable weights" in out for model in (one, other))
    assert "report: r/report.md" in out
    (task,) = measuring.bars[0].tasks
    assert (task.completed, task.total, task.description) == (4, 4, "timing er on lenet-5-caffe")


def test_tables_of_several_sparsities_have_different_titles(
    measuring: Measuring, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    monkeypatch.setattr(costs, "print_table", lambda _console, _table, title: titles.append(title))
    one = BesideDense(rounds=1, cold=False, seconds=1.0, iqr=0.0, dense_seconds=2.0, dense_iqr=0.0)
    works = dict.fromkeys(("forward_1", "forward_128", "training_step"), one)
    measuring.smaller = SmallerNetwork(node_sparsity=0.5, weight_sparsity=0.5, flop_sparsity=0.5, **works)
    assert main([*TIME, "--sparsity", "0.5,0.8"]) == 0
    assert len(titles) == len({*titles}) == 8  # two tables for each of two networks and sparsities
    beside = [title for title in titles if title.endswith(": smaller networks beside the dense one")]
    assert [title.rpartition(", ")[2].partition(":")[0] for title in beside] == ["sparsity 0.5", "sparsity 0.8"] * 2


def test_a_criterion_that_fails_is_named_and_the_others_are_timed(
    measuring: Measuring, capsys: pytest.CaptureFixture[str]
) -> None:
    measuring.fails["snip"] = RuntimeError("no score today")
    assert main(TIME) == 1
    assert "snip failed on lenet-5-caffe: RuntimeError: no score today" in capsys.readouterr().out
    assert [one.trial["criterion"]["name"] for one in Store("r").read_all(Cost)] == ["er", "er"]
    assert measuring.bars[0].finished


def test_what_was_timed_before_an_interrupt_is_shown(measuring: Measuring, capsys: pytest.CaptureFixture[str]) -> None:
    measuring.fails["er"] = KeyboardInterrupt()
    assert main(TIME) == 130
    assert "lenet-300-100 on digits, a cpu: 1,000 prunable weights" in capsys.readouterr().out
    assert len(Store("r").read_all(Cost)) == 1
    assert Path("r/report.md").is_file()


@pytest.mark.parametrize("there", ["nothing", "a cost", "a trial"])
def test_a_report_is_written_if_there_is_something_to_report(there: str, measuring: Measuring) -> None:
    stored("r", [drawn("snip", 0.5, 0, 0.9)] if there == "a trial" else [])
    if there == "a cost":
        Store("r", create=True).write(cost())
    measuring.fails |= {name: RuntimeError("no") for name in ("snip", "er")}
    assert main(TIME) == 1
    assert Path("r/report.md").is_file() == (there != "nothing")
