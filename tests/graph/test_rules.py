"""What passes through windows and reductions, and which networks have a number of paths."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from tests.graph.dependence import by_gradients, by_masks
from tests.graph.kinds import Net

WINDOWS: dict[str, Callable[[Tensor], Tensor]] = {
    "dilated": lambda x: F.max_pool1d(x, 2, 1, dilation=2),
    "dilated by three, padded": lambda x: F.max_pool1d(x, 2, 2, 1, dilation=3),
    "dilated in two": lambda x: F.max_pool2d(x.view(1, 1, 2, 2).repeat(1, 1, 1, 2), (1, 2), 1, dilation=(1, 3)),
    "a mean with a rest": lambda x: F.avg_pool1d(x, 3, 2, 1, ceil_mode=True),
    "a maximum with a rest": lambda x: F.max_pool1d(x, 3, 3, ceil_mode=True),
    "a mean without a rest": lambda x: F.avg_pool1d(x, 3),
    "steps as long as windows": lambda x: F.max_pool1d(x, 2),
    "one number for two": lambda x: F.max_pool2d(x.view(1, 1, 2, 2), 2, 1, 1),
    "two numbers": lambda x: F.avg_pool2d(x.view(1, 1, 1, 4), (1, 2), (1, 2), (0, 1)),
    "a maximum in three": lambda x: F.max_pool3d(x.view(1, 1, 1, 2, 2), (1, 2, 1), 1),
    "a mean in three": lambda x: F.avg_pool3d(x.view(1, 1, 1, 2, 2), (1, 1, 2), 1),
    "of any size": lambda x: F.adaptive_avg_pool1d(x, 3),
    "of any size in two": lambda x: F.adaptive_avg_pool2d(x.view(1, 1, 2, 2), (1, 2)),
    "the largest of any size": lambda x: F.adaptive_max_pool1d(x, 3),
    "the largest of any size in two": lambda x: F.adaptive_max_pool2d(x.view(1, 1, 2, 2), (2, 1)),
    "the largest of any size in three": lambda x: F.adaptive_max_pool3d(x.view(1, 1, 1, 2, 2), (1, 1, 2)),
    "of any size in three": lambda x: F.adaptive_avg_pool3d(x.view(1, 1, 1, 2, 2), (1, 2, 1)),
}

REDUCED: dict[str, Callable[[Tensor], Tensor]] = {
    "all": lambda x: x.sum(),
    "all twice": lambda x: x.sum().sum() + x[0, 0].sum(),
    "no dimension named": lambda x: x.view(2, 2).sum(()),
    "one dimension": lambda x: x.view(2, 2).sum(1),
    "two dimensions": lambda x: x.view(1, 2, 2).mean((0, 2)),
    "kept dimensions": lambda x: x.view(2, 2).amax(0, keepdim=True),
    "a value and its index": lambda x: x.view(2, 2).max(1)[0],
    "the larger of two": lambda x: torch.max(x[:, :2], x[:, 2:]),
    "so far": lambda x: x.cumsum(1),
    "so far in rows": lambda x: x.view(2, 2).cumsum(0),
    "in order": lambda x: x.view(2, 2).sort(1)[0],
    "interpolated": lambda x: F.interpolate(x[None], size=3, mode="linear"),
    "several products": lambda x: torch.addbmm(torch.zeros(2, 1), x.view(2, 2, 1), torch.ones(2, 1, 1)),
    "a quotient of constants": lambda x: torch.tensor([1.0, 0.0]) / x[:, 2:],
    "by a constant": lambda x: x / torch.tensor([1.0, 2.0, 3.0, 4.0]),
}


@pytest.mark.parametrize("name", [*WINDOWS, *REDUCED])
def test_what_a_result_depends_on(name: str) -> None:
    function = (WINDOWS | REDUCED)[name]
    assert by_masks(function) == by_gradients(function)


ALONE: dict[str, tuple[Callable[[Tensor], Tensor], list[str]]] = {
    "halves": (F.glu, ["0", "1"]),
    "halves of rows": (lambda x: F.glu(x.view(2, 2), 0), ["0", "1"]),
    "a quotient": (lambda x: x[:, :2] / x[:, 2:], ["0", "1"]),
    "a complex number": (
        lambda x: torch.view_as_real(torch.view_as_complex(x.view(2, 2)) * 2),
        ["01", "01", "23", "23"],
    ),
}
"""Functions and for each result the arguments that reach it while all others are zero, or which are followed as one."""


@pytest.mark.parametrize("name", ALONE)
def test_what_a_single_argument_reaches(name: str) -> None:
    function, expected = ALONE[name]
    assert by_masks(function) == [[str(argument) in found for argument in range(4)] for found in expected]


def paths(function: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> float | None:
    """The number of paths through a network with all of its connections."""
    model = Net(function, **layers)
    mask = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in model.named_parameters() if p.dim() > 1}
    found = pb.connectivity(model, mask, torch.zeros(1, 4))
    assert not found.unknown
    assert found.connected
    return None if found.log10_paths is None else round(10**found.log10_paths, 3)


# Four inputs reach each of four units, and these lead to as many outputs as `function` has results.
COUNTED: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "each": (lambda y: y, 16),
    "a function": (torch.relu, 16),
    "a sum": (lambda y: y + y, 32),
    "a difference": (lambda y: y - 2 * y, 32),
    "one sum of all": (lambda y: y.sum(1), 16),
    "sums so far": (lambda y: y.cumsum(1), 4 * (4 + 3 + 2 + 1)),
    "a maximum": (lambda y: y.amax(1), 16),
    "windows": (lambda y: F.max_pool1d(y, 2, 1), 4 * 3 * 2),
    "windows of any size": (lambda y: F.adaptive_avg_pool1d(y, 2), 16),
    "two windows of any size": (lambda y: F.adaptive_avg_pool2d(y.view(1, 1, 2, 2), (1, 2)), 16),
    "beside each other": (lambda y: torch.cat([y, y[:, :2]], 1), 24),
    "in one place": (lambda y: torch.zeros(1, 2).index_add(1, torch.tensor([0, 0, 1, 1]), y), 16),
    "times a constant": (lambda y: y * torch.tensor([1.0, 0.0, 2.0, 0.0]), 8),
    "times a normalised constant": (lambda y: y * F.normalize(torch.tensor([[1.0, 0.0, 2.0, 0.0]])), 8),
    "times the code of a constant": (lambda y: y * F.one_hot(torch.tensor(2), 4), 4),
    "by a constant": (lambda y: y / 3, 16),
    "plus a constant": (lambda y: y + 1, 16),
    "normalised": (lambda y: F.layer_norm(y, (4,)), 16),
}

NOT_COUNTED: dict[str, Callable[[Tensor], Tensor]] = {
    "a product": lambda y: y * y,
    "a matrix product": lambda y: y @ y.mT,
    "the larger of two": lambda y: torch.maximum(y, 2 * y),
    "a quotient": lambda y: y / (y + 1),
    "halves": lambda y: F.glu(y),
    "a softmax": lambda y: y.softmax(1),
    "in order": lambda y: y.sort(1)[0],
    "interpolated": lambda y: F.interpolate(y[None], size=3, mode="linear"),
    "windows of several sizes": lambda y: F.adaptive_avg_pool1d(y, 3),
    "combined": lambda y: torch.zeros(1, 2).index_reduce(1, torch.tensor([0, 0, 1, 1]), y, "amax"),
    "a code": lambda y: F.one_hot((y > 0).long(), 3).float(),
    "looked up": lambda y: F.embedding((y > 0).long(), torch.ones(2, 3)),
    "three": lambda y: torch.addcmul(y, y, y),
}


@pytest.mark.parametrize("name", COUNTED)
def test_numbers_of_paths(name: str) -> None:
    function, expected = COUNTED[name]
    assert paths(lambda net, x: function(net.a(x)), a=nn.Linear(4, 4)) == expected


@pytest.mark.filterwarnings("ignore:index_reduce.. is in beta:UserWarning")
@pytest.mark.parametrize("name", NOT_COUNTED)
def test_networks_without_a_number_of_paths(name: str) -> None:
    assert paths(lambda net, x: NOT_COUNTED[name](net.a(x)), a=nn.Linear(4, 4)) is None


def test_a_number_of_paths_beyond_what_floats_hold() -> None:
    """Twice as many after each of 600 sums, also of what is written in place."""

    def doubled(net: Any, x: Tensor) -> Any:
        y = net.a(x)
        for _ in range(300):
            y = y + y
            y += y.clone()
        return y

    model = Net(doubled, a=nn.Linear(4, 4))
    found = pb.connectivity(model, {"a.weight": torch.ones(4, 4, dtype=torch.bool)}, torch.zeros(1, 4))
    assert found.log10_paths == pytest.approx(math.log10(16) + 600 * math.log10(2))


def test_paths_beside_those_for_which_all_numbers_are_scaled() -> None:
    """4 x 2^88 paths lead to each of 4 units, which floats hold, and to these twice as many, and as many again."""

    def doubled(net: Any, x: Tensor) -> Any:
        y = net.a(x)
        for _ in range(88):
            y = y + y
        return (y + y) + y

    model = Net(doubled, a=nn.Linear(4, 4))
    found = pb.connectivity(model, {"a.weight": torch.ones(4, 4, dtype=torch.bool)}, torch.zeros(1, 4))
    assert found.log10_paths == pytest.approx(math.log10(3 * 16) + 88 * math.log10(2))


@pytest.mark.parametrize(
    ("function", "severed"),
    [
        (lambda net, x: net.a(x) + net.c(x), ("c into the network",)),
        (lambda net, x: net.c(x) + net.a(x), ("c into the network",)),
        (lambda net, x: torch.maximum(net.a(x), net.c(x)), ()),
        (lambda net, x: net.a(x) + net.c(x)[:, :1], ()),
        (lambda net, x: net.a(x) + 1, ()),
        (lambda net, x: net.c(x) + net.c(x), ()),
        (lambda net, x: net.a(x) + net.b((net.a(x) + net.c(x)) * 0), ("b into the network",)),
        (lambda net, x: x + net.c(x), ("c into the network",)),
        (lambda net, x: net.b(net.a(x) + torch.cat([x[:, :1], net.c(x)[:, 1:] * 0], 1)), ()),
    ],
)
def test_branches_that_carry_nothing_into_a_sum(function: Callable[[Any, Tensor], Any], severed: Any) -> None:
    model = Net(function, a=nn.Linear(4, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 4))
    mask = {f"{name}.weight": torch.full((4, 4), name != "c") for name in "abc"}
    assert pb.connectivity(model, mask, torch.zeros(1, 4)).severed_shortcuts == severed


NORMS: dict[str, nn.Module] = {
    "batch": nn.BatchNorm1d(3),
    "layer": nn.LayerNorm(3),
    "group": nn.GroupNorm(1, 3),
    "root mean square": nn.RMSNorm(3),
}


@pytest.mark.parametrize("name", NORMS)
def test_weights_of_normalisations_that_are_removed(name: str) -> None:
    model = nn.Sequential(nn.Linear(4, 3), NORMS[name], nn.Linear(3, 2))
    mask = {f"{i}.weight": torch.ones(shape, dtype=torch.bool) for i, shape in ((0, (3, 4)), (1, 3), (2, (2, 3)))}
    mask["1.weight"][1] = False
    found = pb.connectivity(model, mask, torch.zeros(1, 4)).effective_mask
    assert found["0.weight"].any(1).tolist() == found["2.weight"].any(0).tolist() == [True, False, True]


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: F.rms_norm(net.a(x), (3,), net.w),
        lambda net, x: F.rms_norm(net.a(x), (3,), weight=net.w),
        lambda net, x: F.rms_norm(input=net.a(x), normalized_shape=(3,), weight=net.w),
        lambda net, x: F.normalize(input=net.a(x)) * net.w,
        lambda net, x: F.normalize(net.a(x), 2.0, 1) * net.w,
    ],
)
def test_normalisations_called_as_functions(function: Callable[[Any, Tensor], Any]) -> None:
    model = Net(function, a=nn.Linear(4, 3))
    model.register_parameter("w", nn.Parameter(torch.ones(3)))
    mask = {"a.weight": torch.ones(3, 4, dtype=torch.bool), "w": torch.tensor([True, False, True])}
    found = pb.connectivity(model, mask, torch.zeros(1, 4)).effective_mask
    assert found["a.weight"].any(1).tolist() == [True, False, True]


def test_zeros_of_a_constant_that_is_normalised_pass_nothing() -> None:
    model = Net(lambda net, x: net.a(x) * F.normalize(torch.tensor([[3.0, 0.0, 4.0]])), a=nn.Linear(4, 3))
    mask = {"a.weight": torch.ones(3, 4, dtype=torch.bool)}
    found = pb.connectivity(model, mask, torch.zeros(1, 4)).effective_mask
    assert found["a.weight"].any(1).tolist() == [True, False, True]


def test_what_is_only_zero_where_two_values_differ_passes() -> None:
    """The first of them is zero for all data, and the second may be."""
    layers = {name: nn.Linear(4, 3, bias=False) for name in ("a", "b", "c")}
    model = Net(lambda net, x: (net.a(x) == net.b(x)) * net.c(x), **layers)
    mask = {f"{name}.weight": torch.full((3, 4), name != "a") for name in layers}
    found = pb.connectivity(model, mask, torch.zeros(1, 4)).effective_mask
    assert found["c.weight"].all()


PART = torch.tensor([False, False, True, True])

ZEROS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "padded": (lambda x: F.pad(x[:, :2], (0, 2)), "01"),
    "padded by ones": (lambda x: F.pad(x[:, :2], (0, 2), value=1.0), "0123"),
    "filled": (lambda x: x.masked_fill(PART, 0.0), "01"),
    "filled by a tensor": (lambda x: x.masked_fill(PART, torch.tensor(0.0)), "01"),
    "filled by ones": (lambda x: x.masked_fill(PART, 1.0), "0123"),
    "chosen": (lambda x: torch.where(PART, 0.0, x), "01"),
    "chosen among constants": (lambda x: torch.where(PART, torch.tensor([0.0, 0.0, 0.0, 2.0]), x), "013"),
    "times constants": (lambda x: x * torch.tensor([1.0, 2.0, 0.0, 0.0]), "01"),
    "times zero": (lambda x: x * 0, ""),
    "times one": (lambda x: x * 1, "0123"),
    "a triangle": (lambda x: x.expand(2, 4).tril(1)[:1], "01"),
    "a buffer": (lambda x: torch.zeros(1, 4).slice_scatter(x[:, :2], 1, 0, 2), "01"),
    "larger than constants": (lambda x: torch.maximum(x * 0, torch.tensor([0.0, 1.0, 0.0, 2.0])), "13"),
    "larger than other constants": (lambda x: torch.maximum(x * 0, torch.tensor([1.0, 0.0, 2.0, 0.0])), "02"),
}
"""Functions of the data, and which of their elements are not zero for all data."""


@pytest.mark.parametrize("name", ZEROS)
def test_what_is_zero_for_all_data_passes_nothing(name: str) -> None:
    function, expected = ZEROS[name]
    model = Net(lambda net, x: net.a(x) * function(x), a=nn.Linear(4, 4))
    found = pb.connectivity(model, {"a.weight": torch.ones(4, 4, dtype=torch.bool)}, torch.ones(1, 4))
    assert "".join(str(i) for i, row in enumerate(found.effective_mask["a.weight"]) if row.any()) == expected


GATE_NORMS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "layer": (lambda y: F.layer_norm(y, (3,)), "345"),
    "layer of two dimensions": (lambda y: F.layer_norm(y, (2, 3)), "012345"),
    "group": (lambda y: F.group_norm(y.reshape(-1, 6, 1), 2).view(-1, 2, 3), "345"),
    "one group": (lambda y: F.group_norm(y.reshape(-1, 6, 1), 1).view(-1, 2, 3), "012345"),
    "instance": (lambda y: F.instance_norm(y), "345"),
    "root mean square": (lambda y: F.rms_norm(y, (3,)), "45"),
}


@pytest.mark.parametrize("name", GATE_NORMS)
def test_a_norm_of_zeros_is_zero_unless_a_mean_is_taken_away(name: str) -> None:
    """Of two tokens of three features, the first token and one feature of the second are cut off."""
    function, expected = GATE_NORMS[name]
    layers = {name: nn.Linear(4, 6, bias=False) for name in ("gate", "up")}
    model = Net(lambda net, x: function(net.gate(x).view(-1, 2, 3)).flatten(1) * net.up(x), **layers)
    mask = {f"{name}.weight": torch.ones(6, 4, dtype=torch.bool) for name in layers}
    mask["gate.weight"][:4] = False
    found = pb.connectivity(model, mask, torch.ones(2, 4)).effective_mask["up.weight"]
    assert "".join(str(i) for i, row in enumerate(found) if row.any()) == expected
