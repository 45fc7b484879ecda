"""Scoring leaves no trace."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.scoring import MaskedModel, Scorer, Scores, prunable_parameters
from pai_bench.scoring.criterion import score_masked
from pai_bench.support.errors import CriterionError
from tests.made import UNSTRUCTURED
from tests.scoring.traces import assert_same, state

Example = tuple[nn.Module, pb.Batch]


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

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        random.random(), np.random.rand(), torch.rand(1)
        scores = model.gradients(batch)
        for tensor in (*model.weights().values(), *model.buffers()):
            tensor.zero_()
        for parameter in model.parameters():
            parameter.data.mul_(3)
            parameter.grad = torch.ones_like(parameter)
            parameter.requires_grad_(False)
        model.train().register_forward_hook(lambda _m, _i, _o: None)
        if self.fails:
            raise RuntimeError("vandal")
        return scores


@pytest.mark.parametrize("name", UNSTRUCTURED)
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
        lambda: pb.get_criterion(Vandal(fails=fails)).score(model, batch),
        lambda: score_masked(Vandal(fails=fails), model, batch, mask),
    ]
    for call in calls:
        error, message = (RuntimeError, "vandal") if fails else (CriterionError, "Vandal changes the model while it")
        with pytest.raises(error, match=message):
            call()
    assert_same(before, state(model))


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


def test_gradients_of_a_formulas_own_are_gone_at_the_next_cut() -> None:
    seen: list[bool] = []

    class Backward(pb.Criterion):
        """As many codes do it, ``loss.backward()``."""

        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
            seen.append(any(parameter.grad is not None for parameter in model.parameters()))
            model.loss(batch).backward()
            return {name: (p * p.grad).detach().abs() for name, p in model.prunable.items() if p.grad is not None}

    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)), pb.Batch(torch.randn(6, 5), torch.arange(6) % 3)
    schedule = "exponential:steps=4"
    ours, snip = (pb.prune(model, batch, one, 0.6, schedule=schedule) for one in (Backward(), "snip"))
    assert all(torch.equal(ours[name], snip[name]) for name in snip)
    assert seen == [False] * 4


def linear() -> tuple[nn.Module, pb.Batch]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)), pb.Batch(torch.randn(6, 5), torch.arange(6) % 3)


def test_random_numbers_are_those_of_seed_0_by_default() -> None:
    (model, batch), random = linear(), pb.get_criterion("random")
    expected = pb.get_criterion("random", seed=0).score(model, batch)
    assert_same(expected, random.score(model, batch))
    assert_same(expected, score_masked(random, model, batch))
    with Scorer(random, model) as scorer:
        assert_same(expected, scorer.score(batch))
    shuffled = pb.prune(model, batch, random, 0.5, variant="shuffle")
    assert_same(dict(pb.prune(model, batch, random, 0.5, variant="shuffle", seed=0)), dict(shuffled))
    with pb.Pruner(model, random) as pruner:
        assert_same(dict(pb.prune(model, batch, random, 0.5, seed=0)), dict(pruner.to(batch, 0.5)))


@pytest.mark.parametrize("returns", [True, False])
def test_a_mask_that_is_given_no_more_is_no_more_applied(returns: bool) -> None:
    model, batch = linear()
    mask = {name: torch.arange(p.numel()).view(p.shape) % 2 == 0 for name, p in prunable_parameters(model).items()}
    with Scorer(pb.get_criterion("snip"), model, returns=returns) as scorer:
        whole, masked = scorer.score(batch), scorer.score(batch, mask)
        assert bool((masked["0.weight"] != whole["0.weight"]).any())
        assert_same(whole, scorer.score(batch))
        assert_same(masked, scorer.score(batch, mask))


@dataclass(frozen=True)
class Drawn(pb.Criterion):
    """Scores the weights that it draws before."""

    def prepare(self, model: nn.Module) -> None:
        for parameter in model.parameters():
            parameter.data.copy_(torch.rand_like(parameter))

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        return model.weights()


class Restless(nn.Linear):
    """Draws when it is copied."""

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        torch.rand(1)
        other = nn.Linear(self.in_features, self.out_features)
        other.load_state_dict(self.state_dict())
        return other


def test_draws_before_a_score_are_those_of_the_seed_and_leave_no_trace() -> None:
    (model, batch), restless = linear(), Restless(5, 3)
    before = torch.get_rng_state()
    one, same, other = (pb.get_criterion(Drawn(seed=seed)).score(model, batch) for seed in (1, 1, 2))
    assert_same(one, same)
    assert not torch.equal(one["0.weight"], other["0.weight"])
    pb.get_criterion("snip").score(restless, batch)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_criterion_inside_of_another_may_take_its_loss() -> None:
    @dataclass(frozen=True)
    class Outer(pb.Criterion):
        inner: str = "snip"

        def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
            found: Scores = pb.get_criterion(self.inner).score(model, batch)
            return found

    model, batch = linear()
    expected = pb.get_criterion("snip:loss=nll").score(model, batch)
    assert_same(expected, pb.get_criterion(Outer(inner="snip:loss=nll", loss="nll")).score(model, batch))
    with pytest.raises(CriterionError, match="Outer ignores loss=nll"):
        pb.get_criterion(Outer(loss="nll")).score(model, batch)


def test_an_error_names_the_criterion_once() -> None:
    @dataclass(frozen=True)
    class Fails(pb.Criterion):
        text: str = ""

        def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
            raise pb.UserError(self.text)

    for text in ("it fails", "Fails: it fails"):
        with pytest.raises(pb.UserError, match=r"^Fails: it fails$"):
            pb.get_criterion(Fails(text=text)).score(*linear())


def test_scores_whose_sum_overflows_are_divided_by_it() -> None:
    @dataclass(frozen=True)
    class Huge(pb.Criterion):
        normalised: ClassVar[bool] = True

        def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
            return {name: torch.full_like(weight, 3e38) for name, weight in model.weights().items()}

    model, batch = linear()
    for mask, count in (
        (None, 32),
        ({"0.weight": torch.arange(20).view(4, 5) < 4, "1.weight": torch.ones(3, 4) > 0}, 16),
    ):
        for score in score_masked(Huge(), model, batch, mask).values():
            torch.testing.assert_close(score, torch.full_like(score, 1 / count))
