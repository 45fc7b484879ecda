"""Networks on which an earlier version went wrong: constants, computed weights, in-place sums, unusual outputs."""

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import pai_bench as pb
from pai_bench.scoring import prunable_parameters
from tests.graph.kinds import Net


def whole(model: nn.Module) -> dict[str, Tensor]:
    return {name: torch.ones(p.shape, dtype=torch.bool) for name, p in prunable_parameters(model).items()}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_in_any_gradient_mode(mode: Callable[[], Any]) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with mode():
        assert pb.connectivity(model, whole(model), torch.zeros(1, 4)).effective_sparsity == 0
        batch = (torch.randn(4, 4), torch.arange(4) % 2)
        assert pb.prune(model, batch, "magnitude", 0.5, target="effective").kept >= 9
        assert pb.prune(model, batch, "magnitude", 0.5, repair="effective-only").kept == 9


@pytest.mark.parametrize("example", [torch.zeros(1, 4), torch.ones(1, 4)])
def test_minus_infinity_of_the_data_forbids_nothing(example: Tensor) -> None:
    model = Net(
        lambda net, x: net.b(net.a(x).masked_fill(x == 0, -torch.inf).softmax(-1)), a=nn.Linear(4, 4), b=nn.Linear(4, 2)
    )
    assert pb.connectivity(model, whole(model), example).effective_sparsity == 0


def attend(forbid: Callable[[Tensor], Tensor]) -> Net:
    """Position 0 looks at three positions, of which a constant mask allows the first."""

    def run(net: Net, x: Tensor) -> Tensor:
        scores = net.get_submodule("q")(x) @ net.get_submodule("k")(x).mT
        output: Tensor = (forbid(scores) @ net.get_submodule("v")(x).view(1, 3, 2))[:, 0]
        return output

    return Net(run, q=nn.Linear(2, 2), k=nn.Linear(2, 2), v=Positions())


class Positions(nn.Module):
    """Another unit for each position."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 2))
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x.flatten(1))


LOWER = torch.ones(3, 3).tril()


@pytest.mark.parametrize(
    "forbid",
    [
        lambda a: a.masked_fill(LOWER == 0, -torch.inf).softmax(-1),
        lambda a: (a + torch.where(LOWER == 0, -torch.inf, 0.0)).softmax(-1),
        lambda a: torch.where(LOWER == 0, torch.tensor(-torch.inf), a).softmax(-1) * torch.tensor(2.0),
        lambda a: a * LOWER,
        lambda a: a.tril(),
        lambda a: a.masked_fill(LOWER == 0, 0.0),
        lambda a: F.relu(a * LOWER).clone(),
    ],
)
def test_constant_masks_forbid(forbid: Callable[[Tensor], Tensor]) -> None:
    model = attend(forbid)
    found = {layer.name: layer for layer in pb.connectivity(model, whole(model), torch.ones(1, 3, 2)).layers}
    assert found["v.layer.weight"].dead_units == 4


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_attention_in_one_kernel_forbids_what_comes_later(backend: SDPBackend) -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        query, key, value = net.q(x)[:, None], net.k(x)[:, None], net.v(x).view(1, 1, 3, 2)
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(query, key, value, is_causal=True)[:, 0, 0]

    model = Net(run, q=nn.Linear(2, 2), k=nn.Linear(2, 2), v=Positions())
    found = pb.connectivity(model, whole(model), torch.ones(1, 3, 2))
    assert not found.unknown
    assert {layer.name: layer.dead_units for layer in found.layers} == {
        "q.weight": 0,
        "k.weight": 0,
        "v.layer.weight": 4,
    }


def test_weights_that_are_computed() -> None:
    def cut(model: nn.Module, name: str) -> bool:
        mask = whole(model)
        mask[name][:] = False
        return not pb.connectivity(model, mask, torch.zeros(1, 4)).connected

    normal = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 2)), nn.Linear(2, 1))
    every = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in normal.named_parameters() if p.dim() > 1}
    direction = next(name for name in every if name.endswith("original1"))
    every[direction][:] = every["1.weight"][:] = False
    every[direction][0, 0] = every["1.weight"][0, 1] = True
    assert not pb.connectivity(normal, every, torch.zeros(1, 4)).connected
    assert cut(Net(lambda net, x: F.linear(x, F.normalize(net.a.weight)), a=nn.Linear(4, 2)), "a.weight")
    assert cut(Net(lambda net, x: F.linear(x, -2 * net.a.weight.abs()), a=nn.Linear(4, 2)), "a.weight")
    for function in (F.softplus, torch.exp, lambda w: w + 1):
        passing = Net(lambda net, x, function=function: F.linear(x, function(net.a.weight)), a=nn.Linear(4, 2))  # type: ignore[misc]
        assert not cut(passing, "a.weight")


def test_paths_through_normal_weights_are_counted() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(100, 100)), nn.Linear(100, 2))
    mask = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in model.named_parameters() if p.dim() > 1}
    assert pb.connectivity(model, mask, torch.zeros(1, 100)).log10_paths == pytest.approx(torch.tensor(2e4).log10())


def test_packed_sequences() -> None:
    def run(net: Any, x: Tensor) -> Any:
        packed = pack_padded_sequence(x, torch.tensor([3, 2]), batch_first=True)
        return net.head(pad_packed_sequence(net.core(packed)[0], batch_first=True)[0][:, -1])

    model = Net(run, core=nn.LSTM(2, 3, batch_first=True), head=nn.Linear(3, 2))
    found = pb.connectivity(model, whole(model), torch.zeros(2, 3, 2))
    assert found.connected
    assert not found.unknown


def test_a_sum_in_place_shows_its_severed_branch() -> None:
    def run(net: Any, x: Tensor) -> Any:
        y = net.b(net.a(x))
        y += net.short(x)
        return net.head(y)

    model = Net(run, a=nn.Linear(4, 4), b=nn.Linear(4, 4), short=nn.Linear(4, 4), head=nn.Linear(4, 2))
    mask = whole(model)
    mask["b.weight"][:] = False
    assert pb.connectivity(model, mask, torch.zeros(1, 4)).severed_shortcuts == ("b into the network",)


def test_constants_beside_what_is_written_are_no_severed_branch() -> None:
    """In a GRU, gates are written into parts of what is made of the first state, which is constant."""
    model = Net(lambda net, x: net.core(x)[0], core=nn.GRU(2, 3))
    found = pb.connectivity(model, whole(model), torch.zeros(3, 1, 2))
    assert (found.effective_density, found.severed_shortcuts) == (1, ())


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(3), nn.LayerNorm(3), nn.GroupNorm(1, 3)])
def test_the_bias_of_a_normalisation_counts_where_its_unit_does(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(4, 3), norm, nn.Linear(3, 2))
    mask = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in model.named_parameters()}
    mask["2.weight"][:, 1] = False
    found = pb.connectivity(model, mask, torch.zeros(1, 4)).effective_mask
    assert found["1.bias"].tolist() == found["1.weight"].tolist() == [True, False, True]


def test_unusual_operations() -> None:
    def complex_numbers(net: Any, x: Tensor) -> Any:
        return net.b(torch.view_as_real(torch.view_as_complex(net.a(x).view(-1, 2, 2)) * 1j).flatten(1))

    def in_place_views(net: Any, x: Tensor) -> Any:
        for part in x.clone().chunk(2, 1):
            part.add_(1)
        return net.b(net.a(x))

    def into(net: Any, x: Tensor) -> Any:
        room = torch.empty(len(x), 4)
        torch.cat([net.a(x)[:, :2], net.a(x)[:, 2:]], 1, out=room)
        return net.b(room)

    def subtracted(net: Any, x: Tensor) -> Any:
        return net.b(torch.zeros(len(x), 4).index_add(1, torch.tensor([0, 0, 1, 2]), net.a(x), alpha=-1))

    for run in (complex_numbers, in_place_views, into, subtracted):
        model = Net(run, a=nn.Linear(4, 4, bias=False), b=nn.Linear(4, 2))
        assert pb.connectivity(model, whole(model), torch.zeros(1, 4)).layers[0].effective == 16, run.__name__


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda net, x: types.SimpleNamespace(y=net.a(x)), "in which there is no tensor"),
        (lambda net, x: net.a(x) * net.a(x).detach().tolist()[0][0], "different data"),
        (lambda net, x: torch.from_numpy(net.a(x).detach().numpy()), "different data"),
    ],
)
def test_what_cannot_be_followed_is_an_error(run: Callable[[Any, Tensor], Any], message: str) -> None:
    model = Net(run, a=nn.Linear(4, 2))
    with pytest.raises(pb.UserError, match=message):
        pb.connectivity(model, whole(model), torch.ones(1, 4))
    with pytest.raises(pb.UserError, match="the example input is empty"):
        pb.connectivity(model, whole(model), torch.ones(0, 4))


@pytest.mark.parametrize("options", [{"min_per_layer": 2}, {"scope": "layerwise"}, {"variant": "shuffle"}])
def test_repair_ranks_all_layers_together(options: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    with pytest.raises(pb.UserError, match="ranks all layers together"):
        pb.prune(model, (torch.randn(4, 4), torch.arange(4) % 2), "snip", 0.5, repair="effective-only", **options)


def test_an_effective_density_beside_a_floor() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 3))
    batch = (torch.randn(6, 10), torch.arange(6) % 3)
    mask = pb.prune(model, batch, "magnitude", 0.98, target="effective", min_per_layer=5)
    assert min(mask.kept_per_layer().values()) >= 5
    assert pb.prune(model, batch, "magnitude", 0.9999, target="effective").kept >= 1
