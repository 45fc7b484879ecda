"""A factor that is zero for all data passes nothing: gates, values and quotients, against gradients of the network.

For each mask, a connection is effective if and only if some derivative along it differs from zero for some weights and
inputs: the derivative of the output with respect to the input changes with the connection's weight.
"""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

import pai_bench as pb
from pai_bench.graph import rules
from tests.graph.kinds import Net


def gated(function: Any, **options: Any) -> nn.Module:
    """Two layers beside each other, what `function` makes of their outputs, and a third."""
    return Net(
        lambda net, x: net.down(function(net.gate(x), net.up(x))),
        gate=nn.Linear(4, 3, **options),
        up=nn.Linear(4, 3, **options),
        down=nn.Linear(3, 2, bias=False),
    )


GATES = {
    "a product": lambda a, b: a * b,
    "swish": lambda a, b: F.silu(a) * b,
    "gelu": lambda a, b: F.gelu(a) * b,
    "tanh": lambda a, b: torch.tanh(a) * b,
    "in place": lambda a, b: (2 * a).mul_(b),
    "sigmoid": lambda a, b: a.sigmoid() * b,
    "shifted": lambda a, b: (a + 1) * b,
    "a sum": lambda a, b: a + b,
    "a quotient": lambda a, b: a / (b.exp() + 1),
    "addcmul": lambda a, b: torch.addcmul(a, a, b),
    "glu": lambda a, b: F.glu(torch.cat([a, b], 1)),
    "einsum": lambda a, b: torch.einsum("ni,nj->nij", a, b).sum(2),
    "bmm": lambda a, b: torch.bmm(a[:, :, None], b[:, None]).sum(1),
    "matmul": lambda a, b: (a[:, None] @ b[:, :, None])[:, 0].expand(-1, 3),
    "a mean": lambda a, b: a.mean(1, keepdim=True) * b,
    "pooling": lambda a, b: F.max_pool1d(a[:, None], 3)[:, 0] * b,
    "rms norm": lambda a, b: F.normalize(a, dim=1) * b,
    "moved": lambda a, b: torch.cat([a[:, 1:], a[:, :1]], 1).flip(1) * b,
    "three": lambda a, b: a * b * a.relu(),
}

MASKS = ["no gate", "no values", "half a gate", "half of both", "whole"]


def mask_of(model: nn.Module, kind: str) -> pb.Mask:
    """What is kept."""
    kept = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters() if p.dim() > 1}
    if kind == "no gate":
        kept["gate.weight"][:] = False
    elif kind == "no values":
        kept["up.weight"][:] = False
    elif kind in ("half a gate", "half of both"):
        kept["gate.weight"][0] = False
        if kind == "half of both":
            kept["up.weight"][2, :2] = kept["up.weight"][1] = False
    return pb.Mask(kept)


def drawn(model: nn.Module, mask: pb.Mask) -> Iterator[nn.Module]:
    """The network under the mask with several weights, in double precision."""
    for seed in range(8):
        torch.manual_seed(seed)
        twin = copy.deepcopy(model).double()
        for parameter in twin.parameters():
            nn.init.normal_(parameter)
        mask.apply_(twin)
        yield twin


def depends(model: nn.Module, mask: pb.Mask) -> bool:
    """Whether the output depends on the input, for some weights and inputs."""
    jacobians = (torch.autograd.functional.jacobian(twin, torch.randn(1, 4).double()) for twin in drawn(model, mask))
    return any(bool((jacobian != 0).any()) for jacobian in jacobians)


def used(model: nn.Module, mask: pb.Mask) -> dict[str, Tensor]:
    """The kept connections whose weight the dependence on the input changes with."""
    found = {name: torch.zeros_like(keep) for name, keep in mask.items()}
    for twin in drawn(model, mask):
        x = torch.randn(1, 4).double().requires_grad_()
        slope = torch.autograd.grad(twin(x).sum(), x, create_graph=True, materialize_grads=True)[0]
        weights = [twin.get_parameter(name) for name in mask]
        # in a direction, so that no two parts cancel
        along = (slope * torch.randn(1, 4).double()).sum()
        if along.requires_grad:
            for name, gradient in zip(mask, torch.autograd.grad(along, weights, materialize_grads=True), strict=True):
                found[name] |= gradient != 0
    return {name: one & mask[name] for name, one in found.items()}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("gate", GATES)
def test_a_network_is_connected_if_its_output_depends_on_its_input(gate: str, bias: bool, kind: str) -> None:
    torch.manual_seed(0)
    model = gated(GATES[gate], bias=bias)
    mask = mask_of(model, kind)
    found = pb.connectivity(model, mask, torch.randn(1, 4))
    assert not found.unknown
    assert found.connected == depends(model, mask)
    if gate == "rms norm":  # what its statistic depends on is no path
        return
    for name, expected in used(model, mask).items():
        assert not bool((expected & ~found.effective_mask[name]).any()), name  # nothing that serves is called dead


@pytest.mark.parametrize("gate", ["a product", "swish", "tanh", "addcmul", "glu"])
def test_what_no_gate_lets_through_is_not_effective(gate: str) -> None:
    """Unit by unit: of the first, the gate is cut, so that its values serve nothing."""
    model = gated(GATES[gate], bias=False)
    found = pb.connectivity(model, mask_of(model, "half of both"), torch.randn(1, 4)).effective_mask
    for name, expected in used(model, mask_of(model, "half of both")).items():
        assert torch.equal(found[name], expected), name


@pytest.mark.parametrize(("part", "connected"), [("values", False), ("queries", True), ("keys", True)])
def test_attention_without_values(part: str, connected: bool) -> None:
    """Without queries or keys all attention is equal, and passes the values."""
    model = Net(
        lambda net, x: net.head(F.scaled_dot_product_attention(net.queries(x), net.keys(x), net.values(x)).flatten(1)),
        queries=nn.Linear(4, 4, bias=False),
        keys=nn.Linear(4, 4, bias=False),
        values=nn.Linear(4, 4, bias=False),
        head=nn.Linear(12, 2),
    )
    kept = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters() if p.dim() > 1}
    kept[f"{part}.weight"][:] = False
    found = pb.connectivity(model, pb.Mask(kept), torch.randn(1, 3, 4))
    assert found.connected == connected
    if not connected:
        assert not any(keep.any() for keep in found.effective_mask.values())


def test_squeeze_and_excitation_without_a_gate() -> None:
    """A sigmoid of zero is one half: the gate is no path, and the values pass."""
    model = Net(
        lambda net, x: net.head((net.conv(x) * net.gate(x.mean((2, 3))).sigmoid()[..., None, None]).mean((2, 3))),
        conv=nn.Conv2d(2, 3, 3),
        gate=nn.Linear(2, 3, bias=False),
        head=nn.Linear(3, 2),
    )
    kept = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters() if p.dim() > 1}
    kept["gate.weight"][:] = False
    found = pb.connectivity(model, pb.Mask(kept), torch.randn(1, 2, 5, 5))
    assert found.connected
    assert found.effective_mask["conv.weight"].all()


class Standardised(nn.Conv2d):
    """Weights of mean 0 and deviation 1 over each filter."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        return F.conv2d(x, (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5))


def test_standardised_weights_are_zero_where_a_whole_filter_is(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(
        Standardised(2, 4, 3, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    mask = {"0.weight": torch.zeros(4, 2, 3, 3, dtype=torch.bool), "4.weight": torch.ones(3, 4, dtype=torch.bool)}
    x = torch.randn(1, 2, 8, 8)
    assert not pb.connectivity(model, pb.Mask(mask), x).connected
    assert not caplog.messages
    mask["0.weight"][1, 0, 0, 0] = True
    found = pb.connectivity(model, pb.Mask(mask), x)
    assert found.connected
    assert found.computed == ("0.weight",)
    assert "0.weight: the network computes its weights from it" in caplog.text
    assert found.effective_mask["4.weight"].any(0).tolist() == [False, True, False, False]
    assert found.effective_mask["0.weight"].equal(mask["0.weight"])


@pytest.mark.parametrize("kind", ["weight norm", "spectral norm", "pruned by torch"])
def test_weights_that_are_zero_where_their_parameter_is(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    layer: nn.Module = nn.Linear(4, 4, bias=False)
    if kind == "weight norm":
        layer = nn.utils.parametrizations.weight_norm(layer)
        name = "0.parametrizations.weight.original1"
    elif kind == "spectral norm":
        layer = nn.utils.parametrizations.spectral_norm(layer)
        name = "0.parametrizations.weight.original"
    else:
        prune.random_unstructured(layer, "weight", 0)
        name = "0.weight_orig"
    model = nn.Sequential(layer, nn.Linear(4, 2, bias=False))
    keep = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    found = pb.connectivity(
        model, pb.Mask({name: keep, "1.weight": torch.ones(2, 4, dtype=torch.bool)}), torch.ones(1, 4)
    )
    assert not found.unknown
    assert found.effective_mask[name].equal(keep)
    assert found.effective_mask["1.weight"].any(0).tolist() == [True, True, False, True]
    assert found.computed == ()
    assert "computes its weights" not in caplog.text


def test_connections_that_torch_has_pruned_are_none() -> None:
    """Under a mask of its own that keeps everything."""
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 1, bias=False))
    prune.custom_from_mask(model[0], "weight", torch.tensor([[1, 0, 0], [0, 0, 0]]))
    mask = {"0.weight_orig": torch.ones(2, 3, dtype=torch.bool), "1.weight": torch.ones(1, 2, dtype=torch.bool)}
    found = pb.connectivity(model, pb.Mask(mask), torch.ones(1, 3)).effective_mask
    assert found["0.weight_orig"].tolist() == [[True, False, False], [False, False, False]]
    assert found["1.weight"].tolist() == [[True, False]]


class Normalised(nn.Conv2d):
    """Weights standardised by batch norm, as in the ResNets of BiT."""

    def forward(self, x: Tensor) -> Tensor:
        w = F.batch_norm(self.weight.reshape(1, self.out_channels, -1), None, None, training=True)
        return F.conv2d(x, w.reshape_as(self.weight))


def test_weights_standardised_by_batch_norm() -> None:
    model = nn.Sequential(Normalised(2, 4, 3, bias=False), nn.Flatten(), nn.Linear(144, 3))
    keep = torch.zeros(4, 2, 3, 3, dtype=torch.bool)
    keep[2, 0, 1, 1] = True
    mask = {"0.weight": keep, "2.weight": torch.ones(3, 144, dtype=torch.bool)}
    found = pb.connectivity(model, pb.Mask(mask), torch.randn(1, 2, 8, 8))
    assert not found.unknown
    assert found.computed == ("0.weight",)
    units = found.effective_mask["2.weight"].any(0).view(4, 36).any(1)
    assert units.tolist() == [False, False, True, False]


def test_positions_computed_by_a_convolution_are_known() -> None:
    model = Net(
        lambda net, x: net.head(x + net.positions(torch.ones(1, 1, 4)).flatten(1)),
        positions=nn.Conv1d(1, 1, 1),
        head=nn.Linear(4, 2),
    )
    mask = {
        "positions.weight": torch.ones(1, 1, 1, dtype=torch.bool),
        "head.weight": torch.ones(2, 4, dtype=torch.bool),
    }
    found = pb.connectivity(model, pb.Mask(mask), torch.randn(1, 4))
    assert not found.unknown
    assert not found.effective_mask["positions.weight"].any()  # it makes a constant
    assert found.effective_mask["head.weight"].all()


def test_errors_of_a_network_are_told_from_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            raise ZeroDivisionError

    mask = pb.Mask({"weight": torch.ones(2, 4, dtype=torch.bool)})
    with pytest.raises(pb.UserError, match="Odd fails on the example: ZeroDivisionError"):
        pb.connectivity(Odd(4, 2), mask, torch.randn(1, 4))

    def broken(*_arguments: Any) -> None:
        raise RuntimeError("a bug of ours")

    monkeypatch.setitem(rules.RULES, "addmm", broken)
    with pytest.raises(RuntimeError, match="a bug of ours"):
        pb.connectivity(nn.Linear(4, 2), mask, torch.randn(1, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_default_data_type_makes_no_difference(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    keep = {name: torch.rand(p.shape) < 0.1 for name, p in model.named_parameters() if p.dim() > 1}
    x, before = torch.randn(1, 3, 9, 9), torch.get_default_dtype()
    expected = pb.connectivity(model, pb.Mask(keep), x)
    torch.set_default_dtype(dtype)
    try:
        found = pb.connectivity(model, pb.Mask(keep), x)
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(before)
    assert found.unknown == ()
    assert found.effective_sparsity == expected.effective_sparsity


class Transformed(nn.Linear):
    """Its weights are a Fourier transform of its parameter, which no rule knows."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, torch.fft.fft(self.weight).real, self.bias)


def test_an_unknown_operation_on_masked_weights_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Everything that is kept may then reach everything."""
    model = nn.Sequential(Transformed(3, 2), nn.Linear(2, 2))
    mask = {"0.weight": torch.tensor([[True, False, False], [False] * 3]), "1.weight": torch.ones(2, 2).bool()}
    found = pb.connectivity(model, pb.Mask(mask), torch.zeros(1, 3))
    assert found.connected
    assert [name.partition(" in ")[0] for name in found.unknown] == ["_fft_r2c"]
    assert found.unknown[0].endswith("in '0'")
    assert "_fft_r2c in '0' is taken to pass everything to everything" in caplog.text
    assert found.effective_mask["0.weight"].equal(mask["0.weight"])
    assert found.log10_paths is None
