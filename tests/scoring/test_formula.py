"""What a formula sees, what it may not change, and what of its scores is checked."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pai_bench as pb
from pai_bench.scoring import MaskedModel, Scores
from pai_bench.scoring.criterion import score_masked
from pai_bench.support.errors import CriterionError
from tests.scoring.traces import assert_same, state

Example = tuple[nn.Module, pb.Batch]


def test_scoring_works_without_grad_and_in_inference_mode(network: Example) -> None:
    model, batch = network
    expected = pb.get_criterion("snip").score(model, batch)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert_same(expected, pb.get_criterion("snip").score(model, batch))


def test_modes_and_masked_weights_are_what_the_formula_sees() -> None:
    seen: dict[str, Any] = {}

    @dataclass(frozen=True)
    class Look(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
            seen[self.bn] = {type(m).__name__: m.training for m in model.modules()}
            seen["weight"] = model.get_parameter("0.weight").detach().clone()
            seen["dense"] = model.weights()["0.weight"]
            return model.weights()

    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)).train()
    batch = pb.Batch(torch.randn(3, 2), torch.tensor([0, 1, 0]))
    mask = {"0.weight": torch.tensor([[True, False], [False, True]])}
    score_masked(Look(bn="train"), model, batch, mask)
    score_masked(Look(bn="eval"), model, batch, mask)
    assert seen["train"] == {"Sequential": False, "Linear": False, "BatchNorm1d": True, "Dropout": False}
    assert not any(seen["eval"].values())
    assert torch.equal(seen["weight"], model.get_parameter("0.weight") * mask["0.weight"])
    assert torch.equal(seen["dense"], model.get_parameter("0.weight"))


def _without(scores: Scores) -> Scores:
    scores.popitem()
    return scores


def _with(name: str, change: Callable[[Tensor], Any]) -> Callable[[Scores], Scores]:
    return lambda scores: scores | {name: change(scores[name])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without, r"broken gave no score for '2.weight'"),
        (lambda s: s | {"bias": torch.ones(2)}, r"'bias', which is not a prunable parameter"),
        (_with("0.weight", lambda t: t[0]), r"broken scored '0.weight' with shape \(2,\).*\(2, 2\)"),
        (_with("0.weight", lambda t: t.long()), r"dtype torch.int64"),
        (_with("2.weight", lambda t: t * torch.nan), r"broken gave NaN scores in '2.weight'"),
        (_with("2.weight", lambda t: t / 0), r"broken gave infinite scores in '2.weight'"),
        (lambda s: list(s.values()), r"broken returned list"),
    ],
)
def test_what_comes_back_is_checked(change: Callable[[Scores], Any], message: str) -> None:
    @dataclass(frozen=True)
    class Broken(pb.Criterion):
        name = "broken"

        def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
            result: Scores = change({name: p.detach() + 10 for name, p in model.prunable.items()})
            return result

    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with pytest.raises(CriterionError, match=message):
        pb.get_criterion(Broken()).score(model, pb.Batch(torch.ones(1, 2), torch.tensor([0])))


def test_scores_come_in_the_models_order() -> None:
    @dataclass(frozen=True)
    class Backwards(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
            return dict(reversed(list(model.weights().items())))

    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert list(pb.get_criterion(Backwards()).score(model, pb.Batch(torch.ones(1, 2), torch.tensor([0])))) == [
        "0.weight",
        "1.weight",
    ]


def test_a_formula_may_use_another_criterions() -> None:
    @dataclass(frozen=True)
    class Twice(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
            return {name: 2 * s for name, s in pb.get_criterion("magnitude").score(model, batch).items()}

    model = nn.Linear(2, 2)
    scores = pb.get_criterion(Twice()).score(model, pb.Batch(torch.ones(1, 2), torch.tensor([0])))
    assert torch.equal(scores["weight"], 2 * model.weight.detach().abs())


def test_seeds_reach_the_criterion() -> None:
    model, batch = nn.Linear(5, 5), pb.Batch(torch.ones(1, 5), torch.tensor([0]))
    score = pb.get_criterion("random")
    assert_same(score_masked(score, model, batch, seed=1), score_masked(score, copy.deepcopy(model), batch, seed=1))
    assert not torch.equal(
        score_masked(score, model, batch, seed=1)["weight"],
        score_masked(score, model, batch, seed=2)["weight"],
    )
    fixed = pb.get_criterion("random:seed=1")
    assert_same(score_masked(fixed, model, batch, seed=2), score_masked(score, model, batch, seed=1))


def test_criteria_inside_a_criterion_do_not_disturb_each_other(network: Example) -> None:
    """SynFlow makes its replica absolute and float64; SNIP after it, and batch-norm modes, are as if alone."""
    seen: dict[str, Scores] = {}

    @dataclass(frozen=True)
    class Both(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
            for name in ("synflow", "grasp", "snip"):
                seen[name] = pb.get_criterion(name).score(model, batch)
            return seen["snip"]

    model, batch = network
    model.float()
    batch = pb.Batch(batch.inputs.float(), batch.targets)
    pb.get_criterion(Both()).score(model, batch)
    for name, scores in seen.items():
        assert_same(scores, pb.get_criterion(name).score(model, batch))


@dataclass(frozen=True)
class Changing(pb.Criterion):
    """Changes one thing on the network that it is given."""

    what: str = ""

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        first = model.get_parameter("0.weight")
        changes: dict[str, Callable[[], Any]] = {
            "nothing": lambda: None,
            "weights": lambda: first.detach().mul_(2),
            "weights, by data": lambda: first.data.mul_(2),
            "another tensor": lambda: setattr(model.network[0], "weight", nn.Parameter(first.detach())),  # type: ignore[index]
            "bias removed": lambda: setattr(model.network[0], "bias", None),  # type: ignore[index]
            "requires_grad": lambda: first.requires_grad_(False),
            "training flag": lambda: model.network[1].train(),  # type: ignore[index]
            "hook": lambda: model.network[1].register_forward_hook(lambda _m, _i, _o: None),  # type: ignore[index]
        }
        changes[self.what]()
        return model.weights()


@pytest.mark.parametrize(
    ("what", "where"),
    [
        ("weights", "0.weight"),
        ("weights, by data", "0.weight"),
        ("another tensor", "0.weight"),
        ("bias removed", "0.bias"),
        ("requires_grad", "0.weight"),
        ("training flag", "1"),
        ("hook", "1"),
    ],
)
def test_a_formula_that_changes_the_network_is_named(what: str, where: str) -> None:
    model, batch = nn.Sequential(nn.Linear(2, 2), nn.Dropout()), pb.Batch(torch.ones(1, 2), torch.tensor([0]))
    before = state(model)
    pb.get_criterion(Changing(what="nothing")).score(model, batch)
    with pytest.raises(CriterionError, match=f"Changing changes the model while it scores it, in '{where}'"):
        pb.get_criterion(Changing(what=what)).score(model, batch)
    with pytest.raises(CriterionError, match="changes the model"):
        pb.prune(model, batch, Changing(what=what), 0.5)
    assert_same(before, state(model))


def test_changes_before_scoring_are_made_once_and_on_the_copy() -> None:
    calls: list[int] = []

    @dataclass(frozen=True)
    class Prepared(pb.Criterion):
        def prepare(self, model: nn.Module) -> None:
            calls.append(1)
            for parameter in model.parameters():
                parameter.data = parameter.data.double().add_(1)

        def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
            return model.weights()

    model, batch = nn.Linear(2, 2), pb.Batch(torch.ones(1, 2), torch.tensor([0]))
    before = state(model)
    scores = pb.get_criterion(Prepared()).score(model, batch)
    assert torch.equal(scores["weight"], model.weight.detach().double() + 1)
    pb.prune(model, batch, Prepared(), 0.5, schedule="exponential:steps=4")
    assert len(calls) == 2
    assert_same(before, state(model))


def test_the_inherited_and_the_mixed_in_formula_are_guarded() -> None:
    class Mixin:
        def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
            for parameter in model.parameters():
                parameter.data.zero_()
            return model.gradients(batch)

    class Mixed(Mixin, pb.Criterion):
        pass

    snip = type(pb.get_criterion("snip"))

    @dataclass(frozen=True)
    class Doubled(snip):  # type: ignore[misc, valid-type]
        normalised = False

        def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
            return {name: 2 * score for name, score in super().score(model, batch).items()}

    model, batch = nn.Linear(2, 2), pb.Batch(torch.ones(1, 2), torch.tensor([0]))
    before = model.weight.detach().clone()
    with pytest.raises(CriterionError, match="Mixed changes the model"):
        pb.get_criterion(Mixed()).score(model, batch)
    assert torch.equal(model.weight, before)
    doubled, single = (
        pb.get_criterion(Doubled()).score(model, batch),
        pb.get_criterion("force:bn=eval").score(model, batch),
    )
    assert torch.equal(doubled["weight"], 2 * single["weight"])


def test_a_subclass_of_a_registered_criterion_is_another_criterion() -> None:
    snip = type(pb.get_criterion("snip"))

    @dataclass(frozen=True)
    class Mine(snip):  # type: ignore[misc, valid-type]
        pass

    assert str(Mine()) == "Mine"
    assert Mine.source == ""


def test_a_criterion_inside_another_draws_from_the_trials_seed() -> None:
    @dataclass(frozen=True)
    class Hybrid(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
            return pb.get_criterion("random").score(model, batch)

    model, batch = nn.Linear(5, 5), pb.Batch(torch.ones(1, 5), torch.tensor([0]))
    for seed in (0, 1):
        expected = score_masked(pb.get_criterion("random"), model, batch, seed=seed)
        assert_same(score_masked(Hybrid(), model, batch, seed=seed), expected)


def test_options_of_any_type() -> None:
    @dataclass(frozen=True)
    class Odd(Changing):
        anything: Any = 1
        number: int | float = 0.5
        several: tuple[int, ...] = (1, 2)

    assert Odd(number=3).number == 3
    assert Odd().number == 0.5
    assert Odd(several=(3,)).several == (3,)


def test_one_tensor_for_two_names_is_normalised_once() -> None:
    @dataclass(frozen=True)
    class Same(pb.Criterion):
        normalised = True

        def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
            tensor = torch.ones(2, 2)
            return dict.fromkeys(model.prunable, tensor)

    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    scores = pb.get_criterion(Same()).score(model, pb.Batch(torch.ones(1, 2), torch.tensor([0])))
    assert all(torch.equal(score, torch.full((2, 2), 1 / 8)) for score in scores.values())


def test_normalisation_counts_what_the_mask_keeps() -> None:
    model, batch = nn.Linear(6, 2).double(), pb.Batch(torch.randn(4, 6).double(), torch.arange(4) % 2)
    mask = {"weight": torch.rand(2, 6) < 0.5}
    scores = score_masked(pb.get_criterion("iter-snip"), model, batch, mask)
    assert float(scores["weight"][mask["weight"]].sum()) == pytest.approx(1)
    large = pb.Batch(
        batch.inputs.float(), batch.targets, loss=lambda out, y: 1e38 * nn.functional.cross_entropy(out, y)
    )
    assert float(pb.get_criterion("snip").score(model.float(), large)["weight"].sum()) == pytest.approx(1, rel=1e-3)


def test_other_weights_that_a_formula_changes_are_named() -> None:
    @dataclass(frozen=True)
    class Bias(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
            model.get_parameter("0.bias").data.add_(100)
            return model.weights()

    model, batch = nn.Sequential(nn.Linear(2, 2)), pb.Batch(torch.ones(1, 2), torch.tensor([0]))
    with pytest.raises(CriterionError, match=r"Bias changes the model while it scores it, in '0\.bias'"):
        pb.get_criterion(Bias()).score(model, batch)
