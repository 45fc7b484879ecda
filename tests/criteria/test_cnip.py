"""CNIP, beside gates and masks that autograd differentiates, and its cuts one by one on the masked network."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.groups import CombinedMask, GroupMask, Groups
from pai_bench.masks import Halving
from pai_bench.scoring import Batch, CombinedCriterion, CombinedScores, MaskedModel, get_criterion
from pai_bench.scoring.structured import GroupScorer, score_groups, unstructured_scores
from pai_bench.support.errors import CriterionError, UserError
from tests.groups.test_combined import best_of_layers, by_brute_force, kept_by, listed
from tests.scoring.test_structured import PLAIN, hooks, made


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The networks are the same at every run."""
    torch.manual_seed(0)


def gradients(network: nn.Module, groups: Groups, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """|dL/dc| for a gate of every group, and for a factor of every weight."""
    parameters = dict(network.named_parameters())
    gates = torch.ones(groups.count, dtype=torch.float64, requires_grad=True)
    factors = {name: torch.ones_like(parameters[name], requires_grad=True) for name in groups.weights}
    with hooks(network, groups, gates, groups.roots, of_inputs=False):
        replaced = {name: parameters[name].detach() * factor for name, factor in factors.items()}
        loss = F.cross_entropy(functional_call(network, replaced, (batch[0],)), batch[1])
    of_groups, *of_weights = torch.autograd.grad(loss, [gates, *factors.values()])
    return of_groups.abs(), {name: g.abs() for name, g in zip(factors, of_weights, strict=True)}


@pytest.mark.parametrize("name", PLAIN)
def test_both_kinds_of_scores_are_derivatives_by_what_multiplies(name: str) -> None:
    network, groups, batch = made(name)
    expected, of_weights = gradients(network, groups, batch)
    scores: Any = get_criterion("cnip").score(network, batch)
    weights, units = scores
    torch.testing.assert_close(units, expected, rtol=1e-10, atol=1e-14)
    assert list(weights) == list(groups.weights)
    for key, score in weights.items():
        torch.testing.assert_close(score, of_weights[key], rtol=1e-10, atol=1e-14)
    snip = get_criterion("snip").score(network, batch)
    whole = sum(float(score.sum()) for score in weights.values())
    for key, score in snip.items():
        torch.testing.assert_close(score * whole, weights[key], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("options", ["", ":gate=consumer", ":tied=sum", ":tied=max", ":bias=false"])
def test_units_are_scored_as_by_snap(options: str) -> None:
    network, _, batch = made("projected shortcut")
    scores: Any = get_criterion("cnip" + options).score(network, batch)
    expected: Any = get_criterion("snap" + options).score(network, batch)
    assert torch.equal(scores.groups, expected)


def reference(
    network: nn.Module, groups: Groups, batch: tuple[Tensor, Tensor], densities: list[float], count: str
) -> tuple[set[int], set[Any]]:
    """The groups and weights that are kept, cut by cut on the masked network, which is never shrunk."""
    groups_left = set(range(groups.count))
    size = sum(groups.shapes[name].numel() for name in groups.weights)
    left: set[Any] | None = None
    for density in densities:
        scores, weights = gradients(network, groups, batch)
        scores[[g for g in range(groups.count) if g not in groups_left]] = -1.0
        for (_, name, place), of in listed(groups, weights):
            if (left is not None and (name, place) not in left) or not groups_left.issuperset(of):
                weights[name][place] = -2.0
        if count == "exact":
            groups_left, left = by_brute_force(groups, scores, weights, round(density * size))
        else:
            everything, always = listed(groups, weights), best_of_layers(groups, scores)
            alive = [(item, of) for item, of in everything if item[0] >= 0]
            ranking: list[Any] = [(item[0], item[1:]) for item, _ in alive]
            ranking += [(float("inf") if g in always else float(scores[g]), g) for g in groups_left]
            items = round(min(1.0, density * size / len(alive)) * len(ranking))
            best = {what for _, what in sorted(ranking, key=lambda entry: -entry[0])[:items]}
            groups_left = {g for g in groups_left if g in best or g in always}
            left = {item[1:] for item, of in alive if item[1:] in best and groups_left.issuperset(of)}
        mask = GroupMask(groups, torch.tensor([g in groups_left for g in range(groups.count)]))
        mask.apply_(network)
        with torch.no_grad():
            for name in groups.weights:
                parameter = network.get_parameter(name)
                for place in parameter.nonzero().tolist():
                    if (name, tuple(place)) not in left:
                        parameter[tuple(place)] = 0.0
    assert left is not None
    return groups_left, left


@pytest.mark.parametrize("count", ["exact", "published"])
@pytest.mark.parametrize("name", ["mlp", "convolutions and flatten", "identity shortcut", "projected shortcut"])
@pytest.mark.parametrize(("criterion", "densities"), [("cnip", [0.05]), ("cnip-it", Halving(steps=5).densities(0.05))])
def test_cuts_one_by_one(name: str, criterion: str, densities: list[float], count: str) -> None:
    network, groups, batch = made(name)
    mask: Any = pb.prune(network, batch, f"{criterion}:count={count}", 0.95)
    assert isinstance(mask, CombinedMask)
    assert kept_by(mask) == reference(network, groups, batch, densities, count)
    assert mask.kept == round(0.05 * mask.size) if count == "exact" else mask.kept < round(0.06 * mask.size)
    assert not mask.kept_groups.all()


def test_a_larger_loss_gives_the_same_mask() -> None:
    network, _, (inputs, targets) = made("identity shortcut")

    def large(outputs: Tensor, targets: Tensor) -> Tensor:
        return 16 * F.cross_entropy(outputs, targets)

    first, second = (pb.prune(network, (inputs, targets), "cnip", 0.7, loss=loss) for loss in (F.cross_entropy, large))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_lowest_scores_are_kept_if_inverted() -> None:
    network, groups, batch = made("mlp")
    scores, weights = gradients(network, groups, batch)
    mask: Any = pb.prune(network, batch, "cnip", 0.7, variant="invert")
    negative = {name: -score for name, score in weights.items()}
    assert kept_by(mask) == by_brute_force(groups, -scores, negative, round(0.3 * mask.size))


@pytest.mark.parametrize("init", ["redrawn", "vs-h"])
def test_another_draw_is_scored_under_the_mask_of_the_cuts_before(init: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    plain = GroupScorer.run

    def run(self: GroupScorer, batch: Batch, mask: Any = None) -> Any:
        scores = plain(self, batch, mask)
        if mask is not None:
            seen.extend(float(scores[0][name][~mask[name]].abs().sum()) for name in scores[0])
        return scores

    monkeypatch.setattr(GroupScorer, "run", run)
    network, _, batch = made("mlp")
    pb.prune(network, batch, f"cnip:score-init={init}", 0.9, schedule="linear:steps=3")
    assert seen == [0.0] * 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sparsity_of": "nodes"},
            "sparsity of nodes has no meaning for cnip, which ranks single weights and units",
        ),
        ({"sparsity_of": "flops"}, "sparsity of flops has no meaning for cnip"),
        ({"scope": "layerwise"}, "scope layerwise has no meaning for cnip"),
        ({"variant": "shuffle"}, "variant shuffle has no meaning for cnip"),
        ({"min_per_layer": 2}, "min_per_layer 2 has no meaning for cnip"),
        ({"variant": "global-shuffle"}, "variant global-shuffle is for criteria of single weights: cnip removes whole"),
        ({"prunable": ["0.weight"]}, "a choice of the weights to prune is for criteria of single weights"),
        ({"criterion": "cnip:count=all"}, "count=all"),
        ({"criterion": "cnip:gate=none"}, "gate=none"),
        ({"criterion": "snap:count=exact"}, "count"),
        ({"criterion": "group:of=cnip"}, "group:of=cnip scores groups itself"),
    ],
)
def test_options_that_do_not_apply(options: dict[str, Any], message: str) -> None:
    network, _, batch = made("mlp")
    cnip: dict[str, Any] = {"criterion": "cnip", "sparsity": 0.5}
    with pytest.raises(pb.UserError, match=message) as caught:
        pb.prune(network, batch, **{**cnip, **options})
    assert "\n" not in str(caught.value)


def test_a_network_in_which_nothing_is_free() -> None:
    with pytest.raises(pb.UserError, match=r"cnip: no unit of Linear .*, since .* fixed \(the network's output\)$"):
        pb.prune(nn.Linear(5, 3), (torch.randn(4, 5), torch.arange(4) % 3), "cnip", 0.5)


@dataclass(frozen=True)
class Magnitudes(CombinedCriterion):
    """score = |w|, and the mean of a unit's rows; or another thing."""

    gives: Literal["both", "pair", "units", "weights", "less", "shape", "nan"] = "both"

    def score(self, model: MaskedModel, batch: Batch) -> Any:
        assert model.groups is not None
        weights, units = {name: w.abs() for name, w in model.weights().items()}, torch.ones(model.groups.count) / 16
        weights = {name: weights[name] for name in model.groups.weights}
        if self.gives == "nan":
            weights[next(iter(weights))][0] = torch.nan
        results: dict[str, Any] = {"pair": (weights, units), "units": units, "weights": weights}
        results |= {"less": ({}, units), "shape": (weights, units[1:])}
        return results.get(self.gives, CombinedScores(weights, units))


def test_a_criterion_of_ones_own() -> None:
    network, groups, batch = made("convolutions and flatten")
    weights = {name: network.get_parameter(name).detach().abs() for name in groups.weights}
    ways: tuple[Literal["both", "pair"], ...] = ("both", "pair")
    for gives in ways:
        mask: Any = pb.prune(network, batch, Magnitudes(gives=gives), 0.5)
        assert kept_by(mask) == by_brute_force(groups, torch.ones(groups.count) / 16, weights, round(mask.size / 2))


@pytest.mark.parametrize(
    ("gives", "message"),
    [
        ("units", "Magnitudes returned Tensor, not CombinedScores: of single weights, and of groups"),
        ("weights", "Magnitudes returned dict, not CombinedScores"),
        ("less", "Magnitudes gave no score for '0.weight'"),
        ("shape", r"Magnitudes gave scores of shape \(14,\) to 15 groups"),
        ("nan", "Magnitudes gave NaN scores in '0.weight'"),
    ],
)
def test_scores_that_cannot_be_ranked(gives: Any, message: str) -> None:
    network, _, batch = made("mlp")
    criterion: Any = Magnitudes(gives=gives)
    with pytest.raises(CriterionError, match=message):
        criterion.score(network, batch)


def test_a_criterion_of_single_weights_inside_sees_the_mask_of_the_cuts_before() -> None:
    cuts: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    @dataclass(frozen=True)
    class OfSnip(CombinedCriterion):
        """SNIP's scores of single weights; no unit goes."""

        def score(self, model: Any, batch: Any) -> Any:
            weights = unstructured_scores(model, batch, get_criterion("snip"))
            own = model.saliencies(batch, lambda w, g, _loss: (w * g).abs())
            cuts.append(
                ({name: score.clone() for name, score in weights.items()}, {name: own[name] for name in weights})
            )
            return CombinedScores(dict(weights), torch.full((model.groups.count,), 99.0, dtype=torch.float64))

    network, _, batch = made("mlp")
    pb.prune(network, batch, OfSnip(), 0.8, schedule="linear:steps=3")
    assert len(cuts) == 3
    for scores, own in cuts:
        total = sum(float(score.sum()) for score in own.values())
        for name, score in scores.items():
            torch.testing.assert_close(score, own[name] / total, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", ["snap", "3sp", "cnip", "group:of=magnitude"])
def test_scores_of_several_batches_are_added(name: str) -> None:
    network, groups, (inputs, targets) = made("projected shortcut")
    criterion = get_criterion(f"{name}:accumulate=score")
    both = score_groups(criterion, network, Batch(inputs, targets, batches=2), groups=groups)
    parts = [score_groups(criterion, network, (inputs[i : i + 3], targets[i : i + 3]), groups=groups) for i in (0, 3)]
    if name == "cnip":
        for key, score in both.weights.items():
            torch.testing.assert_close(score, parts[0].weights[key] + parts[1].weights[key], rtol=1e-10, atol=1e-15)
        both, parts = both.groups, [part.groups for part in parts]
    torch.testing.assert_close(both, parts[0] + parts[1], rtol=1e-10, atol=1e-15)


def test_groups_of_another_network_are_refused() -> None:
    network, _, batch = made("mlp")
    _, groups, _ = made("projected shortcut")
    with pytest.raises(UserError, match="these are groups of another network"):
        score_groups(get_criterion("snap"), network, batch, groups=groups)
