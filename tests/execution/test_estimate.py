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
from pai_bench.cli.entry import main
from pai_bench.cli.progress import Forecast
from pai_bench.execution import estimate as module
from pai_bench.execution.autotune import WORKER
from pai_bench.execution.estimate import estimate, mask_bytes, time_score, training_flops
from pai_bench.execution.execution_plan import ExecutionPlan, kind_of
from pai_bench.experiment import recipe
from pai_bench.experiment.recipe import Recipe
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.support.timing import Measurement
from pai_bench.training.protocol import get_protocol
from tests.experiment.measured_scores import noted_scores
from tests.experiment.test_runner import sweep


def test_the_arithmetic_of_a_recipe_is_three_passes_of_every_example() -> None:
    grid = {"models": ("lenet-300-100",), "data": ("mnist",), "criteria": ("snip",), "sparsities": (0.9, 0.98)}
    made = Recipe("r", ({**grid, "seeds": 2, "epochs": 3, "batch_size": 100, "train_fraction": 0.5},))
    assert made.trials == 2 * 3
    assert training_flops(made) == 6 * 3 * 300 * 100 * 3 * (2 * 266_200)
    assert training_flops(Recipe("r", ({**grid, "data": ("folder:pets",), "epochs": 1},))) is None
    assert training_flops(Recipe("r", (grid,))) is None


def test_grids_of_a_recipe_share_their_dense_networks() -> None:
    grid = {"models": ("lenet",), "criteria": ("snip",), "sparsities": (0.9,), "seeds": 2}
    assert Recipe("r", ({**grid, "score_batch": 10}, {**grid, "score_batch": 100})).trials == 2 + 4
    assert Recipe("r", (grid, grid)).trials == 4
    assert Recipe("r", (grid, {**grid, "label_law": "exact", "score_labels": "noisy"})).trials == 4  # nothing changes
    assert Recipe("r", ({**grid, "epochs": 1}, {**grid, "epochs": 2})).trials == 8


def test_a_recipe_has_as_many_trials_as_it_resolves_to() -> None:
    loaded = recipe.load("quick")
    (grid,) = loaded.grids
    assert loaded.trials == len(resolve(pb.Sweep(**grid)).trials) == 3


def test_levels_of_iterative_pruning_are_trials_of_a_recipe_too() -> None:
    """0.2, 0.36, 0.488 and 0.5 of imp, beside three others; a variant is of the last level."""
    grid = {"criteria": ["imp", "snip"], "sparsities": [0.36, 0.5], "data": ["digits"], "models": ["lenet-300-100"]}
    grid |= {"seeds": 1, "device": "cpu"}
    for variants, count in ((["none"], 7), (["shuffle"], 8)):
        loaded = Recipe("r", ({**grid, "variants": variants},))
        assert loaded.trials == len(resolve(pb.Sweep(**grid, variants=variants)).trials) == count  # type: ignore[arg-type]


def test_an_estimate_has_the_size_of_what_is_found() -> None:
    sweep = pb.Sweep(models=["lenet-300-100"], criteria=["snip"], sparsities=[0.9], seeds=2, epochs=3, device="cpu")
    runner = Runner(resolve(sweep))
    found = estimate(runner, runner.catalog.trials)
    assert not found.failed
    records = [runner.run(trial) for trial in runner.catalog.trials]
    trained = sum(record.training.train_seconds or 0.0 for record in records)
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
    assert (found.training, found.evaluation) == (0, 0)
    assert found.memory == WORKER + runner.catalog.data["digits"].nbytes


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
    forecast = Forecast(catalog, ExecutionPlan(seconds_of={kind_of(trial): 3.0}), [trial])
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
    plan = ExecutionPlan(workers=2, seconds_of={kind_of(trial): 0.5 + len(trial.model.name) for trial in trials})
    forecast, random = Forecast(catalog, plan, trials), Random(0)
    missing, shares, seen = {one.identity: one for one in trials}, dict[str, float](), list[tuple[Trial, float]]()

    def of(trial: Trial) -> float:
        network = [(one, s) for one, s in seen if (one.data, one.model) == (trial.data, trial.model)]
        own = [s for one, s in network if one.method == trial.method]
        if found := own or [s for _, s in network]:
            return sum(found) / len(found) / plan.workers
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
        forecast, ran = Forecast(catalog, ExecutionPlan(), catalog.trials), 0

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


@pytest.mark.parametrize("places", [2**19, 100])
def test_an_estimate_by_hand(places: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four steps an epoch of half a second, for three epochs; tests of 60 examples; scores of two seconds."""
    criteria = ["random", "snip-it"]
    runner = Runner(resolve(sweep(criteria=criteria, schedule="linear:steps=3", sparsities=[0.5, 0.9], batch_size=60)))
    missing = runner.catalog.trials
    monkeypatch.setattr(module, "SAMPLE_SIZE", places)
    monkeypatch.setattr("pai_bench.execution.processes.choose", lambda _runner, _missing: ExecutionPlan(workers=2))
    monkeypatch.setattr(module, "measured_step", lambda *_arguments: (0.5, 7_000))
    monkeypatch.setattr(module, "time_score", lambda _runner, _trial: 2.0)
    found = estimate(runner, missing)
    assert found.failed == ()
    assert found.training == 10 * 3 * 4 * 0.5 / 2  # ten trials by two workers
    assert found.evaluation == pytest.approx(10 * 3 * (60 / 60 / 3) * 0.5 / 2)
    assert found.scoring == 8 * 3 * 2.0 / 2  # eight pruned ones in three cuts
    assert found.seconds == found.training + found.evaluation + found.scoring
    data = runner.catalog.data["blobs"].nbytes
    assert data == 300 * (5 * 4 + 8)
    assert found.memory == 2 * (7_000 + data + WORKER)
    # a record, three epochs, two layers; of 128 weights at 0.5 a bit each, at 0.9 1.2 times its entropy; in base 64
    sample, whole = min(places, 128), 0 if places > 128 else 8 * 128 / 8
    masks = 4 * sample / 6 + 4 * 1.2 * 0.4689956 * sample / 6
    assert found.disk == int(10 * (4_000 + 3 * 120 + 2 * 250) + masks + whole)


def test_what_cannot_be_scored_or_stored_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(resolve(sweep(criteria=["random", "snip"], seeds=1)))

    def score(_runner: Runner, trial: Trial) -> float:
        if trial.criterion_name == "snip":
            raise KeyError("gone")
        return 3.0

    def sizes(_runner: Runner, _trial: Trial) -> list[int]:
        raise ValueError("no sizes")

    monkeypatch.setattr("pai_bench.execution.processes.choose", lambda _runner, _missing: ExecutionPlan())
    monkeypatch.setattr(module, "measured_step", lambda *_arguments: (0.5, 7_000))
    monkeypatch.setattr(module, "time_score", score)
    monkeypatch.setattr(module, "weight_sizes", sizes)
    found = estimate(runner, runner.catalog.trials)
    assert (found.scoring, found.disk) == (3.0, 0)
    assert [line.partition(" (")[0] for line in found.failed] == [
        "the records of tiny on blobs: ValueError: no sizes",
        "a score of snip on tiny: KeyError: 'gone'",
    ]


@pytest.mark.parametrize(("sparsity", "size"), [(0.0, 0.0), (0.5, 100.0), (0.01, 600 * 1.2 * 0.0807931 / 6)])
def test_the_size_of_a_mask(sparsity: float, size: float) -> None:
    """At most a bit a place: no compression makes it longer. Six bits fit a byte of text."""
    assert mask_bytes(600, sparsity) == pytest.approx(size, rel=1e-5)


def test_arithmetic_without_what_it_needs_and_of_what_a_recipe_shortens() -> None:
    grid: dict[str, Any] = {"models": ("lenet-300-100",), "data": ("mnist",), "criteria": ("snip",), "seeds": 1}
    grid |= {"sparsities": (0.9,), "batch_size": 100}
    of = 3 * 2 * 266_200
    assert training_flops(Recipe("r", ({**grid, "epochs": 2, "validation": 0.1},))) == 2 * 2 * 54_000 * of
    assert training_flops(Recipe("r", ({**grid, "epochs": 4, "budget": 0.5},))) == 2 * 2 * 60_000 * of
    little = {**grid, "epochs": 2, "train_fraction": 0.01}
    assert training_flops(Recipe("r", (little,))) == 2 * 2 * 600 * of
    assert training_flops(Recipe("r", ({**little, "length": "steps"},))) == 2 * 2 * 60_000 * of
    short = training_flops(Recipe("r", ({**grid, "protocol": "short", "batch_size": None},)))
    protocol = get_protocol("short")
    assert short == 2 * protocol.steps(60_000) * protocol.batch_size * of


def test_a_score_is_timed_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = noted_scores(monkeypatch, module, Measurement(7.0))
    runner = Runner(resolve(sweep(seeds=1)))
    assert time_score(runner, runner.catalog.trials[1]) == 7.0
    assert notes == ["score", ("begin", None), "score", "end"]
