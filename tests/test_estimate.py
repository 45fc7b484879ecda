"""What a sweep will cost: counted by hand where it can be, and of the right size where it is measured."""

import sys
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench import recipe
from pai_bench.catalog import resolve
from pai_bench.cli import main
from pai_bench.estimate import arithmetic, estimate
from pai_bench.execution.choice import Choice, kind_of
from pai_bench.plan import Trial
from pai_bench.progress import Forecast
from pai_bench.recipe import Recipe
from pai_bench.runner import Runner
from tests.test_runner import sweep


def test_the_arithmetic_of_a_recipe_is_three_passes_of_every_example() -> None:
    grid = {"models": ("lenet-300-100",), "data": ("mnist",), "criteria": ("snip",), "sparsities": (0.9, 0.98)}
    made = Recipe("r", ({**grid, "seeds": 2, "epochs": 3, "batch_size": 100, "train_fraction": 0.5},))
    assert made.trials == 2 * 3
    assert arithmetic(made) == 6 * 3 * 300 * 100 * 3 * (2 * 266_200)
    assert arithmetic(Recipe("r", ({**grid, "data": ("folder:pets",), "epochs": 1},))) is None
    assert arithmetic(Recipe("r", (grid,))) is None


def test_grids_of_a_recipe_share_their_dense_networks() -> None:
    grid = {"models": ("lenet",), "criteria": ("snip",), "sparsities": (0.9,), "seeds": 2}
    assert Recipe("r", ({**grid, "score_batch": 10}, {**grid, "score_batch": 100})).trials == 2 + 4
    assert Recipe("r", (grid, grid)).trials == 4
    assert Recipe("r", ({**grid, "epochs": 1}, {**grid, "epochs": 2})).trials == 8


def test_a_recipe_has_as_many_trials_as_it_resolves_to() -> None:
    loaded = recipe.load("quick")
    (grid,) = loaded.grids
    assert loaded.trials == len(resolve(pb.Sweep(**grid)).trials) == 3


def test_an_estimate_has_the_size_of_what_is_found() -> None:
    sweep = pb.Sweep(models=["lenet-300-100"], criteria=["snip"], sparsities=[0.9], seeds=2, epochs=3, device="cpu")
    runner = Runner(resolve(sweep))
    found = estimate(runner, runner.catalog.trials)
    assert not found.failed
    records = [runner.run(trial) for trial in runner.catalog.trials]
    trained = sum(record.train_seconds or 0.0 for record in records)
    assert 0.2 * trained < found.training < 5 * trained
    assert found.seconds == found.training + found.evaluation + found.scoring > found.training
    written = sum(len(record.to_json()) for record in records)
    assert 0.5 * written < found.disk < 3 * written
    assert found.memory > 2**20


def test_a_dry_run_counts_trials_of_several_grids_once(capsys: pytest.CaptureFixture[str]) -> None:
    grid = "[[grid]]\ncriteria = ['snip']\n"
    Path("r.toml").write_text(f"models = ['lenet-300-100']\nseeds = 1\nepochs = 1\n{grid}{grid}")
    assert main(["run", "r.toml", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("3 trials, 3 to run on") == 2
    assert shown.count("of memory") == 1


def test_what_cannot_be_measured_is_named() -> None:
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(784, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                raise RuntimeError("not in training")
            found: torch.Tensor = self.layer(x.flatten(1))
            return found

    def breaks(_shape: tuple[int, ...], _classes: int) -> nn.Module:
        return Breaks()

    sweep = pb.Sweep(models=[breaks], criteria=["magnitude"], sparsities=[0.9], seeds=1, device="cpu")
    runner = Runner(resolve(sweep))
    found = estimate(runner, runner.catalog.trials)
    (line,) = found.failed
    assert line.startswith("a step of breaks on digits: RuntimeError: not in training (test_estimate.py, line ")


def test_a_dry_run_tells_time_memory_and_disk(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--criteria", "snip", "--models", "lenet-300-100", "--seeds", "1", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "3 trials, 3 to run on" in shown
    for word in ("training", "evaluation", "scoring", "of memory", "in the results folder"):
        assert word in shown
    assert not Path("results").exists()


def test_the_time_left_counts_the_tests_after_every_epoch() -> None:
    catalog = resolve(sweep(epochs=4, train_fraction=0.1, batch_size=6, score_batch=9))
    trial = catalog.trials[0]
    forecast = Forecast(catalog, Choice(seconds_of={kind_of(trial): 3.0}), [trial])
    # 4 epochs of 24 examples, and of a third of the work for 60 more, in batches of 6 that take 3 seconds each
    assert forecast.left() == pytest.approx(4 * (24 + 60 / 3) / 6 * 3)
    forecast.reach(trial, 0.25)
    assert forecast.left() == pytest.approx(0.75 * 4 * (24 + 60 / 3) / 6 * 3)
    forecast.add(trial, 50.0)
    assert not forecast.missing
    assert forecast.left() == 0


def test_the_time_left_is_that_of_all_missing_trials_looked_at_one_by_one() -> None:
    """By the mean of finished ones of a kind, or else of their network, or else by measured steps; less what runs."""
    own: dict[str, Any] = {"models": ["lenet", "lenet-300-100"], "data": ["digits"]}
    catalog = resolve(sweep(criteria=["snip", "random"], seeds=20, epochs=2, **own))
    trials = catalog.trials
    choice = Choice(workers=2, seconds_of={kind_of(trial): 0.5 + len(trial.model) for trial in trials})
    forecast, random = Forecast(catalog, choice, trials), Random(0)
    missing, shares, seen = {one.identity: one for one in trials}, dict[str, float](), list[tuple[Trial, float]]()

    def of(trial: Trial) -> float:
        network = [(one, s) for one, s in seen if (one.data, one.model) == (trial.data, trial.model)]
        own = [s for one, s in network if one.method == trial.method]
        if found := own or [s for _, s in network]:
            return sum(found) / len(found) / choice.workers
        return forecast.expected(trial)

    while missing:
        trial = random.choice(list(missing.values()))
        if shares.get(trial.identity, 0) < 1 and random.random() < 0.5:
            shares[trial.identity] = min(1.0, shares.get(trial.identity, 0) + 0.5)
            forecast.reach(trial, shares[trial.identity])
        else:
            del missing[trial.identity]
            seen.append((trial, random.uniform(1, 9)))
            forecast.add(*seen[-1])
        expected = sum(of(one) * (1 - shares.get(one.identity, 0)) for one in missing.values())
        assert forecast.left() == pytest.approx(expected, abs=1e-9)


def test_the_time_left_takes_no_longer_for_more_trials() -> None:
    """Lines of it that are run, which a clock is not needed for."""

    def lines(seeds: int) -> int:
        catalog = resolve(sweep(criteria=["snip", "random"], seeds=seeds, epochs=0))
        forecast, ran = Forecast(catalog, Choice(), catalog.trials), 0

        def count(_frame: FrameType, event: str, _argument: object) -> Any:
            nonlocal ran
            ran += event == "line"
            return count

        sys.settrace(count)
        try:
            forecast.reach(catalog.trials[3], 0.5)
            forecast.add(catalog.trials[3], 1.0)
            forecast.left()
        finally:
            sys.settrace(None)
        return ran

    assert lines(50) == lines(2) > 10
