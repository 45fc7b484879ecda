"""Groups, by hand, and what is left when some of them are removed: the same function, in float64."""

import itertools
import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pai_bench.groups import Axis, GroupMask, find_groups, shrink
from tests.graph.kinds import Net
from tests.groups.made import groups_of, some_kept
from tests.groups.masks_and_gates import MASKS_AND_GATES
from tests.groups.networks import NETWORKS, NOTHING_FREE, filled

NETWORKS = {**NETWORKS, **MASKS_AND_GATES}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_number_of_groups(name: str) -> None:
    build, shape, count = NETWORKS[name]
    groups, _ = groups_of(filled(build()), shape)
    assert groups.count == count


@pytest.mark.parametrize("name", NETWORKS)
def test_a_smaller_network_computes_what_the_masked_one_does(name: str) -> None:
    build, shape, _ = NETWORKS[name]
    network = filled(build())
    groups, _ = groups_of(network, shape)
    inputs = torch.randn((3, *shape[1:]), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    changed = 0
    for share, seed in itertools.product((0.3, 0.7), (0, 1)):
        mask = GroupMask(groups, some_kept(groups, share, seed))
        smaller, masked = shrink(network, mask), mask.apply_(filled(build()).requires_grad_(False))
        masked.load_state_dict(network.state_dict())
        mask.apply_(masked)
        expected, found = masked(inputs), smaller(inputs)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))
        sizes = [sum(p.numel() for p in model.parameters()) for model in (smaller, network)]
        changed += sizes[0] < sizes[1]
        assert {n: p.shape for n, p in smaller.named_parameters()} == {
            n: mask.shapes()[n] for n, _ in network.named_parameters()
        }
    assert changed >= 3


@pytest.mark.parametrize("name", NETWORKS)
def test_a_smaller_network_has_groups_of_its_own_and_trains(name: str) -> None:
    build, shape, _ = NETWORKS[name]
    network = filled(build())
    groups, example = groups_of(network, shape)
    mask = GroupMask(groups, some_kept(groups, 0.6, 4))
    smaller = shrink(network, mask)
    again, _ = groups_of(smaller, shape)
    left = mask.remaining()
    free = {axis: of for axis, of in left.by_axis.items() if len(of.unique()) > 1}
    for axis, of in free.items():  # but for layers with one unit left, which is fixed
        other = again.by_axis[axis]
        pairs = {(int(a), int(b)) for a, b in zip(of, other, strict=True) if b >= 0}
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    smaller.train()(example.expand(4, *example.shape[1:])).square().sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in smaller.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", NOTHING_FREE)
def test_what_is_fixed_has_a_reason(name: str, caplog: pytest.LogCaptureFixture) -> None:
    build, shape, reason = NOTHING_FREE[name]
    with caplog.at_level(logging.WARNING, "pai_bench"):
        groups, _ = groups_of(filled(build()), shape)
    assert groups.count == 0
    assert any(reason in text for of in groups.fixed.values() for text in of)
    assert bool(caplog.records) == ("the network" in reason and "output" not in reason)


def test_the_slices_of_a_residual_channel() -> None:
    build, shape, _ = NETWORKS["identity shortcut"]
    groups, _ = groups_of(filled(build()), shape)
    stream = groups.by_axis[Axis("a.weight", 0)]
    for axis in (Axis("a.bias", 0), Axis("b.weight", 0), Axis("b.bias", 0), Axis("c.weight", 1), Axis("d.weight", 1)):
        assert torch.equal(groups.by_axis[axis], stream)
    inner = groups.by_axis[Axis("c.weight", 0)]
    assert not torch.isin(inner, stream).any()
    assert torch.equal(groups.by_axis[Axis("b.weight", 1)], inner)
    assert Axis("a.weight", 1) not in groups.by_axis  # it reads the input
    assert Axis("d.weight", 0) not in groups.by_axis  # it makes the output


def test_the_slices_of_a_hidden_unit() -> None:
    build, shape, _ = NETWORKS["LSTM, 1 layers, 1 directions"]
    groups, _ = groups_of(filled(build()), shape)
    hidden = groups.by_axis[Axis("o.weight", 1)]
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        rows = groups.by_axis[Axis(f"r.{name}", 0)]
        assert torch.equal(rows, hidden.repeat(4))
    assert torch.equal(groups.by_axis[Axis("r.weight_hh_l0", 1)], hidden)
    assert bool(groups.gated.all())


def test_the_slices_of_a_head() -> None:
    build, shape, _ = NETWORKS["attention"]
    groups, _ = groups_of(filled(build()), shape)
    columns = groups.by_axis[Axis("a.out_proj.weight", 1)]
    assert torch.equal(columns, columns[::3].repeat_interleave(3))
    assert len(columns.unique()) == 4
    assert torch.equal(groups.by_axis[Axis("a.in_proj_weight", 0)], columns.repeat(3))
    assert bool(groups.gated[columns].all())
    assert not bool(groups.gated[groups.by_axis[Axis("e.weight", 0)]].any())


def test_flattened_columns_go_with_their_channel() -> None:
    build, shape, _ = NETWORKS["convolutions and flatten"]
    groups, _ = groups_of(filled(build()), shape)
    channels = groups.by_axis[Axis("4.weight", 0)]
    assert torch.equal(groups.by_axis[Axis("6.weight", 1)], channels.repeat_interleave(9))


def test_equal_parts_of_a_grouped_convolution_go_together() -> None:
    build, shape, _ = NETWORKS["grouped"]
    groups, _ = groups_of(filled(build()), shape)
    channels = groups.by_axis[Axis("0.weight", 0)]
    assert torch.equal(channels, channels[:3].repeat(4))
    assert torch.equal(groups.by_axis[Axis("3.weight", 1)], channels[:3])


def test_the_slices_of_a_masked_weight() -> None:
    build, shape, _ = NETWORKS["masked weights"]
    groups, _ = groups_of(filled(build()), shape)
    for dim in (0, 1):
        of = groups.by_axis[Axis("2.weight", dim)]
        assert torch.equal(groups.by_axis[Axis("2.mask", dim)], of)
        assert torch.equal(of, groups.by_axis[Axis(*(("2.bias", 0) if dim == 0 else ("0.weight", 0)))])
    assert {axis.name for axis in groups.roots} == {"0.weight", "2.weight", "4.weight"}


def test_the_slices_of_heads_that_share_keys() -> None:
    build, shape, _ = NETWORKS["keys that all heads share"]
    groups, _ = groups_of(filled(build()), shape)
    heads = torch.arange(3).repeat_interleave(4)
    assert torch.equal(groups.by_axis[Axis("q.weight", 0)], heads)
    assert torch.equal(groups.by_axis[Axis("o.weight", 1)], heads)
    for name in ("k", "v"):
        assert groups.fixed[Axis(f"{name}.weight", 0)] == ("it is combined with several units at once",)


def test_the_slices_of_a_transposed_depthwise_layer() -> None:
    build, shape, _ = NETWORKS["transposed depthwise, two of each"]
    network = filled(build())
    groups, _ = groups_of(network, shape)
    channels = groups.by_axis[Axis("0.weight", 0)]
    assert torch.equal(groups.by_axis[Axis("2.weight", 0)], channels)
    assert Axis("2.weight", 1) not in groups.by_axis
    for axis in (Axis("2.bias", 0), Axis("3.running_var", 0), Axis("4.weight", 1)):
        assert torch.equal(groups.by_axis[axis], channels.repeat_interleave(2))
    layer = shrink(network, GroupMask(groups, torch.arange(groups.count) != 1))[2]  # type: ignore[index]
    assert (layer.in_channels, layer.groups, layer.out_channels) == (5, 5, 10)


def test_roots_and_what_is_fixed_are_in_the_order_of_the_network() -> None:
    groups, _ = groups_of(filled(NETWORKS["mlp"][0]()), (1, 5))
    assert groups.roots == tuple(Axis(f"{i}.weight", 0) for i in (0, 2, 4))
    assert list(groups.fixed) == [Axis("4.weight", 0)]
    assert groups.fixed[Axis("4.weight", 0)][0] == "the network's output"
    assert groups.by_axis[Axis("0.weight", 0)].tolist() == [*range(8)]
    assert groups.by_axis[Axis("2.weight", 0)].tolist() == [*range(8, 15)]
    assert groups.flops == {"0.weight": 2 * 5 * 8, "2.weight": 2 * 8 * 7, "4.weight": 2 * 7 * 3}
    assert (groups.products, groups.other_flops) == ((), 0)


def test_a_layer_of_one_unit_keeps_it() -> None:
    groups, _ = groups_of(filled(nn.Sequential(nn.Linear(5, 1), nn.Tanh(), nn.Linear(1, 3))), (1, 5))
    assert groups.count == 0
    assert groups.fixed[Axis("0.weight", 0)] == ("all units of '0.weight' go together",)


def test_operations_of_products_are_of_one_example() -> None:
    """Of 4 tokens and 3 heads of 4: every query with every key, and every share of attention with every value."""
    build, _, _ = NETWORKS["attention of one's own"]
    for examples in (1, 2):
        groups = find_groups(filled(build()), torch.ones(examples, 4, 5, dtype=torch.float64))
        assert [(of.tolist(), flops) for of, flops in groups.products] == [([0, 1, 2], 2 * 3 * 4 * 4 * 4)] * 2
        assert groups.other_flops == 0
        assert groups.flops == {"qkv.weight": 2 * 4 * 5 * 36, "o.weight": 2 * 4 * 12 * 3}


def test_operations_of_products_that_stay_are_other_ones() -> None:
    """Of 5 tokens with 6, the last of which is zero, as 4 heads of 2: their number is in the code of the layer."""
    attention = nn.MultiheadAttention(8, 4, add_zero_attn=True, batch_first=True)
    groups, _ = groups_of(filled(Net(lambda m, x: m.b(m.a(x, x, x)[0]), a=attention, b=nn.Linear(8, 3))), (1, 5, 8))
    assert groups.count == 0
    assert groups.products == ()
    assert groups.other_flops == 2 * (2 * 4 * 5 * 6 * 2)


@pytest.mark.parametrize("steps", [2, 3])
def test_units_of_recurrent_layers_are_hidden_after_two_steps_already(steps: int) -> None:
    network = Net(lambda m, x: m.o(m.r(x)[0][-1]), r=nn.LSTM(5, 4), o=nn.Linear(4, 3))
    groups, _ = groups_of(filled(network), (steps, 1, 5))
    assert groups.count == 4
    assert bool(groups.gated.all())


def doubled_if_small(m: Any, x: Tensor) -> Tensor:
    """Of the example, the sum of 16 sigmoids is never below 1.5; of 2 of them, it can be."""
    h = m.a(x).sigmoid()
    y: Tensor = m.b(h)
    return y * 2 if float(h.sum(1).min()) < 1.5 else y


BRANCHES: dict[str, Any] = {
    "a sum over units": doubled_if_small,
    "another layer": lambda m, x: (m.b if x.mean() > 0 else m.c)(m.a(x).relu()),
    "an early exit": lambda m, x: y if (y := m.b(h := m.a(x).relu())).softmax(-1).amax() > 0.95 else m.c(h),
    "values that are not finite": lambda m, x: m.b(h if torch.isfinite(h := m.a(x).relu()).all() else h * 0),
    "equal values": lambda m, x: m.b(m.a(x).relu()) * (1 if torch.equal(x, x.relu()) else 2),
    "how many are positive": lambda m, x: m.b(h := m.a(x).relu()) * h.nonzero().shape[0],
    "numbers for other code": lambda m, x: m.b(h := m.a(x).relu()) * max(h.sum(1).tolist()),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_nothing_is_removed_where_different_data_take_different_paths(name: str) -> None:
    layers = {"a": nn.Linear(6, 16), "b": nn.Linear(16, 3), "c": nn.Linear(16, 3)}
    groups, _ = groups_of(filled(Net(BRANCHES[name], **layers)), (4, 6))
    assert groups.count == 0
    assert groups.fixed[Axis("a.weight", 0)] == ("the network does different things for different data",)


def test_numbers_that_do_not_depend_on_the_data_are_no_branch() -> None:
    network = Net(
        lambda m, x: m.b(m.a(x).relu()) * (2 if bool(m.s > 0) and float(torch.ones(3).sum()) > 2 else 1),
        **{"a": nn.Linear(6, 16), "b": nn.Linear(16, 3), "s": nn.Parameter(torch.ones(()))},
    )
    assert groups_of(filled(network), (4, 6))[0].count == 16


def test_operations_with_a_product_of_two_parameters_are_counted_once() -> None:
    """2 x 6 x 8 multiplications and additions with a weight that is learned in two factors, and 2 x 8 x 3 others."""
    network = Net(
        lambda m, x: m.b(torch.nn.functional.linear(x, m.a.weight * m.m, m.a.bias).relu()),
        **{"a": nn.Linear(6, 8), "m": nn.Parameter(torch.ones(8, 6)), "b": nn.Linear(8, 3)},
    )
    groups, _ = groups_of(filled(network), (1, 6))
    assert groups.count == 8
    assert groups.flops == {"a.weight": 48, "m": 48, "b.weight": 48}
    assert groups.other_flops == 0


def test_weights_that_make_no_units_have_a_reason() -> None:
    network = Net(
        lambda m, x: m.b(m.a(torch.nn.functional.linear(x, m.w * m.r.exp()).cos())),
        **{"w": nn.Parameter(torch.randn(8, 6)), "r": nn.Parameter(torch.randn(8, 1))},
        **{"a": nn.Linear(8, 8), "b": nn.Linear(8, 3)},
    )
    groups, _ = groups_of(filled(network), (1, 6))
    assert groups.count == 8
    assert groups.fixed[Axis("w", 0)] == ("it is used in an operation that is not known to make units",)
    assert set(groups.weights) <= {axis.name for axis in groups.fixed} | set(groups.axes_of)
