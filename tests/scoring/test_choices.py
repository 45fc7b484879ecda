"""Choices of published codes: the loss that is no loss, equal scores at the threshold, GraSP's halves."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.cli.entry import main
from pai_bench.masks.selection import select, with_ties
from pai_bench.scoring import MaskedModel
from pai_bench.support.randomness import random_state

Example = tuple[nn.Module, pb.Batch]


@pytest.mark.parametrize("name", ["snip", "iter-snip", "force"])
def test_the_log_likelihood_of_raw_logits(name: str, network: Example) -> None:
    """Its derivative with respect to the logits is minus one at the target, and no softmax is in it."""
    model, batch = network
    model = model.eval()
    scores = pb.get_criterion(name, bn="eval", loss="nll").score(model, batch)
    weights = {name: dict(model.named_parameters())[name] for name in scores}
    of_target = model(batch.inputs).gather(1, batch.targets[:, None])
    slopes = torch.autograd.grad(-of_target.mean(), list(weights.values()))
    expected = [(weight.detach() * slope).abs() for weight, slope in zip(weights.values(), slopes, strict=True)]
    factor = sum(float(score.sum()) for score in scores.values()) / sum(float(score.sum()) for score in expected)
    for score, wanted in zip(scores.values(), expected, strict=True):
        assert torch.allclose(score, factor * wanted, rtol=1e-9, atol=1e-12)
    plain = pb.get_criterion(name, bn="eval").score(model, batch)
    assert not all(torch.allclose(scores[name], plain[name]) for name in scores)


def scores_with_ties(seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Small whole numbers, so that many are equal, and which may be kept."""
    generator = torch.Generator().manual_seed(seed)
    scores = {
        n: torch.randint(5, (6, 7), generator=generator).to(t) for n, t in (("a", torch.float32), ("b", torch.float64))
    }
    alive = {name: torch.rand(6, 7, generator=generator) < 0.7 for name in scores}
    return scores, alive


@pytest.mark.parametrize("count", [0, 1, 7, 20, 35])
@pytest.mark.parametrize("some", [False, True])
def test_what_ties_is_kept_or_removed(count: int, some: bool) -> None:
    for seed in range(20):
        scores, alive = scores_with_ties(seed)
        live = alive if some else None
        mask = select(scores, count, live)
        ranked = sorted(
            (
                float(s)
                for n in scores
                for s, a in zip(scores[n].flatten(), alive[n].flatten(), strict=True)
                if a or not some
            ),
            reverse=True,
        )
        kept, removed = with_ties(scores, mask, "keep", live), with_ties(scores, mask, "remove", live)
        for name in scores:
            may = alive[name] if some else torch.ones(6, 7, dtype=torch.bool)
            last = ranked[count - 1] if count else float("inf")
            assert torch.equal(kept[name], (scores[name] >= last) & may)
            assert torch.equal(removed[name], (scores[name] > ranked[count]) & may)


def test_nothing_is_removed_of_a_whole_network() -> None:
    scores, _ = scores_with_ties(0)
    whole = select(scores, 84)
    assert all(bool(mask.all()) for mask in with_ties(scores, whole, "remove").values())


def half_blind() -> Example:
    """A network half of whose inputs are always zero, so that half of its first layer has the score 0."""
    with random_state(0):  # one hidden unit is dead
        model = nn.Sequential(nn.Linear(10, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False)).double()
        inputs = torch.rand(12, 10, dtype=torch.float64)
    inputs[:, :5] = 0
    return model, pb.Batch(inputs, torch.arange(12) % 3)


@pytest.mark.parametrize("options", [{}, {"schedule": "linear:steps=3"}, {"scope": "layerwise"}])
def test_pruning_with_ties(options: dict[str, Any]) -> None:
    model, batch = half_blind()
    scores = pb.get_criterion("snip").score(model, batch)
    positive = {name: score > 0 for name, score in scores.items()}
    assert not positive["0.weight"][:, :5].any()
    exact = pb.prune(model, batch, "snip", 0.2, **options)  # the threshold is a zero
    assert exact.kept == round(0.8 * 78)
    removed = pb.prune(model, batch, "snip:ties=remove", 0.2, **options)
    kept = pb.prune(model, batch, "snip:ties=keep", 0.2, **options)
    for name in scores:
        if options.get("scope") == "layerwise" and name == "2.weight":  # nothing ties there
            assert torch.equal(removed[name], exact[name])
            assert torch.equal(kept[name], exact[name])
        else:
            assert torch.equal(removed[name], positive[name])
            assert bool(kept[name].all())
    above = pb.prune(model, batch, "snip", 0.9, **options)
    for ties in ("keep", "remove"):
        assert all(
            torch.equal(above[n], m) for n, m in pb.prune(model, batch, f"snip:ties={ties}", 0.9, **options).items()
        )


@pytest.mark.parametrize(
    "option", [{"target": "effective"}, {"min_per_layer": 1}, {"repair": "effective-only"}, {"variant": "quota:erk"}]
)
def test_policies_that_need_the_exact_number(option: dict[str, Any]) -> None:
    model, batch = half_blind()
    with pytest.raises(pb.UserError, match="snip:ties=keep may keep more or fewer"):
        pb.prune(model, batch, "snip:ties=keep", 0.5, **option)


def test_a_quota_is_exact() -> None:
    model, batch = half_blind()
    with pytest.raises(pb.UserError, match="snip:ties=remove may keep more or fewer"):
        pb.prune(model, batch, "random", 0.5, variant="quota:snip:ties=remove")


@pytest.mark.parametrize("sparsity", [0.4, 0.5])
def test_what_one_layer_loses_by_ties_does_not_go_to_the_others(sparsity: float) -> None:
    model, batch = half_blind()
    masks = [
        pb.prune(model, batch, "snip:ties=remove", sparsity, scope="layerwise", schedule=schedule)
        for schedule in ("one-shot", "linear:steps=5")
    ]
    scores = pb.get_criterion("snip").score(model, batch)
    # only zeros tie
    expected = {n: min(round((1 - sparsity) * s.numel()), int((s > 0).count_nonzero())) for n, s in scores.items()}
    assert masks[0].kept_per_layer() == expected
    assert masks[1]["0.weight"].count_nonzero() == expected["0.weight"] < round((1 - sparsity) * 60)
    assert masks[1]["2.weight"].count_nonzero() <= round((1 - sparsity) * 18)


@dataclass(frozen=True, kw_only=True)
class OwnGradients(pb.Criterion):
    """Differentiates a loss of its own."""

    def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
        parameters = model.prunable
        value = F.cross_entropy(model(batch.inputs), batch.targets)
        found = torch.autograd.grad(value, list(parameters.values()))
        return {name: g.abs() for name, g in zip(parameters, found, strict=True)}


def test_another_loss_is_taken_or_refused() -> None:
    model, batch = half_blind()
    pb.get_criterion(OwnGradients()).score(model, batch)
    with pytest.raises(pb.UserError, match="OwnGradients ignores loss=nll"):
        pb.get_criterion(OwnGradients(loss="nll")).score(model, batch)
    for name in ("magnitude", "synflow"):
        with pytest.raises(pb.UserError, match=f"{name}.* ignores loss=nll"):
            pb.get_criterion(name, loss="nll").score(model, batch)
    own = pb.Batch(batch.inputs, batch.targets, loss=F.cross_entropy)
    with pytest.raises(pb.UserError, match="the batch brings a loss of its own"):
        pb.get_criterion("snip:loss=nll").score(model, own)


def test_the_conformance_suite_knows_the_loss(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "snip:loss=nll"]) == 0, capsys.readouterr().out


def test_an_option_cannot_be_hidden() -> None:
    with pytest.raises(pb.UserError, match=r"Hides\.ties hides an option of every criterion"):

        class Hides(pb.Criterion):
            def ties(self) -> int:  # type: ignore[override]
                return 3

    with pytest.raises(pb.UserError, match=r"Forgets\.bn hides .*: annotate it"):

        class Forgets(pb.Criterion):
            bn = "train"


def test_a_criterion_made_of_others_hands_its_loss_on() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Both(pb.Criterion):
        def score(self, model: nn.Module, batch: pb.Batch) -> pb.Scores:
            return pb.get_criterion("snip", loss=self.loss).score(model, batch)

    model, batch = half_blind()
    expected = pb.get_criterion("snip", loss="nll").score(model, batch)
    assert all(torch.equal(found, expected[name]) for name, found in Both(loss="nll").score(model, batch).items())


def test_options_of_ones_own_are_stored_whatever_their_names() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Own(pb.Criterion):
        halves: bool = False
        biases: bool = False

        def score(self, model: nn.Module, batch: pb.Batch) -> pb.Scores:
            return {}

    def stored(criterion: pb.Criterion) -> list[str]:
        return [name for name, _ in criterion.configuration(criterion.schedule)["options"]]

    assert stored(pb.get_criterion("snip")) == ["bn", "seed"]
    assert stored(pb.get_criterion("grasp")) == ["bn", "seed", "temperature"]
    assert stored(Own()) == ["bn", "seed", "biases", "halves"]


def test_two_halves_sorted_by_class() -> None:
    """Equal to the whole batch without batch norm's statistics; with them, each half has its own."""
    first, last = nn.Linear(5, 8), nn.Linear(8, 4)
    model = nn.Sequential(first, nn.BatchNorm1d(8), nn.ReLU(), last).double()
    batch = pb.Batch(torch.randn(12, 5, dtype=torch.float64), torch.arange(12) % 4)
    plain, halves = (pb.get_criterion("grasp", bn="eval", halves=h).score(model, batch) for h in (False, True))
    assert all(torch.allclose(halves[name], plain[name], rtol=1e-9) for name in plain)

    found = pb.get_criterion("grasp", halves=True, temperature=1).score(model, batch)
    weights: list[Tensor] = [first.weight, last.weight]
    low = batch.targets < 2
    losses = [F.cross_entropy(model(batch.inputs[part]), batch.targets[part]) for part in (low, ~low)]
    g = torch.autograd.grad(torch.stack(losses).mean(), weights, create_graph=True)
    products = torch.autograd.grad(sum((one * one.detach()).sum() for one in g), weights)  # type: ignore[arg-type]
    for name, weight, product in zip(found, weights, products, strict=True):
        assert torch.allclose(found[name], weight.detach() * product, rtol=1e-8, atol=1e-14)


def test_halves_of_several_score_batches_are_refused() -> None:
    model, batch = half_blind()
    with pytest.raises(pb.UserError, match="give one"):
        pb.get_criterion("grasp:halves=true:accumulate=score")
    several = pb.Batch(batch.inputs, torch.rand(12, 3), loss=F.cross_entropy)
    with pytest.raises(pb.UserError, match="targets are no class indices"):
        pb.get_criterion("grasp", halves=True).score(model, several)
    with pytest.raises(pb.UserError, match="one score batch by class"):
        pb.get_criterion("grasp", halves=True).score(model, pb.Batch(batch.inputs, batch.targets, batches=2))


def test_a_choice_is_stored_only_where_it_is_not_the_default() -> None:
    """So that what was stored before there was the choice still belongs to the same trials."""
    from pai_bench.experiment.resolve import resolve

    sweep = pb.Sweep(criteria=["grasp", "grasp:halves=true", "snip:loss=nll:ties=keep"], sparsities=[0.5], seeds=1)
    stored = [dict(trial.configuration()["criterion"]["options"]) for trial in resolve(sweep).trials if trial.criterion]
    new = [{key: value for key, value in options.items() if key in ("halves", "loss", "ties")} for options in stored]
    assert new == [{}, {"halves": True}, {"loss": "nll", "ties": "keep"}]
