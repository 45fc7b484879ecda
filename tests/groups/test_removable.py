"""Which groups can be removed, by trying: what networks count on, in which mode, and with which values."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pai_bench.groups import Axis, GroupMask, find_groups, removable, shrink
from pai_bench.groups.removable import difference, fill, restore_last, scale_statistics
from pai_bench.support.torch_internals import forward_hooks
from tests.graph.kinds import Net
from tests.groups.made import groups_of
from tests.groups.networks import NETWORKS, filled


def counting_blocks(m: Any, x: Tensor) -> Tensor:
    """Blocks of which those that say so count their units in the code."""
    x = m.e(x)
    for block in m.blocks:
        y = torch.relu(block.a(x))
        x = x + block.b(y.view(-1, 6) if block.counts else y)
    return m.o(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("counting", "free", "most"), [(range(12), 5, 10), ((4,), 5 + 11 * 6, 45), ((), 5 + 12 * 6, 4)]
)
def test_layers_that_count_their_units_are_found_soon(
    counting: Sequence[int], free: int, most: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = nn.ModuleList(nn.ModuleDict({"a": nn.Linear(5, 6), "b": nn.Linear(6, 5)}) for _ in range(12))
    for place, block in enumerate(blocks):
        block.counts = place in counting  # type: ignore[assignment]
    network = filled(Net(counting_blocks, e=nn.Linear(5, 5), blocks=blocks, o=nn.Linear(5, 3)))
    calls = []

    def counted(*args: Any) -> str | None:
        calls.append(args)
        return difference(*args)

    monkeypatch.setattr(removable, "difference", counted)
    groups, _ = groups_of(network, (2, 5))
    assert groups.count == free
    assert len(calls) <= most
    assert len(caplog.records) == bool(counting)


def test_a_group_that_cannot_go_is_found_among_those_that_can(caplog: pytest.LogCaptureFixture) -> None:
    network = filled(
        Net(
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


def added_up(m: Any, x: Tensor) -> Tensor:
    for block in m.blocks:
        x = x + block(x)
    return x


def test_values_do_not_grow_in_deep_networks() -> None:
    blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)) for _ in range(60))
    network, example = Net(added_up, blocks=blocks).double().eval(), torch.randn(4, 8, dtype=torch.float64)
    network.requires_grad_(False)
    fill(network, torch.Generator().manual_seed(0))
    assert float(network(example).std()) > 1e6
    scale_statistics(network, example)
    assert 1 < float(network(example).std()) < 100
    assert not any(forward_hooks(module)[1] for module in network.modules())


def test_statistics_fit_what_a_norm_takes_first() -> None:
    """Of two calls, with values of size 3 and 30; what is never called, or takes only zeros, stays as it is."""
    first, zeros, unused = norms = [nn.BatchNorm1d(2) for _ in range(3)]
    statistics = [[norm.get_buffer(name) for name in ("running_mean", "running_var")] for norm in norms]
    for buffer in itertools.chain(*statistics):
        buffer.copy_(torch.tensor([0.5, 1.5]))
    network = Net(lambda m, x: (m.n(x), m.n(10 * x), m.zeros(0 * x)), n=first, zeros=zeros, unused=unused)
    scale_statistics(network.eval(), torch.tensor([[3.0, -3.0]]))
    same = [[0.5, 1.5]] * 2
    assert [[buffer.tolist() for buffer in of] for of in statistics] == [[[-1.5, 1.5], [4.5, 13.5]], same, same]


def test_the_callers_autocast_and_functional_dropout_change_nothing() -> None:
    network = Net(
        lambda m, x: m.b(torch.dropout(torch.relu(m.a(x)), 0.5, True)), a=nn.Linear(5, 16), b=nn.Linear(16, 3)
    ).eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert find_groups(network, torch.randn(1, 5)).count == 16


class Counting(nn.Sequential):
    """Adds a little for each unit of its first layer."""

    little = 0.0

    def forward(self, x: Tensor) -> Any:
        first, last = self
        return last(first(x)) + self.little * first.get_parameter("weight").shape[0]


@pytest.mark.parametrize(
    ("dtype", "little", "same"),
    [
        (torch.float64, 1e-12, True),
        (torch.float64, 1e-9, False),
        (torch.float32, 1e-6, True),
        (torch.float32, 1e-4, False),
    ],
)
def test_how_large_a_difference_is_one(dtype: torch.dtype, little: float, same: bool) -> None:
    """Beside outputs of 1."""
    last = nn.Linear(6, 3)
    nn.init.zeros_(last.weight)
    nn.init.ones_(last.bias)
    network, example = Counting(nn.Linear(5, 6), last).to(dtype), torch.ones(1, 5, dtype=dtype)
    groups = find_groups(network, example)
    assert groups.count == 6
    network.little = little
    assert (difference(network, GroupMask(groups, torch.arange(6) > 0), example) is None) is same


def test_empty_outputs_do_not_differ() -> None:
    network = filled(Net(lambda m, x: (m.b(m.a(x)), x[:, :0]), a=nn.Linear(5, 6), b=nn.Linear(6, 3)))
    assert groups_of(network, (1, 5))[0].count == 6


def test_random_weights_show_what_a_network_computes() -> None:
    network = nn.Sequential(nn.Linear(400, 400), nn.BatchNorm1d(400))
    network.register_parameter("scale", nn.Parameter(torch.zeros(())))
    network.register_buffer("table", torch.zeros(3))
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    fill(network, torch.Generator().manual_seed(0))
    state = network.state_dict()
    assert float(state["0.weight"].std()) == pytest.approx(400**-0.5, rel=0.02)
    assert abs(float(state["0.weight"].mean())) < 1e-3
    for name in ("0.bias", "1.weight", "1.bias", "scale"):
        assert bool((state[name] >= 0.5).all()), name
    for name in ("1.running_mean", "1.running_var"):
        least, most = float(state[name].min()), float(state[name].max())
        assert 0.5 <= least < 0.6
        assert 1.4 < most <= 1.5
    assert not state["table"].any()


def test_a_group_of_each_layer_stays() -> None:
    groups, _ = groups_of(filled(NETWORKS["mlp"][0]()), (1, 5))
    kept = torch.zeros(15, dtype=torch.bool)
    restore_last(groups, kept)
    assert kept.nonzero().flatten().tolist() == [0, 8]
    kept = torch.arange(15) == 3
    restore_last(groups, kept)
    assert kept.nonzero().flatten().tolist() == [3, 8]


def odds(_: Any, x: Tensor) -> Tensor:
    """Of values between 0 and 1; those of others have no logarithm."""
    return (x / (1 - x)).log()


def looked_up(m: Any, x: Tensor) -> Tensor:
    """Tokens in floating point, which cannot be negative."""
    found: Tensor = m.e(x.long()).flatten(1)
    return found


@pytest.mark.parametrize("way", [odds, looked_up])
@pytest.mark.parametrize("counting", [False, True])
def test_units_are_tried_with_the_example_where_random_values_fail(
    way: Any, counting: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """If the code counts on 8 units, this is found, and named."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.a(way(m, x)).relu()
        y: Tensor = m.b(h.view(4, 8) if counting else h)
        return y

    parts = {"e": nn.Embedding(10, 1), "a": nn.Linear(6, 8), "b": nn.Linear(8, 3)}
    example = torch.full((4, 6), 0.25 if way is odds else 9.0, dtype=torch.float64)
    assert find_groups(filled(Net(forward, **parts)), example).count == (0 if counting else 8)
    assert ("fails without some" in caplog.text) == counting


def test_random_values_show_what_an_example_of_zeros_hides() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y: Tensor = m.b(m.a(x).relu()) + x.sum() * len(m.a.weight)
        return y

    network = filled(Net(forward, a=nn.Linear(6, 8), b=nn.Linear(8, 3)))
    assert find_groups(network, torch.zeros(1, 6, dtype=torch.float64)).count == 0


def test_a_network_that_takes_no_random_weights_raises_nothing() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y: Tensor = m.b(m.a(x).relu())
        m.e(torch.as_tensor([m.a.weight[0, 0] != 0.5]).long())  # only with its own weights, token 0
        return y

    first = nn.Linear(6, 8)
    nn.init.constant_(first.weight, 0.5)
    network = Net(forward, a=first, b=nn.Linear(8, 3), e=nn.Embedding(1, 2)).double().eval()
    find_groups(network, torch.ones(4, 6, dtype=torch.float64))


class Auxiliary(nn.Module):
    """In training mode, a second layer reads the 8 units of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n, self.b = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 7)
        self.c, self.auxiliary = nn.Linear(7, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        h = self.n(self.a(x)).relu()
        y = self.c(self.b(h).relu())
        return (y, self.auxiliary(h)) if self.training else y


def test_units_that_only_training_reads_stay(caplog: pytest.LogCaptureFixture) -> None:
    """7 units of the second layer can go; the 8 of the first cannot."""
    network = filled(Auxiliary())
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    groups, example = groups_of(network, (1, 6))
    assert groups.count == 7
    assert groups.by_axis[Axis("b.weight", 0)].tolist() == [*range(7)]
    assert "8 of 15 groups are fixed: without some of them, the network fails in training mode" in caplog.text
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    smaller = shrink(network, GroupMask(groups, torch.arange(7) > 3))
    assert [tuple(y.shape) for y in smaller.train()(example.expand(4, 6))] == [(4, 3), (4, 3)]


def test_layers_that_are_never_used_fix_nothing() -> None:
    network = Net(lambda m, x: m.b(m.a(x).relu()), a=nn.Linear(6, 8), b=nn.Linear(8, 3), c=nn.Linear(9, 9))
    assert groups_of(filled(network), (1, 6))[0].count == 8


@pytest.mark.parametrize("units", [8, 12, 16, 24])
def test_units_that_training_counts_stay(units: int, caplog: pytest.LogCaptureFixture) -> None:
    """Two parts have equal numbers of them, which random ones may have, too."""

    def forward(m: Any, x: Tensor) -> Tensor:
        hidden = m.a(x).relu()
        further = m.aux(x) * hidden.view(len(hidden), 2, -1).mean() if m.training else 0.0
        return m.b(hidden) + further  # type: ignore[no-any-return]

    network = Net(forward, a=nn.Linear(6, units), b=nn.Linear(units, 3), aux=nn.Linear(6, 3))
    assert groups_of(filled(network), (1, 6))[0].count == 0
    assert "fails in training mode" in caplog.text
