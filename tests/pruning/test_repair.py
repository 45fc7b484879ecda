"""Policies that keep a network connected, and pruning to an effective density."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import pai_bench as pb
from pai_bench.graph.connectivity import Connections
from pai_bench.masks import Scope
from pai_bench.masks.allocation import raise_to_floor, select_with_floor
from pai_bench.pruning.repair import effective_only


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 3))


def batch(seed: int = 0) -> pb.Batch:
    generator = torch.Generator().manual_seed(seed)
    return pb.Batch(torch.randn(9, 12, generator=generator), torch.arange(9) % 3)


def effective(model: nn.Module, mask: pb.Mask) -> int:
    return pb.connectivity(model, mask, batch().inputs[:1]).effective_mask.kept


@pytest.mark.parametrize("name", ["random", "magnitude", "snip", "synflow", "erk"])
@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_the_effective_density_is_the_one_asked_for(name: str, sparsity: float) -> None:
    """No count of connections comes nearer to it, tried one by one."""
    model = network()
    size = 12 * 20 + 20 * 10 + 10 * 3
    wanted = round((1 - sparsity) * size)
    mask = pb.prune(model, batch(), name, sparsity, target="effective", schedule="one-shot")
    found = effective(model, mask)
    every = [pb.prune(model, batch(), name, 1 - k / size, schedule="one-shot") for k in range(wanted, size + 1, 1)][
        :150
    ]
    assert abs(found - wanted) <= min(abs(effective(model, one) - wanted) for one in every[::3])
    assert mask.kept >= wanted


def test_synflow_needs_no_more_than_it_says() -> None:
    mask = pb.prune(network(), batch(), "synflow", 0.9, target="effective")
    assert mask.kept == effective(network(), mask) == 47


def test_more_than_can_be_effective_is_an_error() -> None:
    model = nn.Sequential(nn.Linear(12, 4), nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 3, 1, stride=5), nn.Flatten())
    with pytest.raises(pb.UserError, match="lie on a path, not the"):
        pb.prune(model, batch(), "magnitude", 0.1, target="effective")


@pytest.mark.parametrize("scope", ["global", "layerwise"])
@pytest.mark.parametrize("schedule", ["one-shot", "exponential:steps=5"])
def test_a_floor_keeps_the_best_of_every_layer(scope: Scope, schedule: str) -> None:
    model = network()
    plain = pb.prune(model, batch(), "magnitude", 0.95, schedule=schedule, scope=scope)
    mask = pb.prune(model, batch(), "magnitude", 0.95, schedule=schedule, scope=scope, min_per_layer=4)
    assert mask.kept == plain.kept == 24
    assert min(mask.kept_per_layer().values()) >= 4
    for name, keep in mask.items():
        scores = model.get_parameter(name).detach().abs()
        assert scores[keep].min() > scores[~keep].max()


def test_a_floor_that_changes_nothing_changes_nothing() -> None:
    model = network()
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            pb.prune(model, batch(), "snip", 0.5).values(),
            pb.prune(model, batch(), "snip", 0.5, min_per_layer=2).values(),
            strict=True,
        )
    )


def test_mistakes() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"min_per_layer": 100}, "min_per_layer=100 needs 230 connections, but only 24"),
        ({"min_per_layer": -1}, "must not be negative"),
        ({"target": "efective"}, "target 'efective' is not one of direct, effective"),
        ({"repair": "all"}, "repair 'all' is not one of none, effective-only"),
    ]
    for options, message in wrong:
        with pytest.raises(pb.UserError, match=message):
            pb.prune(network(), batch(), "magnitude", 0.95, **options)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(0, 6), st.data())
def test_floors_of_counts_and_of_rankings(sizes: list[int], least: int, data: st.DataObject) -> None:
    left = {str(i): size for i, size in enumerate(sizes)}
    floor = {name: min(least, size) for name, size in left.items()}
    parts = {name: data.draw(st.integers(0, size)) for name, size in left.items()}
    if (count := sum(parts.values())) < sum(floor.values()):
        return
    raised = raise_to_floor(parts, floor)
    assert sum(raised.values()) == count
    assert all(floor[name] <= raised[name] <= left[name] for name in left)
    scores = {name: torch.rand(size) for name, size in left.items()}
    mask = select_with_floor(scores, count, floor, None)
    assert sum(int(keep.sum()) for keep in mask.values()) == count
    assert all(int(keep.sum()) >= floor[name] for name, keep in mask.items())
    for name, keep in mask.items():  # within a layer, no lower score is kept before a higher one
        if keep.any() and not keep.all():
            assert scores[name][keep].min() >= scores[name][~keep].max()


def by_hand(mask: pb.Mask, scores: dict[str, Tensor], connections: Connections) -> pb.Mask:
    """The same policy with plain lists."""
    entries = sorted(
        (
            (-float(s), order, name, i)
            for order, (name, t) in enumerate(scores.items())
            for i, s in enumerate(t.flatten())
        )
    )
    current = {(name, i) for name, keep in mask.items() for i in keep.flatten().nonzero().flatten().tolist()}
    seen, best, most = set(current), current, -1
    while True:
        tensors = {name: torch.zeros(keep.numel(), dtype=torch.bool) for name, keep in mask.items()}
        for name, i in current:
            tensors[name][i] = True
        shaped = pb.Mask({name: tensor.view(mask[name].shape) for name, tensor in tensors.items()})
        left = connections.under(shaped).effective_mask
        used = {(name, i) for name, keep in left.items() for i in keep.flatten().nonzero().flatten().tolist()}
        if len(used) > most:
            best, most = current, len(used)
        fresh = [(name, i) for _, _, name, i in entries if (name, i) not in seen]
        if len(used) == len(current) or len(fresh) < len(current) - len(used):
            break
        added = set(fresh[: len(current) - len(used)])
        seen, current = seen | added, used | added
    tensors = {name: torch.zeros(keep.numel(), dtype=torch.bool) for name, keep in mask.items()}
    for name, i in best:
        tensors[name][i] = True
    return pb.Mask({name: tensor.view(mask[name].shape) for name, tensor in tensors.items()})


@pytest.mark.parametrize("seed", range(5))
def test_only_effective_connections(seed: int) -> None:
    model = network(seed)
    plain = pb.prune(model, batch(), "magnitude", 0.93)
    mask = pb.prune(model, batch(), "magnitude", 0.93, repair="effective-only")
    assert mask.kept == plain.kept
    assert effective(model, mask) > effective(model, plain)
    scores = {name: model.get_parameter(name).detach().abs() for name in plain}
    expected = by_hand(plain, scores, Connections(model, batch().inputs[:1]))
    assert all(torch.equal(mask[name], expected[name]) for name in mask)


def test_what_is_effective_already_stays() -> None:
    model = network()
    mask = pb.prune(model, batch(), "synflow", 0.9)
    scores = {name: torch.rand(keep.shape) for name, keep in mask.items()}
    found = effective_only(mask, scores, Connections(model, batch().inputs[:1]))
    assert all(torch.equal(found[name], mask[name]) for name in mask)


def test_the_last_connections_that_are_left_are_tried() -> None:
    """Of two units that read two inputs, the second one leads nowhere; two connections are left, and both are taken."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    mask = pb.Mask({"0.weight": torch.tensor([[True, False], [True, True]]), "1.weight": torch.tensor([[True, False]])})
    scores = {name: torch.rand(keep.shape) for name, keep in mask.items()}
    found = effective_only(mask, scores, Connections(model, torch.ones(1, 2)))
    assert found["0.weight"].tolist() == [[True, True], [False, False]]  # three of them on a path, in place of two
    assert found["1.weight"].tolist() == [[True, True]]


def test_a_single_connection_may_be_effective() -> None:
    mask = pb.prune(
        nn.Linear(3, 2, bias=False), (torch.ones(2, 3), torch.arange(2)), "magnitude", 5 / 6, target="effective"
    )
    assert mask.kept == 1


def test_a_mask_that_does_not_get_better_stays() -> None:
    """One connection into each of two units that are read by the other one: nothing that is left makes a path."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    mask = pb.Mask({"0.weight": torch.tensor([[True], [False]]), "1.weight": torch.tensor([[False, True]])})
    scores = {name: torch.rand(keep.shape) for name, keep in mask.items()}
    assert effective_only(mask, scores, Connections(model, torch.ones(1, 1))) is mask


def test_all_that_can_be_effective_may_be_asked_for() -> None:
    """Of 48 + 3 connections, only those of one unit are on a path: 12 + 3."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 4), nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 3, 1, stride=5), nn.Flatten())
    mask = pb.prune(model, batch(), "magnitude", 1 - 15 / 51, target="effective")
    assert effective(model, mask) == 15
    with pytest.raises(pb.UserError, match="only 15 of 51 connections lie on a path, not the 16 asked for"):
        pb.prune(model, batch(), "magnitude", 1 - 16 / 51, target="effective")
