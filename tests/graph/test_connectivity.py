"""Depth, dead parts, unusual operations, mistakes, and what no network of the project does."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import regnet

import pai_bench as pb
from pai_bench.graph import rules, tracing
from pai_bench.graph.connectivity import Connections, connectivity
from pai_bench.scoring import prunable_parameters
from pai_bench.support.registry import MODELS
from tests.graph.kinds import Net, random_mask, residual


@pytest.mark.parametrize("depth", [3, 1000])
def test_depth_neither_overflows_nor_underflows(depth: int) -> None:
    model = nn.Sequential(*[nn.Linear(100, 100, bias=False) for _ in range(depth)])
    mask = pb.Mask({name: torch.ones(100, 100, dtype=torch.bool) for name, _ in model.named_parameters()})
    found = connectivity(model, mask, torch.zeros(1, 100))
    assert found.connected
    assert found.effective_sparsity == 0
    assert found.log10_paths == pytest.approx(2 * (depth + 1), rel=1e-6)


def test_a_single_path_through_a_thousand_layers() -> None:
    model = nn.Sequential(*[nn.Linear(5, 5) for _ in range(1000)])
    tensors = {name: torch.zeros(5, 5, dtype=torch.bool) for name, _ in model.named_parameters() if "weight" in name}
    for i, keep in enumerate(tensors.values()):
        keep[(i + 1) % 5, i % 5] = keep[(i + 3) % 5, (i + 2) % 5] = True
    tensors["700.weight"][(700 + 3) % 5, (700 + 2) % 5] = False
    found = connectivity(model, pb.Mask(tensors), torch.zeros(1, 5))
    assert found.connected
    assert all(layer.effective == 1 for layer in found.layers)
    assert found.log10_paths == pytest.approx(0)
    tensors["800.weight"][:] = False
    found = connectivity(model, pb.Mask(tensors), torch.zeros(1, 5))
    assert not found.connected
    assert found.first_cut == "800.weight"
    assert found.effective_sparsity == 1
    assert len(found.dead_layers) == 1000
    assert found.log10_paths == -np.inf


def test_dead_units_features_and_shortcuts_are_counted() -> None:
    model, shape, _ = residual(0)
    mask = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in prunable_parameters(model).items()}
    mask["a.weight"][1] = False  # a unit
    mask["b.weight"][:, 2] = False  # an input feature: the third unit of `a` leads nowhere
    found = {layer.name: layer for layer in connectivity(model, mask, torch.zeros(1, *shape)).layers}
    assert (found["a.weight"].units, found["a.weight"].dead_units) == (3, 2)
    assert (found["b.weight"].features, found["b.weight"].dead_features) == (3, 2)
    assert found["b.weight"].effective_density == pytest.approx(1 / 3)
    mask["c.weight"][:] = False
    cut = connectivity(model, mask, torch.zeros(1, *shape))
    assert cut.connected
    assert cut.severed_shortcuts == ("c into the network",)
    assert cut.dead_layers == ("c.weight",)
    assert cut.first_cut is None


def test_shares_of_all_connections() -> None:
    """The second of two units is cut off: of 6 connections, 4 are kept and 3 lie on one of two paths."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    mask = {"0.weight": torch.tensor([[True, True], [False, False]]), "1.weight": torch.ones(1, 2, dtype=torch.bool)}
    found = connectivity(model, mask, torch.zeros(1, 2))
    assert found.size == 6
    assert found.sparsity == pytest.approx(1 / 3)
    assert found.effective_density == found.effective_sparsity == 0.5
    assert [(layer.density, layer.effective_density, layer.dead) for layer in found.layers] == [
        (0.5, 0.5, False),
        (1.0, 0.5, False),
    ]
    again = Connections(model, torch.zeros(1, 2)).under(pb.Mask(mask))
    assert found.log10_paths == again.log10_paths == pytest.approx(np.log10(2))
    assert connectivity(model, mask, torch.zeros(1, 2), paths=False).log10_paths is None


def test_grouped_and_transposed_layers_count_their_units() -> None:
    for model, units, features in (
        (nn.Conv2d(4, 6, 1, groups=2), 6, 4),
        (nn.ConvTranspose2d(4, 6, 1, groups=2), 6, 4),
        (nn.Linear(4, 6), 6, 4),
    ):
        weight = torch.ones(model.weight.shape, dtype=torch.bool)
        weight[0, 0] = False
        shape = (1, 4) if isinstance(model, nn.Linear) else (1, 4, 1, 1)
        (layer,) = connectivity(model, {"weight": weight}, torch.zeros(shape)).layers
        assert (layer.units, layer.features, layer.dead_units, layer.dead_features) == (units, features, 0, 0)
        weight[0] = False
        (layer,) = connectivity(model, {"weight": weight}, torch.zeros(shape)).layers
        expected = (0, 1) if isinstance(model, nn.ConvTranspose2d) else (1, 0)
        assert (layer.dead_units, layer.dead_features) == expected


def test_a_weight_that_meets_only_padding_is_not_effective() -> None:
    model = nn.Conv2d(1, 1, 3, padding=1)
    (layer,) = connectivity(model, {"weight": torch.ones(1, 1, 3, 3, dtype=torch.bool)}, torch.zeros(1, 1, 1, 1)).layers
    assert layer.effective == 1


def test_a_stride_skips_inputs() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 1, 1, stride=2))
    mask = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in prunable_parameters(model).items()}
    found = connectivity(model, mask, torch.zeros(1, 4))
    assert found.layers[0].dead_units == 2


def test_biases_count_where_their_unit_lies_on_a_path() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    mask = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in model.named_parameters()}
    mask["0.weight"][0] = False  # a unit with a bias alone
    found = connectivity(model, mask, torch.zeros(1, 2)).effective_mask
    assert found["0.bias"].tolist() == [False, True]
    assert found["1.weight"].tolist() == [[False, True]]
    assert found["1.bias"].tolist() == [True]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(7, 3), nn.Linear(3, 7, bias=False)
        self.core = nn.LSTM(3, 3)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.head(self.core(self.table(tokens))[0])
        return output


def test_tokens_reach_through_an_embedding_that_is_also_the_head() -> None:
    model = Tied()
    mask = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in prunable_parameters(model).items()}
    found = connectivity(model, mask, torch.tensor([[1], [2], [0]]))
    assert found.connected
    assert not found.unknown
    assert found.effective_sparsity == pytest.approx(0)


class Indexing(nn.Module):
    """Slices that are written to, an assignment to a buffer of zeros, and a matrix that is turned in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).t_().t()
        room = torch.zeros(len(x), 4)
        view = room[:, 1:]
        view.copy_(y)
        room[:, 3] = 5.0
        output: Tensor = self.b(room * torch.tensor([1.0, 1.0, 0.0, 1.0]))
        return output


def test_writing_to_a_part_of_a_tensor() -> None:
    model = Indexing()
    mask = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in model.named_parameters()}
    found = connectivity(model, mask, torch.zeros(1, 3)).effective_mask
    # of the three units, the last is overwritten by a constant and the second multiplied by zero
    assert found["a.weight"].any(1).tolist() == [True, False, False]
    assert found["b.weight"].any(0).tolist() == [False, True, False, False]


class Sorted(nn.Module):
    def __init__(self, how: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.how = nn.Linear(3, 3), how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self.a(x))


def test_an_unknown_operation_passes_everything_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    mask = {"a.weight": torch.tensor([[True, False, False], [False] * 3, [False] * 3])}
    found = connectivity(Sorted(lambda y: torch.fft.fft(y).abs()), mask, torch.zeros(1, 3))
    assert found.connected
    assert found.layers[0].effective == 1
    assert found.log10_paths is None
    assert any("fft" in name for name in found.unknown)
    assert "taken to pass everything" in caplog.text


def test_a_branch_that_the_code_of_the_network_itself_computes_has_a_name() -> None:
    network = Net(lambda m, x: m.b(m.a(x).relu() + x), a=nn.Linear(3, 3, bias=False), b=nn.Linear(3, 2))
    mask = {"a.weight": torch.zeros(3, 3, dtype=torch.bool), "b.weight": torch.ones(2, 3, dtype=torch.bool)}
    found = connectivity(network, mask, torch.ones(1, 3))
    assert found.severed_shortcuts == ("an operation of the network into the network",)


def test_what_is_said_of_a_network_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def spectrum(net: Any, x: Tensor) -> Any:
        return torch.fft.fft(F.linear(x, net.a.weight.exp())).abs()

    connections = Connections(Net(spectrum, a=nn.Linear(3, 3)), torch.zeros(1, 3))
    mask = pb.Mask({"a.weight": torch.eye(3, dtype=torch.bool)})
    for _ in range(2):
        assert connections.connected(mask)
    (unknown,) = caplog.messages
    assert "_fft_r2c in '' is taken to pass everything" in unknown
    for _ in range(2):
        assert connections.under(mask).connected
    (computed,) = caplog.messages[1:]
    assert "a.weight: the network" in computed


@pytest.mark.parametrize(("running", "examples"), [(True, 1), (False, 2)])
def test_one_example_is_doubled_only_for_statistics_of_the_batch(running: bool, examples: int) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, track_running_stats=running))
    assert len(Connections(model, torch.zeros(1, 3)).trace.input) == examples
    assert len(Connections(model, torch.zeros(3, 3)).trace.input) == 3


@pytest.mark.parametrize(
    "how",
    [lambda y: y if y.sum() > 0 else -y, lambda y: y[y > 0], lambda y: y * int(y.argmax())],
    ids=["branch", "selection", "number"],
)
def test_a_network_that_depends_on_its_data_is_refused(how: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(pb.UserError, match="different data"):
        connectivity(Sorted(how), {"a.weight": torch.ones(3, 3, dtype=torch.bool)}, torch.ones(1, 3))


@pytest.mark.parametrize(
    ("mask", "example", "message"),
    [
        ({"b.weight": torch.ones(3, 3, dtype=torch.bool)}, torch.ones(1, 3), "does not have"),
        ({"a.weight": torch.ones(3, 2, dtype=torch.bool)}, torch.ones(1, 3), "has shape"),
        ({"a.weight": torch.ones(3, 3)}, torch.ones(1, 3), "must be torch.bool"),
        ({"a.weight": torch.ones(3, 3, dtype=torch.bool)}, torch.ones(1, 4), "does not fit the model in 'a', a Linear"),
        ({"a.weight": torch.ones(3, 3, dtype=torch.bool)}, [1.0], "an example input is a tensor"),
    ],
)
def test_bad_input(mask: dict[str, Tensor], example: Tensor, message: str) -> None:
    with pytest.raises(pb.UserError, match=message):
        connectivity(Sorted(lambda y: y), mask, example)


def test_the_model_is_left_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2)).train()
    before = {name: (value.clone(), value.data_ptr()) for name, value in model.state_dict().items()}
    state, flag = torch.get_rng_state(), torch.backends.mha.get_fastpath_enabled()
    mask = random_mask(model, 0, 0.5)
    copies = {name: keep.clone() for name, keep in mask.items()}
    connectivity(model, mask, torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.backends.mha.get_fastpath_enabled() is flag
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name][0])
        assert value.data_ptr() == before[name][1]
    assert all(torch.equal(mask[name], copies[name]) for name in mask)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


LARGE = ("snip-it-vgg-16",)


@pytest.mark.usefixtures("orthogonal_is_normal")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else [])
        for name in [*(p.name for p in MODELS.plugins() if p.name[-1] != ":"), "torchvision:mobilenet_v3_small"]
    ],
)
def test_every_model_of_the_project_is_known(name: str) -> None:
    model = pb.create_model(name, input_shape=(3, 32, 32), num_classes=10, seed=0)
    mask = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in prunable_parameters(model).items()}
    found = connectivity(model, mask, torch.zeros(1, 3, 32, 32))
    assert found.connected
    assert not found.unknown
    assert not found.dead_layers


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")
def test_every_classifier_of_torchvision_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced without values: every operation on a tensor has a rule, or is element by element, or moves elements."""
    in_numbers = regnet.BlockParams.from_init_params.__func__

    def from_init_params(cls: Any, *args: Any, **options: Any) -> Any:
        with torch.device("cpu"):  # it computes widths with tensors
            return in_numbers(cls, *args, **options)

    monkeypatch.setattr(regnet.BlockParams, "from_init_params", classmethod(from_init_params))
    names = torchvision.models.list_models(module=torchvision.models)
    assert len(names) > 75
    for name in names:
        with torch.device("meta"):
            model = torchvision.models.get_model(name, weights=None).eval()
            size = 299 if name == "inception_v3" else 224
            found = tracing.trace(model, torch.zeros(1, 3, size, size))
        for operation in found.operations:
            if list(tracing.tensors(list(operation.arguments.values()))):
                assert rules.rule_for(operation) is not rules.unknown, f"{name}: {operation}"
