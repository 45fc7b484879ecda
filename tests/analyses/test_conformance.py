"""The conformance suite passes for every registered criterion, and each of its checks can fail."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.analyses.conformance import (
    CHECKS,
    DATA_FREE,
    NETWORKS,
    PROPERTIES,
    STRUCTURED_CHECKS,
    check,
    example,
    run_check,
    run_checks,
    traces,
)
from pai_bench.analyses.conformance_during import DURING_CHECKS, ITERATIVE_CHECKS
from pai_bench.cli.entry import main
from pai_bench.scoring import IterativePruning
from pai_bench.support.registry import CRITERIA
from tests.analyses.broken_criteria import BROKEN, Drawing, Even, Infinite, Mislabelled, Restoring, Shares


@pytest.mark.parametrize("name", [plugin.name for plugin in CRITERIA.plugins()])
def test_every_criterion_passes(name: str) -> None:
    criterion, ran = pb.get_criterion(name), set()
    for result in run_checks(criterion):
        assert result.passed, result.message
        assert result.message == ""
        ran.add((result.check, result.network))
    checks = STRUCTURED_CHECKS if criterion.structured else CHECKS
    due = {*checks, *criterion.properties, *(() if criterion.uses_data else DATA_FREE)}
    due |= set(DURING_CHECKS) if criterion.during else set()
    due |= set(ITERATIVE_CHECKS) if isinstance(criterion, IterativePruning) else set()
    assert {check for check, _network in ran} == due
    assert {network for check, network in ran if check == "contract"} == set(NETWORKS)


@pytest.mark.parametrize(("broken", "name", "message"), BROKEN, ids=[cls.__name__ for cls, _, _ in BROKEN])
def test_a_broken_criterion_fails_exactly_its_check(broken: type[pb.Criterion], name: str, message: str) -> None:
    failed = [result for result in check(broken()) if not result.passed]
    assert {result.check for result in failed} == {name}
    assert any(message in result.message for result in failed), "\n".join(result.message for result in failed)


@pytest.mark.parametrize(
    ("criterion", "name", "message"),
    [
        (Restoring(), "masked", "removed: the formula writes to '1.weight', where the mask has removed weights"),
        (Shares(), "masked", "with '1.weight' removed: CriterionError: Shares gave "),
        (Mislabelled(), "no-side-effects", "score, on targets out of range, changes flags or hooks of "),
        (Even(), "conserves-flow", "the scores of '3.weight' sum to 1.00000001, those of '1.weight' to 1"),
        (Even(1e-10), None, ""),  # equal but for rounding
    ],
)
def test_what_one_network_shows(criterion: pb.Criterion, name: str | None, message: str) -> None:
    due = CHECKS | {name: PROPERTIES[name] for name in criterion.properties}
    results = [run_check(each, run, criterion, "bias-free-mlp") for each, (run, _) in due.items()]
    failed = {result.check: result.message for result in results if not result.passed}
    assert list(failed) == ([] if name is None else [name])
    assert message in "".join(failed.values())


# weights and biases; a weight that two layers share counts once
SIZES = {
    "mlp": 72 * 8 + 8 + 8 * 5 + 5 + 5 * 3 + 3,
    "cnn": 9 * 2 * 4 + 4 + 2 * 4 + 16 * 3 + 3,
    "residual": 9 * 2 * 2 + 2 + 2 * 2 + 72 * 3 + 3,
    "depthwise": 9 * 4 + 4 + 4 * 2 + 2 + 32 * 3 + 3,
    "lstm": 4 * 5 * (6 + 5) + 2 * 4 * 5 + 5 * 3 + 3,
    "transformer": 4 * (6 * 6 + 6) + (6 * 8 + 8) + (8 * 6 + 6) + 2 * 2 * 6 + 72 * 3 + 3,
    "tied": 6 * 6 + 2 * 6 + 72 * 3 + 3,
    "bias-free-mlp": 72 * 8 + 8 * 3,
    "bias-free-cnn": 9 * 2 * 4 + 9 * 4 * 4 + 16 * 3,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_and_batches_of_the_checks(name: str) -> None:
    (model, batch), (again, _) = example(name), example(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == SIZES[name]
    assert batch.inputs.shape == (12, 2, 6, 6)
    assert batch.targets.tolist() == [0, 1, 2] * 4
    for one, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
        assert one.dtype == torch.float64 or one.dim() == 0
        if one.dim() == 1:  # not where normalisation and biases begin
            assert 0.5 <= float(one.min()) <= float(one.max()) < 1.5
            assert one.numel() < 2 or one.unique().numel() > 1
    assert model(batch.inputs).shape == (12, 3)
    frozen = [key for key, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == (["5.weight", "5.bias"] if name == "tied" else [])
    for part in model.modules():
        if isinstance(part, nn.MultiheadAttention):
            assert (part.num_heads, part.batch_first) == (2, True)
        if isinstance(part, nn.LSTM):
            assert part.batch_first


def test_every_check_is_shown_to_fail() -> None:
    for structured, checks in ((False, (*CHECKS, *DATA_FREE, *PROPERTIES)), (True, (*STRUCTURED_CHECKS, *DATA_FREE))):
        assert {*checks} <= {name for cls, name, _ in BROKEN if cls.structured == structured}


def test_whatever_a_criterion_raises_is_a_failed_check() -> None:
    results = check(Infinite())
    assert not any(result.passed for result in results if result.check != "no-side-effects")
    assert {result.check for result in results} == set(CHECKS)
    assert all(0 < result.seconds < 60 for result in results)
    assert results[0].message.startswith(
        "Infinite on mlp: in torch.float64: CriterionError: Infinite gave infinite scores"
    )


def test_checking_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    check(Drawing())
    assert torch.equal(before, torch.get_rng_state())


FILE = """
from dataclasses import dataclass
from pai_bench.scoring import Criterion

@dataclass(frozen=True)
class Mine(Criterion):
    power: float = 1.0
    properties = ("conserves-flow",)
    def score(self, model, batch):
        return {name: weight.abs() ** self.power for name, weight in model.weights().items()}
"""


def test_the_verb_for_a_good_criterion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "magnitude"]) == 0
    out = capsys.readouterr().out
    for name in (*CHECKS, *DATA_FREE):
        assert name in out
    assert "mlp, cnn, residual" in out
    assert "magnitude: 54 checks passed" in out
    assert "failed" not in out


def test_the_verb_for_a_broken_criterion(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text(FILE)
    assert main(["check", "./mine.py:Mine:power=2"]) == 1
    out = capsys.readouterr().out
    assert "conserves-flow" in out
    assert out.count("the scores of '3.weight' sum to") == 1  # one row for both networks
    assert "bias-free-mlp, bias-free-cnn" in " ".join(out.split())
    assert ":power=2.0: 2 of 47 checks failed" in out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("magnitud", "unknown criterion 'magnitud': did you mean magnitude"),
        ("grasp:temp=1", "unknown option of grasp 'temp': did you mean temperature"),
        ("./mine.py:Mien", "unknown criterion class in mine.py 'Mien': did you mean Mine"),
        ("./yours.py:Mine", "no file yours.py to take the criterion 'Mine' from"),
    ],
)
def test_the_verb_for_an_unknown_name(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text(FILE)
    assert main(["check", name]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


TOUCHED: dict[str, Callable[[Any, pb.Batch], object]] = {
    "the inputs": lambda _, batch: batch.inputs.neg_(),
    "the targets": lambda _, batch: batch.targets.add_(1),
    "torch's random state": lambda *_: torch.rand(1),
    "Python's random state": lambda *_: random.random(),
    "numpy's random state": lambda *_: np.random.rand(),  # the old generator is what others draw from
    "the values of '0.weight'": lambda model, _: model[0].weight.data.neg_(),
    "the values of '1.running_mean'": lambda model, _: model[1].running_mean.add_(1),
    "the gradient of '0.weight'": lambda model, _: setattr(model[0].weight, "grad", torch.ones(3, 2)),
}


@pytest.mark.parametrize("what", TOUCHED)
def test_each_trace_of_scoring_is_found(what: str) -> None:
    model, batch = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), pb.Batch(torch.ones(2, 2), torch.arange(2))
    before = traces(model, batch)
    assert traces(model, batch) == before
    TOUCHED[what](model, batch)
    after = traces(model, batch)
    assert {name for name, state in before.items() if state != after[name]} == {what}
