"""Groups, by hand, and what is left when some of them are removed: the same function, in float64."""

import dataclasses
import itertools
import logging

import pytest
import torch
from torch import Tensor, nn

from pai_bench.groups import Axis, GroupMask, Groups, find_groups, shrink
from pai_bench.groups.find import difference, fill
from tests.groups.networks import NETWORKS, NOTHING_FREE, Composed, filled


def groups_of(network: nn.Module, shape: tuple[int, ...]) -> tuple[Groups, Tensor]:
    example = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return find_groups(network, example), example


def some_kept(groups: Groups, share: float, seed: int) -> Tensor:
    """About a share of the groups, at least one of each layer."""
    kept = torch.rand(groups.count, generator=torch.Generator().manual_seed(seed)) < share
    for of in (groups.by_axis[axis] for axis in groups.roots if axis in groups.by_axis):
        if bool((of >= 0).all()) and not bool(kept[of].any()):
            kept[of[0]] = True
    return kept


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


def test_a_group_that_cannot_go_is_found_among_those_that_can(caplog: pytest.LogCaptureFixture) -> None:
    network = filled(
        Composed(
            lambda m, x: m.d(torch.relu(m.c(torch.relu(m.b(m.a(x).view(-1, 6)))))),
            a=nn.Linear(5, 6),
            b=nn.Linear(6, 7),
            c=nn.Linear(7, 8),
            d=nn.Linear(8, 3),
        )
    )
    groups, _ = groups_of(network, (2, 5))
    assert groups.count == 7 + 8
    assert "6 of 21 groups are fixed" in caplog.text
    assert list(groups.fixed) == [Axis("a.weight", 0), Axis("d.weight", 0)]


def test_a_difference_is_named() -> None:
    network = filled(nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)))
    fill(network, torch.Generator().manual_seed(0))
    groups, example = groups_of(network, (1, 5))
    kept = torch.ones(6, dtype=torch.bool)
    kept[2] = False
    assert difference(network, GroupMask(groups, kept), example) is None
    of = dict(groups.by_axis)
    of[Axis("2.weight", 1)] = of[Axis("2.weight", 1)].flip(0)
    wrong = dataclasses.replace(groups, by_axis=of)
    found = difference(network, GroupMask(wrong, kept), example)
    assert found == "without some of them, the network computes something else than with zeros in their places"


def test_the_callers_autocast_and_functional_dropout_change_nothing() -> None:
    network = Composed(
        lambda m, x: m.b(torch.dropout(torch.relu(m.a(x)), 0.5, True)), a=nn.Linear(5, 16), b=nn.Linear(16, 3)
    ).eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert find_groups(network, torch.randn(1, 5)).count == 16
