"""Which slices go together, by hand, before it is tried whether they can be removed.

Each dimension of a parameter is written as a letter for every slice: those with the same letter can only be removed
together, and those with a dot not at all.
"""

import pytest
from torch import Tensor, nn

from pai_bench.graph.connectivity import Connections
from pai_bench.graph.ties import Axis
from pai_bench.graph.units import Units
from tests.graph import tied_channels, tied_slices
from tests.graph.kinds import Net
from tests.graph.tied_slices import TOKENS, L

CASES = tied_slices.CASES | tied_channels.CASES


def units_of(network: nn.Module, example: Tensor) -> Units:
    traced = Connections(network, example)
    return Units(traced.trace, traced.modules)


def written(units: Units, network: nn.Module) -> dict[str, str]:
    """The letters of all parameters and buffers whose slices have numbers."""
    order = [name for name, _ in (*network.named_parameters(), *network.named_buffers())]
    letters: dict[int, str] = {}
    found = {}
    for axis in sorted((a for a in units.by_axis if a.name in order), key=lambda a: (order.index(a.name), a.dim)):
        if len(labels := units.by_axis[axis].tolist()) < 2 and axis not in units.roots | units.consumers:
            continue
        found[f"{axis.name} {axis.dim}"] = "".join(
            "." if label in units.why_fixed else letters.setdefault(label, chr(ord("a") + len(letters)))
            for label in labels
        )
    return found


@pytest.mark.parametrize("name", CASES)
def test_slices_that_go_together(name: str) -> None:
    function, parts, example, expected = CASES[name]
    network = Net(function, **parts)
    found = written(units_of(network, example), network)
    assert found == dict(part.rsplit(" ", 1) for part in expected.split(", "))


@pytest.mark.parametrize(
    ("name", "axis", "reason"),
    [
        ("two layers", ("a.weight", 1), "the network's input"),
        ("two layers", ("b.weight", 0), "the network's output"),
        ("two layers", ("b.bias", 0), "the network's output"),
        ("positions are mixed", ("t.weight", 0), "'t.weight' is multiplied along another dimension than that of units"),
        ("positions are mixed", ("t.weight", 1), "'t.weight' is multiplied along another dimension than that of units"),
        ("units are mixed by constants", ("a.weight", 0), "mm is not known"),
        ("a weight for each head", ("w", 2), "'w' is used element by element, or weights are computed from it"),
        ("an unknown operation", ("a.weight", 0), "_fft_r2c is not known"),
        ("softmax over units", ("a.weight", 0), "_softmax is taken over units"),
        ("a mean over units", ("a.weight", 0), "mean is taken over units"),
        ("a norm over units", ("a.weight", 0), "a norm over units in 'n'"),
        ("a norm over units", ("n.bias", 0), "a norm over units in 'n'"),
        ("a unit is looked up", ("a.weight", 0), "embedding in 'e' looks it up"),
        ("a constant kernel", ("a.weight", 0), "convolution is not known"),
        ("padded channels", ("b.weight", 0), "'' pads by a number of channels that its code says"),
    ],
)
def test_why_slices_are_fixed(name: str, axis: tuple[str, int], reason: str) -> None:
    function, parts, example, _ = CASES[name]
    units = units_of(Net(function, **parts), example)
    labels = units.by_axis[Axis(*axis)].tolist()
    assert any(reason in units.why_fixed.get(label, ()) for label in labels)


BIASES = {"a.weight": "a.bias", "b.weight": "b.bias"}


@pytest.mark.parametrize(
    ("name", "roots", "consumers", "biases"),
    [
        ("two layers", "a.weight 0, b.weight 0", "a.weight 1, b.weight 1", BIASES),
        ("added by a product", "b.weight 0, w 1", "b.weight 1, w 0", {"w": "s", "b.weight": "b.bias"}),
        (
            "a value added by a product",
            "a.weight 0, b.weight 0, w 1",
            "a.weight 1, b.weight 1, w 0",
            {"b.weight": "b.bias"},
        ),
        ("channels", "a.weight 0, b.weight 0, c.weight 0", "a.weight 1, b.weight 1, c.weight 1", BIASES),
        (
            "groups of a transposed convolution",
            "a.weight 0, b.weight 1, c.weight 0",
            "a.weight 1, b.weight 0, c.weight 1",
            {"b.weight": "b.bias"},
        ),
        ("depthwise", "a.weight 0, c.weight 0", "a.weight 1, c.weight 1", {}),
        ("positions are mixed", "a.weight 0, b.weight 0", "a.weight 1, b.weight 1", {}),
        ("a table", "a.weight 0, b.weight 0", "a.weight 1, b.weight 1", {}),
    ],
)
def test_which_slices_make_units_and_which_read_them(
    name: str, roots: str, consumers: str, biases: dict[str, str]
) -> None:
    function, parts, example, _ = CASES[name]
    units = units_of(Net(function, **parts), example)
    assert ", ".join(f"{axis.name} {axis.dim}" for axis in sorted(units.roots)) == roots
    assert ", ".join(f"{axis.name} {axis.dim}" for axis in sorted(units.consumers)) == consumers
    assert {root.name: bias.name for root, bias in units.biases.items()} == biases
    assert {bias.dim for bias in units.biases.values()} <= {0}


def test_products_of_values_have_their_labels_and_operations() -> None:
    """Of 3 tokens: (3, 3) products of 2 numbers each for the attention, and as many for what it lets through."""
    network = Net(
        lambda m, x: m.c(m.a(x) @ m.b(x).mT @ m.v(x)), **{name: L(4, 2, bias=False) for name in "abv"}, c=L(2, 2)
    )
    units = units_of(network, TOKENS)
    heads, values = (set(units.by_axis[Axis(f"{name}.weight", 0)].tolist()) for name in "av")
    assert units.of_products == [(heads, 2 * 3 * 3 * 2), (heads | values, 2 * 3 * 3 * 2)]
