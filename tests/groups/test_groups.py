"""What groups and masks of them say, and those of the smaller network."""

from typing import Any

import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.groups import Axis, GroupMask, find_groups, shrink
from tests.graph.kinds import Net
from tests.groups.made import made
from tests.groups.networks import NETWORKS


@pytest.mark.parametrize("name", ["mlp", "convolutions and flatten", "attention", "attention of one's own"])
def test_the_groups_that_remain_are_those_of_the_smaller_network(name: str) -> None:
    network, groups, example = made(name)
    kept = torch.arange(groups.count) % 3 > 0
    mask = GroupMask(groups, kept)
    left, found = mask.remaining(), find_groups(shrink(network, mask), example)
    assert (left.count, left.shapes) == (int(kept.sum()), found.shapes)
    assert left.flops == pytest.approx(found.flops)
    assert left.other_flops == pytest.approx(found.other_flops)
    assert sum(flops for _, flops in left.products) == pytest.approx(sum(flops for _, flops in found.products))
    assert left.gated.tolist() == found.gated.tolist()
    assert {axis: of.tolist() for axis, of in left.by_axis.items()} == {
        axis: of.tolist() for axis, of in found.by_axis.items()
    }


def test_slices_that_are_fixed_beside_others_stay_fixed_in_what_remains() -> None:
    """A layer reads two units, two values of the input, and three units, of which the second is removed."""
    layers = {"a": nn.Linear(2, 2), "b": nn.Linear(2, 3), "c": nn.Linear(7, 3)}
    groups = find_groups(Net(lambda m, x: m.c(torch.cat([m.a(x), x, m.b(x)], 1)), **layers), torch.ones(1, 2))
    assert groups.by_axis[Axis("c.weight", 1)].tolist() == [0, 1, -1, -1, 2, 3, 4]
    left = GroupMask(groups, torch.arange(5) != 3).remaining()
    assert left.count == 4
    assert left.by_axis[Axis("c.weight", 1)].tolist() == [0, 1, -1, -1, 2, 3]


def test_products_without_their_heads_are_gone() -> None:
    _, groups, _ = made("attention of one's own")
    assert len(groups.products) == 2
    assert GroupMask(groups, torch.zeros(3, dtype=torch.bool)).remaining().products == ()


def test_a_mask_says_what_it_keeps_and_where_it_is() -> None:
    _, groups, _ = made("mlp")
    mask = GroupMask(groups, torch.arange(15) > 3)
    assert repr(mask) == "GroupMask(11 of 15 groups)"
    assert repr(groups.all_kept()) == "GroupMask(15 of 15 groups)"
    assert all(tensor.is_meta for tensor in mask.to("meta").values())
    assert mask.to("meta").kept_groups.equal(mask.kept_groups)
    assert not any(tensor.is_meta for tensor in mask.values())


def test_weights_are_those_of_products() -> None:
    assert made("convolutions and flatten")[1].weights == ("0.weight", "4.weight", "6.weight", "8.weight")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (nn.Sequential(nn.Linear(5, 8)), "'2.weight' has shape None, not torch.Size"),
        (
            nn.Sequential(*NETWORKS["mlp"][0]().children(), nn.BatchNorm1d(3)),
            r"'5\.weight' has shape torch.Size\(\[3\]\), not None",
        ),
        (nn.Sequential(nn.Linear(5, 9), nn.Tanh()), r"'0\.weight' has shape torch.Size\(\[9, 5\]\), not torch.Size"),
    ],
)
def test_groups_of_another_network(other: nn.Module, message: str) -> None:
    _, groups, _ = made("mlp")
    for use in (groups.check, groups.all_kept().apply_):
        with pytest.raises(pb.UserError, match=f"^these are groups of another network: {message}"):
            use(other)


def test_which_groups_are_kept_is_a_flag_for_each() -> None:
    _, groups, _ = made("mlp")
    for kept, message in ((torch.ones(15), "torch.bool"), ([True] * 15, "torch.bool"), (torch.ones(14).bool(), "14")):
        with pytest.raises(pb.UserError, match=message):
            GroupMask(groups, kept)  # type: ignore[arg-type]


def test_units_of_a_weight_in_a_buffer_are_fixed_but_not_those_that_it_reads() -> None:
    network: Any = Net(
        lambda m, x: m.b(m.n(m.a(x)) @ m.matrix), a=nn.Linear(5, 6), n=nn.BatchNorm1d(6), b=nn.Linear(4, 3)
    )
    network.register_buffer("matrix", torch.ones(6, 4))
    network.eval()
    groups = find_groups(network, torch.ones(1, 5))
    assert groups.count == 6
    assert groups.fixed[Axis("matrix", 1)] == ("'matrix' is no parameter, so that nothing scores its units",)
    GroupMask(groups, torch.arange(6) != 0).apply_(network)
    assert not network.a.weight[0].any()
    assert not network.n.weight[0]
    assert not network.matrix[0].any()
    assert network.matrix[1:].all()
    assert network.n.running_var.all()


def test_buffers_that_a_forward_pass_changes_do_not_matter() -> None:
    network: Any = Net(kept_places, a=nn.Linear(5, 6), b=nn.Linear(6, 3))
    network.register_buffer("places", torch.empty(0), persistent=False)
    network.eval()
    mask = pb.prune(network, (torch.randn(8, 5), torch.arange(8) % 3), "snap-it", 0.4)
    assert isinstance(mask, GroupMask)
    network(torch.ones(7, 5))
    small = pb.shrink(network, mask)
    assert small(torch.ones(4, 5)).shape == pb.shrink(network, mask)(torch.ones(4, 5)).shape == (4, 3)


def kept_places(m: Any, x: torch.Tensor) -> torch.Tensor:
    m.places = torch.arange(len(x))  # as of positions that are computed once
    result: torch.Tensor = m.b(torch.relu(m.a(x)))
    return result
