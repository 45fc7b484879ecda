"""The conformance suite passes for every registered criterion, and each of its checks can fail."""

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

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
from pai_bench.cli.entry import main
from pai_bench.masks import Linear, Schedule
from pai_bench.scoring import MaskedModel, Scores
from pai_bench.scoring.functions import weights
from pai_bench.support.registry import CRITERIA


def unguarded(cls: type[pb.Criterion]) -> type[pb.Criterion]:
    """A criterion whose formula is public as it is, so that it sees the caller's own model."""
    cls.score = cls._formula_behind_score  # type: ignore[method-assign]
    return cls


@dataclass(frozen=True)
class Magnitude(pb.Criterion):
    """Does nothing wrong."""

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        return {name: weight.abs() for name, weight in model.weights().items()}


@unguarded
@dataclass(frozen=True)
class Backwards(pb.Criterion):
    def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
        return dict(reversed(weights(model).items()))


@dataclass(frozen=True)
class DoubleOnly(pb.Criterion):
    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        factor = torch.eye(1, dtype=torch.float64)
        return {name: (w.view(-1, 1) @ factor).view_as(w) for name, w in model.weights().items()}


@dataclass(frozen=True)
class Infinite(pb.Criterion):
    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        return {name: weight / 0 for name, weight in model.weights().items()}


@dataclass(frozen=True)
class Drifting(pb.Criterion):
    """Its scores grow with every call."""

    calls: ClassVar = itertools.count()

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        return {name: weight + next(self.calls) for name, weight in model.weights().items()}


@unguarded
@dataclass(frozen=True)
class Drawing(pb.Criterion):
    """Draws from the caller's random state."""

    def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
        torch.rand(1)
        return weights(model)


@unguarded
@dataclass(frozen=True)
class Careless(pb.Criterion):
    """Leaves gradients, a flag and a hook behind, and then fails where the batch does not fit."""

    def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
        if batch.inputs.shape[-1] == 1:
            model.eval().register_forward_hook(lambda _module, _inputs, _output: None)
            next(model.parameters()).grad = None
            raise RuntimeError("does not fit")
        return weights(model)


@dataclass(frozen=True)
class Quotaless(Magnitude):
    """Divides the budget by proportions that it does not give."""

    scope: ClassVar = "quota"


@dataclass(frozen=True)
class TooDeep(Linear):
    def densities(self, density: float) -> list[float]:
        return [density / 2]


@dataclass(frozen=True)
class Overshooting(Magnitude):
    schedule: ClassVar[Schedule] = TooDeep()


@dataclass(frozen=True)
class Inverse(pb.Criterion):
    """Cannot be computed where a weight is removed."""

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        return {name: 1 / model.get_parameter(name).detach() for name in model.weights()}


@dataclass(frozen=True)
class Doubling(pb.Criterion):
    """Changes the weights once some are removed, by a way that leaves no trace."""

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        found = {name: model.get_parameter(name) for name in model.weights()}
        if any(bool((weight == 0).any()) for weight in found.values()):
            for weight in found.values():
                weight.data.mul_(2)
        return {name: weight.detach().abs() for name, weight in found.items()}


@dataclass(frozen=True)
class Restoring(pb.Criterion):
    """Gives removed weights a value."""

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        for name in model.weights():
            weight = model.get_parameter(name)
            weight.data.masked_fill_(weight.data == 0, 1.0)
        return {name: weight.abs() for name, weight in model.weights().items()}


@dataclass(frozen=True)
class Shares(pb.Criterion):
    """Cannot be computed where a whole layer is removed."""

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        found = {name: model.get_parameter(name).detach().abs() for name in model.weights()}
        return {name: weight / weight.sum() for name, weight in found.items()}


@unguarded
@dataclass(frozen=True)
class Mislabelled(pb.Criterion):
    """Leaves a flag behind where labels do not fit."""

    def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
        if int(batch.targets.max()) > 2:
            model.eval()
        return weights(model)


@dataclass(frozen=True)
class Even(pb.Criterion):
    """Layers whose scores sum to 1 but for a share `off`."""

    off: float = 1e-8
    properties: ClassVar[tuple[str, ...]] = ("conserves-flow",)

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        sums = (1 + self.off * i for i in range(9))
        return {name: torch.full_like(w, next(sums) / w.numel()) for name, w in model.weights().items()}


@dataclass(frozen=True)
class Curious(pb.Criterion):
    uses_data: ClassVar[bool] = False

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        return model.saliencies(batch, lambda _w, g, _loss: g.abs_())


@dataclass(frozen=True)
class UpsideDown(pb.Criterion):
    properties: ClassVar[tuple[str, ...]] = ("keeps-the-loss",)

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        return model.saliencies(batch, lambda w, g, _loss: g.mul_(w).abs_().neg_())


@dataclass(frozen=True)
class Mixed(pb.Criterion):
    properties: ClassVar[tuple[str, ...]] = ("loss-scale",)

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        return model.saliencies(batch, lambda w, g, _loss: g.abs_() + w.abs())


@dataclass(frozen=True)
class Leaking(Magnitude):
    properties: ClassVar[tuple[str, ...]] = ("conserves-flow",)


@dataclass(frozen=True)
class Boasting(Magnitude):
    properties: ClassVar[tuple[str, ...]] = ("wins",)


BROKEN: list[tuple[type[pb.Criterion], str, str]] = [
    (
        Backwards,
        "contract",
        "Backwards on mlp: in torch.float64: scores come in the order 5.weight, 3.weight, 1.weight",
    ),
    (DoubleOnly, "contract", "DoubleOnly on cnn: in torch.float32: RuntimeError: "),
    (Drifting, "deterministic", "Drifting on lstm: the scores differ when computed again, in '1.weight_ih_l0'"),
    (Drawing, "no-side-effects", "Drawing on tied: score changes torch's random state; "),
    (
        Careless,
        "no-side-effects",
        "score, on inputs that do not fit, changes the gradient of '1.weight', flags or hooks",
    ),
    (Quotaless, "exact-count", "Quotaless on cnn: UserError: Quotaless has no quota"),
    (
        Overshooting,
        "exact-count",
        "sparsity 0.8, scope global, schedule linear:steps=100: 63 of 631 connections are kept, ",
    ),
    (
        Inverse,
        "masked",
        "Inverse on mlp: with half of the weights removed: CriterionError: Inverse gave infinite scores",
    ),
    (
        Doubling,
        "masked",
        "Doubling on mlp: with half of the weights removed: the formula changes the weights of '1.weight' under a mask",
    ),
    (
        Curious,
        "data-free",
        "Curious on mlp: the scores depend on the batch, although uses_data is False, in '1.weight'",
    ),
    (UpsideDown, "keeps-the-loss", "UpsideDown on cnn: without the tenth of the weights that score lowest the loss"),
    (Mixed, "loss-scale", "Mixed on residual: the mask changes when the loss is multiplied by 10, in '0.0.weight'"),
    (Leaking, "conserves-flow", "Leaking on bias-free-cnn: the scores of '2.weight' sum to "),
    (Boasting, "wins", "Boasting: unknown property 'wins'; known are keeps-the-loss, loss-scale, conserves-flow"),
]


@pytest.mark.parametrize("name", [plugin.name for plugin in CRITERIA.plugins()])
def test_every_criterion_passes(name: str) -> None:
    criterion, ran = pb.get_criterion(name), set()
    for result in run_checks(criterion):
        assert result.passed, result.message
        assert result.message == ""
        ran.add((result.check, result.network))
    due = {*CHECKS, *criterion.properties, *(() if criterion.uses_data else DATA_FREE)}
    due = {*STRUCTURED_CHECKS} if criterion.structured else due
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
    assert {*CHECKS, *DATA_FREE, *PROPERTIES} <= {name for _, name, _ in BROKEN}


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
