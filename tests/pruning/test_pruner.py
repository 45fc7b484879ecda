"""One cut at a time: what a whole pruning does, and what it does to a network that is trained in between."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.pruning import Pruner, PruningOptions

INPUTS = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
BATCH = pb.Batch(INPUTS, torch.arange(12) % 3)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def same(one: pb.Mask, other: pb.Mask) -> bool:
    return all(torch.equal(one[name], other[name]) for name in (*one, *other))


@pytest.mark.parametrize("name", ["snip", "iter-snip", "force", "grasp", "synflow", "random", "erk"])
@pytest.mark.parametrize("scope", [None, "layerwise"])
def test_cuts_by_hand_are_those_of_a_pruning(name: str, scope: str | None) -> None:
    model, densities = network(), [0.8, 0.5, 0.2]
    schedule = f"linear:steps=4:returns={str(name == 'force').lower()}"
    options = PruningOptions(schedule=schedule, scope=scope)  # type: ignore[arg-type]
    with Pruner(model, pb.get_criterion(name), options, seed=3) as pruner:
        assert pruner.mask is None
        for density in densities:
            mask = pruner.cut(BATCH, density)
            assert mask is pruner.mask
            assert mask.kept == round(density * 72)
        by_schedule = pruner.to(BATCH, "0.8")  # type: ignore[arg-type]  # as in a list of options
    expected = pb.prune(model, BATCH, name, 0.8, schedule=schedule, scope=scope, seed=3)  # type: ignore[arg-type]
    assert same(by_schedule, expected)
    again = Pruner(model, pb.get_criterion(name), options, seed=3)
    for density in (0.8, 0.6, 0.4, 0.2):  # those of the schedule
        again.cut(BATCH, density)
    again.renew()
    assert again.mask is not None
    assert same(again.mask, expected)


def test_a_network_that_was_trained_in_between_is_scored_as_it_is() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with Pruner(model, pb.get_criterion("snip")) as pruner:
        first = pruner.cut(BATCH, 0.7)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert same(first, pb.prune(model, BATCH, "snip", 0.3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(model(INPUTS), BATCH.targets).backward()
            optimizer.step()
            first.apply_(model)
        pruner.renew()
        second = pruner.cut(BATCH, 0.4)
    assert all(bool((first[name] | ~second[name]).all()) for name in first)  # nothing has returned
    # by hand: |w g| of the trained network in eval mode, of what was left
    twin = copy.deepcopy(model).eval()
    weights = [twin.get_parameter(name) for name in first]
    found = torch.autograd.grad(F.cross_entropy(twin(INPUTS), BATCH.targets), weights)
    scores = torch.cat(
        [
            (w * g).abs().masked_fill(~keep, -1).flatten()
            for w, g, keep in zip(weights, found, first.values(), strict=True)
        ]
    )
    expected = torch.zeros(72, dtype=torch.bool)
    expected[scores.argsort(descending=True)[: round(0.4 * 72)]] = True
    assert torch.equal(torch.cat([kept.flatten() for kept in second.values()]), expected)


def test_without_renewal_the_weights_at_the_first_cut_are_scored() -> None:
    model = network()
    with Pruner(model, pb.get_criterion("magnitude")) as pruner:
        pruner.cut(BATCH, 0.9)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(1 / (1e-3 + parameter.abs()))
        kept = pruner.cut(BATCH, 0.5)
        assert same(kept, pb.prune(network(), BATCH, "magnitude", 0.5))
        pruner.renew()
        assert not same(pruner.cut(BATCH, 0.25), pb.prune(network(), BATCH, "magnitude", 0.75))


def test_its_end_gives_up_the_copy_also_after_an_error() -> None:
    model = network()
    address = model.get_parameter("0.weight").data_ptr()
    with (
        pytest.raises(pb.UserError, match="does not fit the model"),
        Pruner(model, pb.get_criterion("snip")) as one,
    ):
        one.cut(pb.Batch(torch.randn(2, 5), torch.tensor([0, 1])), 0.5)
    assert one._scorer is None
    model.get_parameter("0.weight").data.add_(1)
    assert model.get_parameter("0.weight").data_ptr() == address


def test_options_that_do_not_go_together_are_refused_before_anything_is_scored() -> None:
    for options, message in (
        ({"repair": "effective-only", "scope": "layerwise"}, "ranks all layers together"),
        ({"variant": "quota:erk", "scope": "layerwise"}, "both divide the connections"),
        ({"min_per_layer": -1}, "min_per_layer -1 must not be negative"),
        ({"min_per_layer": 1.5}, "min_per_layer 1.5 is neither a whole number nor a share below 1"),
        ({"target": "straight"}, "target 'straight' is not one of direct, effective"),
    ):
        with pytest.raises(pb.UserError, match=message):
            Pruner(network(), pb.get_criterion("snip"), PruningOptions(**options))


def test_the_mask_of_a_whole_pruning_is_the_one_that_goes_on() -> None:
    for options in ({"target": "effective"}, {"variant": "shuffle"}, {"variant": "quota:erk"}):
        with Pruner(network(), "snip", PruningOptions(**options)) as pruner:  # type: ignore[arg-type]
            assert pruner.to((INPUTS, BATCH.targets), 0.5) is pruner.mask
            with pytest.raises(pb.UserError, match="a single cut has no target, repair or variant"):
                pruner.cut(BATCH, 0.2)


@pytest.mark.parametrize("density", [0, -1, 1.5])
def test_a_density_that_is_none(density: float) -> None:
    with Pruner(network(), "snip") as pruner, pytest.raises(pb.UserError, match=r"outside \(0, 1\]"):
        pruner.cut(BATCH, density)


def test_a_criterion_keeps_its_state_where_a_network_is_renewed() -> None:
    class Counting(pb.Criterion):
        def score(self, model: pb.MaskedModel, batch: pb.Batch) -> pb.Scores:
            counts.append(model.state.setdefault("cuts", 0))
            model.state["cuts"] += 1
            return {name: weight.abs() for name, weight in model.weights().items()}

    counts: list[int] = []
    with Pruner(network(), Counting()) as pruner:
        for density in (0.8, 0.6):
            pruner.cut(BATCH, density)
            pruner.renew()
        pruner.cut(BATCH, 0.4)
        pruner.to(BATCH, 0.5)
    assert counts == [0, 1, 2, 0]
