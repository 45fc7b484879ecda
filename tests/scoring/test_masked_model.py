"""The network that a formula sees: called like the original, under its names, whatever these are."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import pai_bench as pb
from pai_bench.scoring import MaskedModel, Scorer

BATCH = pb.Batch(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3)


def seen(model: nn.Module, look: Callable[[MaskedModel], Any], mask: pb.Mask | None = None) -> Any:
    """What a function sees of the model that a formula is given."""
    found: list[Any] = []

    class Looking(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
            found.append(look(model))
            return model.weights()

    with Scorer(Looking(), model) as scorer:
        scorer.score(BATCH, mask)
    return found[0]


class Names(nn.Module):
    """Its parts have the names of what a masked model has itself."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.weights = nn.Linear(5, 4), nn.Linear(4, 4)
        self.loss, self.gradients = nn.Linear(4, 3), nn.ReLU()
        self.register_buffer("mask", torch.ones(4))
        self.state: Tensor
        self.register_buffer("state", torch.zeros(4))
        self.dense = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        self.state = self.state + 1
        output: Tensor = self.loss(self.gradients(self.weights(self.network(x))) * self.mask * self.dense)
        return output


def test_parts_may_have_the_names_of_methods() -> None:
    torch.manual_seed(0)
    model = Names()
    plain = nn.Sequential(*map(copy.deepcopy, (model.network, model.weights, model.gradients, model.loss)))
    for name in ("snip", "grasp:bn=eval", "synflow", "magnitude"):
        ours, theirs = (pb.get_criterion(name).score(one, BATCH) for one in (model, plain))
        for mine, other in zip(ours.values(), theirs.values(), strict=True):
            torch.testing.assert_close(mine, other)
    assert seen(model, lambda m: m.get_parameter("network.weight").shape) == (4, 5)
    assert seen(model, lambda m: (m.get_parameter("dense").shape, m.get_buffer("mask").shape)) == ((4,), (4,))
    assert isinstance(seen(model, lambda m: m.get_submodule("gradients")), nn.ReLU)
    assert torch.equal(model.state, torch.zeros(4))


def test_it_is_called_and_looks_as_the_original() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).eval()
    mask = pb.Mask({"0.weight": torch.rand(4, 5) < 0.5, "2.weight": torch.rand(3, 4) < 0.5})
    masked = mask.apply_(copy.deepcopy(model))

    def look(given: MaskedModel) -> None:
        torch.testing.assert_close(given(BATCH.inputs), masked(BATCH.inputs))
        for ours, theirs in zip(given.named_parameters(), masked.named_parameters(), strict=True):
            assert ours[0] == theirs[0]
            assert torch.equal(ours[1], theirs[1])
        assert [name for name, _ in given.named_buffers()] == [name for name, _ in masked.named_buffers()]
        assert [type(module) for module in given.modules()] == [type(module) for module in masked.modules()]
        assert list(given.state_dict()) == list(masked.state_dict())
        assert (given.mask, given.training) == (mask, False)
        assert torch.equal(given.weights()["0.weight"], model.get_parameter("0.weight"))
        assert list(given.prunable) == ["0.weight", "2.weight"]
        assert type(given.network) is nn.Sequential
        assert "Sequential(" in repr(given)
        other = {name: 2 * parameter for name, parameter in masked.named_parameters()}
        expected = functional_call(masked, other, (BATCH.inputs,))
        torch.testing.assert_close(functional_call(given, other, (BATCH.inputs,)), expected)
        copied = copy.deepcopy(given)
        assert isinstance(copied, nn.Sequential)
        torch.testing.assert_close(copied(BATCH.inputs), masked(BATCH.inputs))
        with pytest.raises(AttributeError, match="'Sequential' object has no attribute 'nothing'"):
            _ = given.nothing

    seen(model, look, mask)


def test_a_hook_on_the_model_is_called_by_methods() -> None:
    calls: list[int] = []

    class Hooking(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
            for module in (model, model.network):
                handle = module.register_forward_hook(lambda _module, _inputs, _output: calls.append(1))
                model.gradients(batch)
                handle.remove()
            return model.weights()

    pb.get_criterion(Hooking()).score(nn.Linear(5, 3), BATCH)
    assert len(calls) == 2


def test_a_criterion_keeps_its_state_from_cut_to_cut_and_no_longer() -> None:
    class Counting(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
            model.state["cuts"] = model.state.get("cuts", 0) + 1
            counts.append(model.state["cuts"])
            return {name: weight.abs() for name, weight in model.weights().items()}

    counts: list[int] = []
    for _ in range(2):
        pb.prune(nn.Linear(5, 3), BATCH, Counting(), 0.5, schedule="linear:steps=3")
    assert counts == [1, 2, 3, 1, 2, 3]


FORCE = "force:bn=eval"

OLD = """
from pai_bench.pruning import {names}

class Old(Criterion):
    def score(self, model, batch):
        return {formula}
"""


@pytest.mark.parametrize(
    ("formula", "name", "new"),
    [
        ("saliencies(model, batch, lambda w, g, loss: (w * g).abs())", "saliencies", "force:bn=eval"),
        ("hessian_saliencies(model, batch, lambda w, h, _: w * h, temperature=200.0)", "hessian_saliencies", "grasp"),
        ("{n: w.abs() for n, w in weights(model).items()}", "weights", "magnitude"),
        ("{n: p.detach().abs() for n, p in prunable_parameters(model).items()}", "prunable_parameters", "magnitude"),
        ("uniform_scores(model)", "uniform_scores", "random"),
        (
            "{n: (model.weights()[n] * g).abs() for n, g in gradients(model, batch).items()}",
            "gradients",
            "force:bn=eval",
        ),
        (
            "{n: w * h for (n, h), w in zip(hessian_gradient_product(model, batch, temperature=200.0).items(), "
            "model.weights().values())}",
            "hessian_gradient_product",
            "grasp",
        ),
        (
            "{n: (model.weights()[n] * g).abs() for n, g in loss_and_gradients(model, batch)[1].items()}",
            "loss_and_gradients",
            "force:bn=eval",
        ),
    ],
)
def test_what_formulas_imported_before_still_works(formula: str, name: str, new: str) -> None:
    names: dict[str, Any] = {}
    with pytest.warns(DeprecationWarning, match="is deprecated: ") as warned:
        exec(OLD.format(names=f"Criterion, {name}", formula=formula), names)  # a plug-in of before
    assert {str(one.message).partition(" is ")[0] for one in warned} == {
        "pai_bench.pruning.Criterion",
        f"pai_bench.pruning.{name}",
    }
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    old, expected = names["Old"]().score(model, BATCH), pb.get_criterion(new).score(model, BATCH)
    assert list(old) == list(expected)
    assert all(torch.equal(old[key], expected[key]) for key in expected)


def test_a_name_that_has_moved_says_where_it_is() -> None:
    import pai_bench.pruning

    for name, cure in (
        ("weights", "a method of the model that a score is given"),
        ("Batch", "from pai_bench.scoring import Batch"),
    ):
        with pytest.warns(DeprecationWarning, match=f"^pai_bench.pruning.{name} is deprecated: {cure}$") as warned:
            getattr(pai_bench.pruning, name)
        assert [one.filename for one in warned] == [__file__]


def test_other_names_are_not_there() -> None:
    import pai_bench.pruning

    with pytest.raises(AttributeError, match=r"module 'pai_bench\.pruning' has no attribute 'spare'"):
        _ = pai_bench.pruning.spare


class Root(nn.Module):
    """Has its own weight and a buffer that no file holds, and does as a flag of its own says."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.use = nn.Linear(5, 3), nn.Linear(5, 3), "a"
        self.register_buffer("count", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = (self.a if self.use == "a" else self.b)(x)
        return output


def test_what_prepare_changes_of_the_root_is_what_is_scored() -> None:
    class Other(pb.Criterion):
        def prepare(self, model: nn.Module) -> None:
            model.use = "b"  # type: ignore[assignment]

        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
            assert "count" not in model.state_dict()
            return model.saliencies(batch, lambda w, g, _loss: (w * g).abs())

    found = pb.get_criterion(Other()).score(Root(), BATCH)
    assert not found["a.weight"].any()
    assert found["b.weight"].any()


@pytest.mark.parametrize("what", ["hook", "mode"])
def test_a_change_of_the_model_itself_is_refused(what: str) -> None:
    class Leaving(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
            if what == "hook":
                model.register_forward_hook(lambda _module, _inputs, _output: None)
            else:
                model.train()
            return model.weights()

    with pytest.raises(pb.UserError, match="Leaving changes the model while it scores it, in 'Linear"):
        pb.get_criterion(Leaving()).score(nn.Linear(5, 3), BATCH)


def test_a_criterion_may_call_its_own_formula_what_it_likes() -> None:
    class Own(pb.Criterion):
        def _formula(self, w: Tensor, g: Tensor, _loss: Tensor) -> Tensor:
            return (w * g).abs()

        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
            return model.saliencies(batch, self._formula)

    model = nn.Linear(5, 3)
    expected = pb.get_criterion("force:bn=eval").score(model, BATCH)
    assert torch.equal(pb.get_criterion(Own()).score(model, BATCH)["weight"], expected["weight"])
