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
from pai_bench.pruning import Scorer, Scores, gradients, prunable_parameters, weights
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


class Cycle(nn.Module):
    """Holds itself, so that its copies live until the garbage collector comes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.me = [self]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(x)
        return logits


@pytest.mark.parametrize("fails", [False, True])
def test_the_callers_memory_stays_where_it_is(fails: bool) -> None:
    """A numpy view taken before is still the weight afterwards, whatever is kept of the scoring."""

    @dataclass(frozen=True)
    class Keeps(pb.Criterion):
        def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
            kept.append((model, weights(model)))
            if fails:
                raise RuntimeError("kept")
            return weights(model)

    kept: list[Any] = []
    model, batch = Cycle(), pb.Batch(torch.ones(1, 4), torch.tensor([0]))
    view, address = model.fc.weight.detach().numpy(), model.fc.weight.data_ptr()
    try:
        mask = pb.prune(model, batch, Keeps(), 0.5)
        scores = Keeps().score(model, batch)
    except RuntimeError as error:
        kept.append(error)
        mask, scores = pb.Mask({"fc.weight": torch.zeros(3, 4, dtype=torch.bool)}), None
    before = view.copy()
    held = weights(model)
    del kept[1:]
    kept[0] = kept[0][0]  # the copy of the network, not what weights() gave
    mask.apply_(model)
    assert model.fc.weight.data_ptr() == address
    assert np.array_equal(view, model.fc.weight.detach().numpy())
    if scores is not None:  # what is returned is the caller's own
        assert np.array_equal(scores["fc.weight"].numpy(), before)
    assert np.array_equal(held["fc.weight"].numpy(), before)


def test_weights_that_are_views_of_one_buffer() -> None:
    flat = torch.randn(40)
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Linear(5, 4, bias=False))
    for layer, part in zip(model, flat.split(20), strict=True):
        layer.weight.data = part.view(layer.weight.shape)
    batch = pb.Batch(torch.randn(3, 4), torch.arange(3))
    own = copy.deepcopy(model)
    before = flat.clone()
    one, other = (pb.prune(m, batch, "force", 0.5, schedule="linear:steps=3") for m in (model, own))
    assert all(torch.equal(one[name], other[name]) for name in one)
    one.apply_(model)
    assert flat.count_nonzero() == 20
    assert torch.equal(flat[flat != 0], before[flat != 0])


def test_numpy_strided_and_decorated_parameters() -> None:
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[0].weight = nn.Parameter(torch.from_numpy(np.ones((3, 4), dtype=np.float32)))
    model[1].weight = nn.Parameter(torch.randn(3, 4).t())
    model[2].weight = nn.Parameter(torch.ones(1, 1).expand(4, 4))
    model[2].weight.note = "mine"  # type: ignore[attr-defined]
    batch = pb.Batch(torch.randn(3, 4), torch.arange(3))
    assert pb.prune(model, batch, "iter-snip", 0.5, schedule="linear:steps=3").kept == 20
    seen: list[Any] = []

    @dataclass(frozen=True)
    class Look(pb.Criterion):
        def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
            seen.append(model.get_parameter("2.weight").note)  # type: ignore[attr-defined]
            return weights(model)

    Look().score(model, batch)
    assert seen == ["mine"]


def test_a_network_that_keeps_its_last_output_can_be_scored() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)
            self.last: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            self.last = self.fc(x)
            return self.last

    model, batch = Keeps(), pb.Batch(torch.randn(3, 4), torch.arange(3))
    expected = pb.get_criterion("snip").score(model, batch)
    model(batch.inputs)
    last = model.last
    assert_same(expected, pb.get_criterion("snip").score(model, batch))
    assert model.last is last


def test_buffers_that_a_forward_pass_replaces_start_anew() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.scale: Tensor
            self.register_buffer("scale", torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.fc(x) * self.scale
            self.scale = self.scale * 0.5
            return logits

    model, batch = Counts(), pb.Batch(torch.randn(4, 2), torch.arange(4) % 2)
    with Scorer(pb.get_criterion("force:bn=eval"), model) as scorer:
        assert_same(scorer.score(batch), scorer.score(batch))
    assert model.scale.item() == 1


def test_draws_and_queued_seeds_leave_no_trace() -> None:
    """A draw that seeds torch, and the seed that torch keeps for CUDA until it is initialised."""
    model, batch = nn.Linear(3, 2), pb.Batch(torch.randn(4, 3), torch.arange(4) % 2)

    def draw(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Linear(3, 2)

    torch.manual_seed(777)
    queued = str(torch.cuda._lazy_seed_tracker.get_calls())
    before = torch.get_rng_state()
    pb.prune(model, batch, "snip:score-init=redrawn", 0.5, draw=draw, seed=5)
    assert torch.equal(before, torch.get_rng_state())
    assert len(torch.cuda._lazy_seed_tracker.get_calls()) == (2 if "777" in queued or queued != "[]" else 0)


def test_autocast_does_not_reach_scores() -> None:
    model, batch = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)), pb.Batch(torch.randn(4, 8), torch.arange(4) % 2)
    expected = pb.get_criterion("snip").score(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(expected, pb.get_criterion("snip").score(model, batch))


def test_one_tensor_for_two_names_is_normalised_once() -> None:
    @dataclass(frozen=True)
    class Same(pb.Criterion):
        normalised = True

        def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
            tensor = torch.ones(2, 2)
            return dict.fromkeys(prunable_parameters(model), tensor)

    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    scores = Same().score(model, pb.Batch(torch.ones(1, 2), torch.tensor([0])))
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
        def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
            model.get_parameter("0.bias").data.add_(100)
            return weights(model)

    model, batch = nn.Sequential(nn.Linear(2, 2)), pb.Batch(torch.ones(1, 2), torch.tensor([0]))
    with pytest.raises(CriterionError, match=r"Bias changes the model while it scores it, in '0\.bias'"):
        Bias().score(model, batch)
