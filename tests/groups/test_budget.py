"""How many groups may go, beside a plain loop that shrinks the network after each."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.graph.flops import flops
from pai_bench.groups import GroupMask, find_groups, shrink
from pai_bench.groups.budget import Budget, keep_share, ranked_by_layer, removal_order, sparsities, units_of_layers
from tests.graph.kinds import Net
from tests.groups.made import made
from tests.groups.networks import filled

NAMES = ["mlp", "convolutions and flatten", "projected shortcut", "padded shortcut", "depthwise", "grouped", "chunk"]


def counted(network: nn.Module, example: Tensor, what: str) -> int:
    """Weights, units of all layers but the last, or operations, of a network as it is."""
    layers = [m for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    if what == "flops":
        return flops(network, example).total
    if what == "weights":
        return sum(layer.weight.numel() for layer in layers)
    return sum(layer.weight.shape[0] for layer in layers[:-1])


@pytest.mark.parametrize(
    ("name", "what"),
    [(n, w) for n in NAMES for w in ("weights", "nodes", "flops") if (n, w) != ("depthwise", "nodes")],  # see below
)
def test_what_is_left(name: str, what: Any) -> None:
    network, groups, example = made(name)
    order = removal_order(groups, torch.rand(groups.count, generator=torch.Generator().manual_seed(1)))
    budget = Budget(groups, order)
    for removed in range(len(order) + 1):
        smaller = shrink(network, budget.kept(removed))
        assert math.isclose(budget.left(what, removed), counted(smaller, example, what), rel_tol=1e-12), removed


@pytest.mark.parametrize("what", ["weights", "flops", "nodes"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "depthwise"])
def test_the_shortest_list_of_groups_goes(name: str, what: Any) -> None:
    network, groups, example = made(name)
    scores = torch.rand(groups.count, generator=torch.Generator().manual_seed(2))
    dense = counted(network, example, what)
    for density in (0.9, 0.7, 0.5):
        mask = keep_share(groups, scores, density, sparsity_of=what)
        limit = round(density * dense) if what == "nodes" else density * dense
        assert counted(shrink(network, mask), example, what) <= limit
        removed = (~mask.kept_groups).nonzero().flatten()
        back = mask.kept_groups.clone()
        back[removed[scores[removed].argmax()]] = True
        assert counted(shrink(network, GroupMask(groups, back)), example, what) > limit


def test_units_are_counted_exactly() -> None:
    _, groups, _ = made("mlp")
    scores = torch.rand(15, generator=torch.Generator().manual_seed(3))
    for kept in range(2, 16):
        mask = keep_share(groups, scores, kept / 15, sparsity_of="nodes")
        assert int(mask.kept_groups.sum()) == kept


def test_equal_scores_keep_the_first() -> None:
    _, groups, _ = made("mlp")
    mask = keep_share(groups, torch.zeros(15), 10 / 15, sparsity_of="nodes")
    assert mask.kept_groups.nonzero().flatten().tolist() == [*range(10)]


def test_every_layer_keeps_its_best_units() -> None:
    _, groups, _ = made("mlp")
    scores = torch.cat([torch.arange(8.0), 10 + torch.arange(7.0)])
    mask = keep_share(groups, scores, 3 / 15, sparsity_of="nodes")
    assert mask.kept_groups.nonzero().flatten().tolist() == [7, 13, 14]


@pytest.mark.parametrize("least", [1, 3, 99])
def test_a_number_of_units_of_each_layer_stays(least: int) -> None:
    _, groups, _ = made("mlp")  # layers of 8 and 7 units
    scores = torch.rand(15, generator=torch.Generator().manual_seed(5))
    removed = removal_order(groups, scores, least).tolist()
    stay = [*scores[:8].argsort()[8 - min(least, 8) :].tolist(), *(8 + scores[8:].argsort()[-least:]).tolist()]
    assert sorted(set(range(15)) - set(removed)) == sorted(stay)
    assert removed == [unit for unit in scores.argsort().tolist() if unit not in stay]
    with pytest.raises(pb.UserError, match=rf"since {least} units? of every layer and what is fixed stay"):
        keep_share(groups, scores, 0.0, sparsity_of="nodes", least=least)


@pytest.mark.parametrize(
    ("name", "units"),
    [
        ("mlp", [(8, 0), (7, 0)]),
        ("LSTM, 1 layers, 1 directions", [(6, 0), (6, 0)]),  # of 24 rows, which read the input or the state
        ("grouped", [(3, 0), (2, 0), (4, 0)]),  # the same places of all groups of a convolution go together
        ("gated linear unit", [(6, 0)]),
        ("attention of one's own", [(3, 0)]),
    ],
)
def test_units_of_layers_whatever_rows_they_have(name: str, units: list[tuple[int, int]]) -> None:
    _, groups, _ = made(name)
    assert [(len(free), fixed) for free, fixed in units_of_layers(groups).values()] == units


def test_fixed_units_count_by_their_rows() -> None:
    """Two of six hidden units of four rows each."""
    _, groups, _ = made("LSTM, 1 layers, 1 directions")
    axis = next(axis for axis in groups.roots if axis in groups.by_axis)
    of = torch.where(groups.by_axis[axis] < 2, -1, groups.by_axis[axis])
    ((free, fixed),) = units_of_layers(dataclasses.replace(groups, by_axis={axis: of}, roots=(axis,))).values()
    assert (free.tolist(), fixed) == ([2, 3, 4, 5], 2)


def test_what_is_fixed_counts_among_the_units_that_stay() -> None:
    _, groups, _ = made("mlp")
    root = groups.roots[0]
    half = groups.by_axis[root].where(torch.arange(8) < 4, -1)
    partly = dataclasses.replace(groups, count=15, by_axis={**groups.by_axis, root: half})
    removed = removal_order(partly, torch.arange(15.0), 5).tolist()
    assert removed == [0, 1, 2, 4, 5, 6, 7, 8, 9]  # four are fixed, so that one of the others stays; of 7, five


def test_layerwise_removes_the_same_share_of_each_layer() -> None:
    _, groups, _ = made("mlp")
    scores = torch.cat([torch.tensor([5.0, 1, 1, 7, 2, 6, 8, 3]), 10 + torch.arange(7.0)])
    shares = ranked_by_layer(groups, scores)
    assert (8 * shares[:8]).tolist() == [5, 2, 1, 7, 3, 6, 8, 4]  # of equal units the later one goes first
    assert (7 * shares[8:]).round(decimals=9).tolist() == [1, 2, 3, 4, 5, 6, 7]
    mask = keep_share(groups, shares, 7 / 15, sparsity_of="nodes")
    assert mask.kept_groups.nonzero().flatten().tolist() == [0, 3, 5, 6, 12, 13, 14]


def test_units_of_one_layer_are_alike_if_the_same_layers_read_them() -> None:
    _, groups, _ = made("chunk")
    by_roots, by_all = groups.alike(groups.roots), groups.alike(groups.by_axis)
    for axes, kinds in ((groups.roots, by_roots), (tuple(groups.by_axis), by_all)):
        slices = {
            g: tuple(int((groups.by_axis[a] == g).sum()) for a in axes if a in groups.by_axis)
            for g in range(groups.count)
        }
        for one in range(groups.count):
            for other in range(groups.count):
                assert (slices[one] == slices[other]) == (kinds[one] == kinds[other])


@pytest.mark.parametrize("what", ["weights", "flops", "nodes"])
def test_a_share_that_can_be_kept_exactly_is_kept(what: Any) -> None:
    _, groups, _ = made("mlp")
    scores = torch.rand(15, generator=torch.Generator().manual_seed(5))
    order = removal_order(groups, scores)
    budget = Budget(groups, order)
    whole = budget.left(what, 0)
    for removed in range(len(order) + 1):
        left = budget.left(what, removed)
        mask = keep_share(groups, scores, left / whole, sparsity_of=what)
        assert int((~mask.kept_groups).sum()) == removed
        smaller = keep_share(groups, scores, 0.25 * left / whole, sparsity_of=what, dense=4 * whole)
        assert torch.equal(smaller.kept_groups, mask.kept_groups)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "depthwise"])
def test_the_shares_that_a_mask_takes_away_are_those_of_the_smaller_network(name: str) -> None:
    network, groups, example = made(name)
    assert sparsities(groups.all_kept()) == {"weights": 0, "nodes": 0, "flops": 0}
    mask = keep_share(groups, torch.arange(float(groups.count)), 0.7)
    small = shrink(network, mask)
    for of, share in sparsities(mask).items():
        assert share == pytest.approx(1 - counted(small, example, of) / counted(network, example, of), abs=1e-12)


def test_the_largest_sparsity_is_named() -> None:
    """Of 5 * 8 + 8 * 7 + 7 * 3 weights, 5 + 1 + 3 stay: 1 - 9 / 117 is 0.92307, which is rounded down."""
    _, groups, _ = made("mlp")
    with pytest.raises(pb.UserError, match=r"^a sparsity of 0\.95 of weights cannot be .*; the largest is 0\.923$"):
        keep_share(groups, torch.rand(15), 0.05)


def test_what_cannot_be_reached_says_how_far_one_can_go() -> None:
    network, groups, example = made("convolutions and flatten")
    scores = torch.rand(groups.count, generator=torch.Generator().manual_seed(4))
    with pytest.raises(pb.UserError, match="of weights cannot be reached") as error:
        keep_share(groups, scores, 0.001)
    largest = float(str(error.value).rpartition(" ")[2])
    mask = keep_share(groups, scores, 1 - largest + 1e-4)
    assert (
        abs(1 - counted(shrink(network, mask), example, "weights") / counted(network, example, "weights") - largest)
        < 1e-4
    )
    with pytest.raises(pb.UserError, match="sparsity of 'units' is not one of weights, nodes, flops"):
        keep_share(groups, scores, 0.5, sparsity_of="units")  # type: ignore[arg-type]


def test_a_depthwise_layer_has_no_units_of_its_own() -> None:
    _, groups, _ = made("depthwise")
    budget = Budget(groups, torch.arange(groups.count))
    assert [budget.left("nodes", removed) for removed in range(11)] == [*range(10, -1, -1)]


def test_hidden_units_and_heads_count_as_one() -> None:
    for name, units in (("LSTM, 2 layers, 2 directions", 24), ("attention of one's own", 3), ("gated linear unit", 12)):
        _, groups, _ = made(name)
        order = torch.arange(groups.count)
        budget = Budget(groups, order)
        assert budget.left("nodes", 0) == units
        assert budget.left("nodes", groups.count) == 0
        assert np.isclose(budget.left("nodes", 1), units * (1 - 1 / groups.count))


def added_up(m: Any, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.d(h + F.relu(m.c(h)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("network", "shape", "free", "rows", "nodes", "of_a_group"),
    [
        (Net(lambda m, x: m.b(m.a(m.r(x)[0])), r=nn.LSTM(4, 7), a=nn.Linear(7, 10), b=nn.Linear(10, 3)), 4, 17,
         [4, 1], 7 + 10, 1),
        (Net(lambda m, x: m.b(m.a(m.n(m.r(x)[0]))), r=nn.LSTM(4, 7), n=nn.LayerNorm(7), a=nn.Linear(7, 10),
                  b=nn.Linear(10, 3)), 4, 10, [4, 1], 7 + 10, 1),
        (Net(lambda m, x: m.b(m.a(m.n(m.r(x)[0]))), r=nn.GRU(4, 7, 2, bidirectional=True), n=nn.LayerNorm(14),
                  a=nn.Linear(14, 10), b=nn.Linear(10, 3)), 4, 14 + 10, [3, 3, 3, 3, 1], 4 * 7 + 10, 1),
        (Net(lambda m, x: m.b(m.e(x) + m.a(*[m.e(x)] * 3)[0]), e=nn.Linear(4, 8),
                  a=nn.MultiheadAttention(8, 4, add_zero_attn=True), b=nn.Linear(8, 3)), 4, 0, [1, 6, 1], 8 + 4 + 8, 0),
        (Net(lambda m, x: m.b(m.a(*[m.e(x)] * 3)[0]), e=nn.Linear(4, 8), a=nn.MultiheadAttention(8, 1),
                  b=nn.Linear(8, 3)), 4, 16, [1, 24, 1], 8 + 1 + 8, 1),
        (Net(added_up, a=nn.Linear(4, 8), c=nn.Linear(8, 8), d=nn.Linear(8, 3)), 4, 8, [1, 1], 8 + 8, 2),
    ],
    ids=["LSTM", "LSTM and a layer norm", "GRU and a layer norm", "attention that stays", "one head", "h + f(h)"],
)  # fmt: skip
def test_units_count_alike_whether_or_not_they_are_fixed(
    network: nn.Module, shape: int, free: int, rows: list[int], nodes: int, of_a_group: int
) -> None:
    example = torch.randn(1, 5, shape, dtype=torch.float64)
    groups = find_groups(filled(network), example.transpose(0, 1))
    assert groups.count == free
    assert list(groups.rows_per_unit.values()) == rows
    budget = Budget(groups, torch.arange(groups.count))
    assert budget.left("nodes", 0) == nodes
    if groups.count:
        one = GroupMask(groups, torch.arange(groups.count) > 0)
        again = Budget(one.remaining(), torch.arange(groups.count - 1))
        assert again.left("nodes", 0) == budget.left("nodes", 1) == nodes - of_a_group
