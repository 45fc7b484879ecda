"""What is measured of scoring, field by field, and what a bare pass computes."""

import math
from typing import Any

import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.analyses import cost as module
from pai_bench.analyses.cost import bare, measure_cost, measure_step
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.results import Environment
from pai_bench.scoring import Scorer
from pai_bench.support.environment import describe
from pai_bench.support.timing import Timing
from pai_bench.training.trainer import ENGINE
from tests.experiment.test_run_records import normed
from tests.experiment.test_runner import sweep, tiny


def test_a_cost_field_by_field(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: dict[str, Any] = {"criteria": ["snip:bn=train"], "schedule": "linear:steps=4", "models": [normed]}
    runner = Runner(resolve(sweep(**keys, seeds=1, keep_last=True)), "pai-bench time")
    trial, asked = runner.catalog.trials[1], list[dict[str, Any]]()
    scoring = Timing((0.2, 0.4, 0.6, 1.0), (0.1, 0.1, 0.2, 0.1), 1000, 900, False, 0.3, 0.05)
    answers = iter([scoring, Timing((2.0, 4.0), (), 5000, None, True, 1.5)])

    scored, score = [0], Scorer.score

    def counted(self: Scorer, *arguments: Any) -> Any:
        scored[-1] += 1
        return score(self, *arguments)

    def repeat(work: Any, device: torch.device, **options: Any) -> Timing:
        work()
        scored.append(0)
        asked.append(options)
        return next(answers)

    monkeypatch.setattr(module, "repeat", repeat)
    monkeypatch.setattr(Scorer, "score", counted)
    found = measure_cost(runner, trial, 0.25, rounds=4, budget=9.0)
    assert scored == [1, 4, 0]  # one score, and a whole pruning of four cuts
    assert [(one["rounds"], one["budget"]) for one in asked] == [(4, 9.0)] * 2
    assert [one.get("floor") is None for one in asked] == [False, True]
    assert (found.weights, found.cuts, found.batch_norm, found.step_seconds) == (80, 4, "train", 0.25)
    assert (found.rounds, found.cold, found.seconds, found.peak_bytes) == (4, False, 0.5, 1000)
    assert found.iqr == pytest.approx(0.7 - 0.35)
    assert found.floor_seconds == pytest.approx(0.1)
    assert (found.floor_peak_bytes, found.device_seconds, found.floor_device_seconds) == (900, 0.3, 0.05)
    assert (found.prune_rounds, found.prune_cold, found.prune_seconds, found.prune_iqr) == (2, True, 3.0, 1.0)
    assert (found.prune_peak_bytes, found.prune_device_seconds) == (5000, 1.5)
    assert (found.trial, found.device) == (trial.configuration(), "cpu")
    assert found.environment == Environment(**describe(torch.device("cpu")))
    assert found.provenance.command == "pai-bench time"


@pytest.mark.parametrize(("criterion", "model"), [("snip", tiny), ("magnitude", normed)])
def test_batch_norm_is_not_named_where_it_does_not_matter(
    criterion: str, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(resolve(sweep(criteria=[criterion], seeds=1, models=[model])))
    asked: list[Any] = []

    def repeat(*_arguments: Any, **options: Any) -> Timing:
        asked.append((options["rounds"], options["budget"]))
        return Timing((1.0,))

    monkeypatch.setattr(module, "repeat", repeat)
    found = measure_cost(runner, runner.catalog.trials[1], 1.0)
    assert found.batch_norm is None
    assert math.isnan(found.floor_seconds)  # without a floor
    assert asked == [(None, 30.0)] * 2  # as often as there is time for, within half a minute each


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_bare_pass_has_batch_norm_in_the_mode_of_the_criterion(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout is off, score batches go one by one, and only what is scored has gradients."""
    seen, wanted, followed = list[tuple[str, bool, int]](), list[list[tuple[int, ...]]](), list[bool]()
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))
    for layer in (model[1], model[2]):
        layer.register_forward_hook(lambda m, i, _o: seen.append((type(m).__name__, m.training, len(i[0]))))
    model[1].register_forward_hook(lambda _m, _i, output: followed.append(output.requires_grad))
    grad = torch.autograd.grad

    def spied(output: Any, inputs: Any) -> Any:
        wanted.append([tuple(one.shape) for one in inputs])
        return grad(output, inputs)

    monkeypatch.setattr(torch.autograd, "grad", spied)
    batch = pb.Batch(torch.randn(6, 5), torch.arange(6) % 3, batches=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    bare(model, batch, pb.get_criterion("snip", bn=mode), ["3.weight"])()
    assert seen == [("BatchNorm1d", mode == "train", 3), ("Dropout", False, 3)] * 2
    assert wanted == [[(3, 4)]] * 2
    assert followed == [False] * 2
    bare(model, batch, pb.get_criterion("snip", bn=mode))()
    assert wanted[2:] == [[(4, 5), (3, 4)]] * 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_a_training_step_is_that_of_one_network_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, asked = Runner(resolve(sweep(seeds=1, epochs=0))), list[Any]()

    def step_seconds(_runner: Runner, trial: Any, networks: int, engine: Any, *, seconds: float) -> tuple[float, int]:
        asked.extend([trial.protocol.epochs, networks, engine, seconds])
        return 0.125, 77

    monkeypatch.setattr(module, "step_seconds", step_seconds)
    assert measure_step(runner, runner.catalog.trials[0]) == 0.125
    assert asked == [1, 1, ENGINE, 1.0]
