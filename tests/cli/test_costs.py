"""The verb `time`: which costs are measured, and what is shown of them, also where some could not be."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from pai_bench.cli import costs
from pai_bench.cli.entry import main
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.results import Cost, SmallerNetwork, Store
from tests.cli.bars import noted_bars
from tests.report.records import cost, drawn, smaller_network, stored

TIME = ["time", "--models", "lenet-300-100,lenet", "--criteria", "snip,er", "--device", "cpu", "--out", "r"]


class Measuring:
    """Notes what is measured, in place of measuring; criteria with an error in `fails` fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[str] = []
        self.costs: list[tuple[Any, ...]] = []
        self.fails: dict[str, BaseException] = {}
        self.smaller: SmallerNetwork | None = None
        monkeypatch.setattr("pai_bench.analyses.cost.measure_step", self.step)
        monkeypatch.setattr("pai_bench.analyses.cost.measure_cost", self.cost)
        self.bars = noted_bars(monkeypatch, costs)

    def step(self, _runner: Runner, trial: Trial) -> float:
        self.steps.append(trial.model.name)
        return float(len(self.steps))

    def cost(self, _runner: Runner, trial: Trial, step: float, *, rounds: int | None, budget: float) -> Cost:
        name = trial.criterion_name
        if name in self.fails:
            raise self.fails[name]
        self.costs.append((trial.model.name, name, trial.sparsity, trial.seed, step, rounds, budget))
        return dataclasses.replace(cost(smaller=self.smaller), trial=trial.configuration(), step_seconds=step)


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
    measuring.smaller = smaller_network()
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


ARGUMENTS = ["time", "--criteria", "snip,er", "--models", "lenet-300-100", "--rounds", "2", "--seconds", "2"]


@pytest.mark.slow
def test_the_verb_prints_stores_and_reports(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ARGUMENTS, "--schedule", "linear:steps=3", "--device", "cpu", "--score-batch", "20"]) == 0
    out = capsys.readouterr().out
    assert "266,200 prunable weights, score batch 20" in out
    for word in ("snip", "er", "(bare pass)", "÷ step", "peak memory", "report: results/report.md"):
        assert word in out
    stored = {cost.trial["criterion"]["name"]: cost for cost in Store("results").read_all(Cost)}
    assert stored.keys() == {"snip", "er"}
    snip = stored["snip"]
    assert (snip.weights, snip.cuts, snip.trial["score_batch"], snip.rounds) == (266_200, 3, 20, 2)
    assert min(snip.seconds, snip.floor_seconds, snip.prune_seconds, snip.step_seconds) > 0
    assert snip.prune_seconds > snip.seconds
    assert snip.environment.versions["torch"] == torch.__version__.partition("+")[0]
    page = Path("results/report.md").read_text()
    assert "## What scoring costs" in page
    assert "pai-bench time --criteria snip,er" in page
    (figure,) = Path("results/figures").glob("*.svg")
    assert figure.name in page
    # again: the same places, and a sweep's report keeps the section
    assert main([*ARGUMENTS, "--schedule", "linear:steps=3", "--device", "cpu", "--score-batch", "20"]) == 0
    assert len(Store("results").read_all(Cost)) == 2
    sweep = ["run", "--models", "lenet-300-100", "--seeds", "1", "--epochs", "0", "--sparsities", "0.5"]
    assert main([*sweep, "--criteria", "er"]) == 0
    page = Path("results/report.md").read_text()
    assert "## lenet-300-100 on digits" in page
    assert "## What scoring costs" in page


def test_smaller_networks_are_timed_at_several_sparsities(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["time", "--criteria", "snap", "--models", "lenet-300-100", "--rounds", "1", "--seconds", "2"]
    assert main([*arguments, "--sparsity", "0.5,0.8", "--sparsity-of", "nodes", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert out.count("smaller networks beside the dense one") == 2
    assert "sparsity of nodes 0.8" in out
    found = {cost.trial["sparsity"]: cost.smaller for cost in Store("results").read_all(Cost)}
    assert {sparsity: one and one.node_sparsity for sparsity, one in found.items()} == {
        sparsity: pytest.approx(sparsity) for sparsity in (0.5, 0.8)
    }
    assert "forward pass, 128 examples" in Path("results/report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "rounds 0 must be at least 1"),
        (["--criteria", "snipp"], "unknown criterion 'snipp'"),
        (["--sparsity", "95"], "sparsity 95 is outside"),
        (["--models", "vggg"], "unknown model"),
        (["--criteria", "snip,imp"], "imp prunes during training: what is timed is pruning before it"),
        (["--seconds", "nan"], "seconds nan finite"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["time", *arguments]) == 2
    assert message in capsys.readouterr().err
