"""Scoring leaves no trace, and what a criterion returns is checked."""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pai_bench as pb
from pai_bench.errors import CriterionError
from pai_bench.pruning import Scores, gradients, prunable_parameters, weights
from pai_bench.pruning.guard import score_masked
from pai_bench.registry import CRITERIA

Example = tuple[nn.Module, pb.Batch]


def state(model: nn.Module) -> dict[str, Any]:
    """Everything about a model and the process that scoring must not change."""
    return {
        "tensors": {name: t.detach().clone() for name, t in model.state_dict().items()},
        "grads": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "training": {name: m.training for name, m in model.named_modules()},
        "hooks": {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()},
        "identity": {name: id(p) for name, p in model.named_parameters()},
        "random": (random.getstate(), str(np.random.get_state()), torch.get_rng_state()),
    }


def assert_same(before: Any, after: Any) -> None:
    """Equality, bit for bit, through dicts, sequences and tensors."""
    if isinstance(before, dict):
        assert before.keys() == after.keys()
        for key in before:
            assert_same(before[key], after[key])
    elif isinstance(before, Tensor):
        assert torch.equal(before, after)
    elif isinstance(before, tuple):
        for a, b in zip(before, after, strict=True):
            assert_same(a, b)
    else:
        assert before == after


def disturb(model: nn.Module) -> None:
    """Give a model some state worth keeping."""
    for i, (parameter, module) in enumerate(zip(model.parameters(), model.modules(), strict=False)):
        module.training = i % 2 == 0
        parameter.requires_grad_(i % 3 != 0)
        parameter.grad = torch.randn_like(parameter) if i % 2 else None
    model.register_forward_hook(lambda _m, _i, _o: None)


@dataclass(frozen=True)
class Vandal(pb.Criterion):
    """Does to the model whatever should not be done."""

    fails: bool = False

    def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
        random.random(), np.random.rand(), torch.rand(1)
        scores = gradients(model, batch)
        for tensor in (*weights(model).values(), *model.buffers()):
            tensor.zero_()
        for parameter in model.parameters():
            parameter.data.mul_(3)
            parameter.grad = torch.ones_like(parameter)
            parameter.requires_grad_(False)
        model.train().register_forward_hook(lambda _m, _i, _o: None)
        if self.fails:
            raise RuntimeError("vandal")
        return scores


@pytest.mark.parametrize("name", [plugin.name for plugin in CRITERIA.plugins()])
def test_scoring_leaves_no_trace(name: str, network: Example) -> None:
    model, batch = network
    disturb(model)
    before = state(model)
    pb.get_criterion(name).score(model, batch)
    pb.prune(model, batch, name, 0.5, schedule="exponential:steps=2")
    assert_same(before, state(model))


@pytest.mark.parametrize("fails", [False, True])
def test_a_vandal_leaves_no_trace(fails: bool, network: Example) -> None:
    model, batch = network
    disturb(model)
    before = state(model)
    mask = {name: torch.rand_like(p) > 0.5 for name, p in prunable_parameters(model).items()}
    torch.set_rng_state(before["random"][2])
    calls: list[Callable[[], Scores]] = [
        lambda: Vandal(fails=fails).score(model, batch),
        lambda: score_masked(Vandal(fails=fails), model, batch, mask),
    ]
    for call in calls:
        error, message = (RuntimeError, "vandal") if fails else (CriterionError, "Vandal changes the model while it")
        with pytest.raises(error, match=message):
            call()
    assert_same(before, state(model))


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
        def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
            seen[self.bn] = {type(m).__name__: m.training for m in model.modules()}
            seen["weight"] = model.get_parameter("0.weight").detach().clone()
            seen["dense"] = weights(model)["0.weight"]
            return weights(model)

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

        def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
            result: Scores = change({name: p.detach() + 10 for name, p in prunable_parameters(model).items()})
            return result

    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with pytest.raises(CriterionError, match=message):
        Broken().score(model, pb.Batch(torch.ones(1, 2), torch.tensor([0])))


def test_scores_come_in_the_models_order() -> None:
    @dataclass(frozen=True)
    class Backwards(pb.Criterion):
        def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
            return dict(reversed(list(weights(model).items())))

    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert list(Backwards().score(model, pb.Batch(torch.ones(1, 2), torch.tensor([0])))) == ["0.weight", "1.weight"]


def test_a_formula_may_use_another_criterions() -> None:
    @dataclass(frozen=True)
    class Twice(pb.Criterion):
        def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
            return {name: 2 * s for name, s in pb.get_criterion("magnitude").score(model, batch).items()}

    model = nn.Linear(2, 2)
    scores = Twice().score(model, pb.Batch(torch.ones(1, 2), torch.tensor([0])))
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
        def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
            for name in ("synflow", "grasp", "snip"):
                seen[name] = pb.get_criterion(name).score(model, batch)
            return seen["snip"]

    model, batch = network
    model.float()
    batch = pb.Batch(batch.inputs.float(), batch.targets)
    Both().score(model, batch)
    for name, scores in seen.items():
        assert_same(scores, pb.get_criterion(name).score(model, batch))


@dataclass(frozen=True)
class Changing(pb.Criterion):
    """Changes one thing on the network that it is given."""

    what: str = ""

    def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
        first = model.get_parameter("0.weight")
        changes: dict[str, Callable[[], Any]] = {
            "nothing": lambda: None,
            "weights": lambda: first.detach().mul_(2),
            "weights, by data": lambda: first.data.mul_(2),
            "another tensor": lambda: setattr(model[0], "weight", nn.Parameter(first.detach())),  # type: ignore[index]
            "requires_grad": lambda: first.requires_grad_(False),
            "training flag": lambda: model[1].train(),  # type: ignore[index]
            "hook": lambda: model[1].register_forward_hook(lambda _m, _i, _o: None),  # type: ignore[index]
        }
        changes[self.what]()
        return weights(model)


@pytest.mark.parametrize(
    ("what", "where"),
    [
        ("weights", "0.weight"),
        ("weights, by data", "0.weight"),
        ("another tensor", "0.weight"),
        ("requires_grad", "0.weight"),
        ("training flag", "1"),
        ("hook", "1"),
    ],
)
def test_a_formula_that_changes_the_network_is_named(what: str, where: str) -> None:
    model, batch = nn.Sequential(nn.Linear(2, 2), nn.Dropout()), pb.Batch(torch.ones(1, 2), torch.tensor([0]))
    before = state(model)
    Changing(what="nothing").score(model, batch)
    with pytest.raises(CriterionError, match=f"Changing changes the model while it scores it, in '{where}'"):
        Changing(what=what).score(model, batch)
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

        def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
            return weights(model)

    model, batch = nn.Linear(2, 2), pb.Batch(torch.ones(1, 2), torch.tensor([0]))
    before = state(model)
    scores = Prepared().score(model, batch)
    assert torch.equal(scores["weight"], model.weight.detach().double() + 1)
    pb.prune(model, batch, Prepared(), 0.5, schedule="exponential:steps=4")
    assert len(calls) == 2
    assert_same(before, state(model))


def test_the_inherited_and_the_mixed_in_formula_are_guarded() -> None:
    class Mixin:
        def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
            for parameter in model.parameters():
                parameter.data.zero_()
            return gradients(model, batch)

    class Mixed(Mixin, pb.Criterion):
        pass

    snip = type(pb.get_criterion("snip"))

    @dataclass(frozen=True)
    class Doubled(snip):  # type: ignore[misc, valid-type]
        normalised = False

        def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
            return {name: 2 * score for name, score in super().score(model, batch).items()}

    model, batch = nn.Linear(2, 2), pb.Batch(torch.ones(1, 2), torch.tensor([0]))
    before = model.weight.detach().clone()
    with pytest.raises(CriterionError, match="Mixed changes the model"):
        Mixed().score(model, batch)
    assert torch.equal(model.weight, before)
    doubled, single = Doubled().score(model, batch), pb.get_criterion("force:bn=eval").score(model, batch)
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
        def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
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
