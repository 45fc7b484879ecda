"""Connectivity beside paths that are followed by hand, on random small networks of every kind."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import regnet

import pai_bench as pb
from pai_bench.pruning import prunable_parameters, rules, tracing
from pai_bench.pruning.connectivity import Connectivity, connectivity
from pai_bench.registry import MODELS
from tests.pruning.paths import Graph, Nodes

Build = Callable[[int], tuple[nn.Module, tuple[int, ...], Callable[[Graph, Nodes], Nodes]]]
"""From a seed, a network, the shape of an example, and the same network by hand."""


def random_mask(model: nn.Module, seed: int, density: float) -> pb.Mask:
    generator = torch.Generator().manual_seed(seed)
    return pb.Mask(
        {name: torch.rand(p.shape, generator=generator) < density for name, p in prunable_parameters(model).items()}
    )


def agree(build: Build, seed: int, density: float) -> Connectivity:
    """Compare with paths by hand, and give what was found."""
    model, shape, by_hand = build(seed)
    mask = random_mask(model, seed, density)
    found = connectivity(model, mask, torch.zeros(1, *shape))
    graph = Graph(dict(mask))
    inputs = graph.nodes(*shape)
    expected, paths = graph.effective(inputs, by_hand(graph, inputs))
    assert not found.unknown
    for name, effective in found.effective_mask.items():
        np.testing.assert_array_equal(effective.numpy(), expected[name], err_msg=name)
    assert found.connected == (paths > 0)
    if found.log10_paths is not None:
        assert found.log10_paths == pytest.approx(np.log10(float(paths)) if paths else -np.inf, abs=1e-4)
    return found


def mlp(seed: int) -> tuple[nn.Module, tuple[int, ...], Callable[[Graph, Nodes], Nodes]]:
    model = nn.Sequential(
        nn.Linear(4, 5), nn.ReLU(), nn.BatchNorm1d(5), nn.Linear(5, 3), nn.LayerNorm(3), nn.Linear(3, 2)
    )
    return model, (4,), lambda g, x: g.linear("5.weight", g.linear("3.weight", g.linear("0.weight", x)))


class Net(nn.Module):
    """A network whose forward is a function."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.run(self, x)
        return output


def cnn(seed: int) -> tuple[nn.Module, tuple[int, ...], Callable[[Graph, Nodes], Nodes]]:
    stride, padding, dilation = 1 + seed % 2, seed // 2 % 3, 1 + seed // 6 % 2
    ceil = bool(seed // 12 % 2)
    pool = nn.MaxPool2d(2, 2, ceil_mode=ceil) if seed % 3 else nn.AvgPool2d(2, 2, ceil_mode=ceil)
    conv = nn.Conv2d(2, 4, 3, stride=stride, padding=padding, dilation=dilation, groups=2)
    first = nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(inplace=True), pool)
    size = first(torch.zeros(1, 2, 7, 7)).shape[1:]
    model = nn.Sequential(*first, nn.Flatten(), nn.Linear(size.numel(), 2))

    def by_hand(g: Graph, x: Nodes) -> Nodes:
        x = g.conv("0.weight", x, stride=stride, padding=padding, dilation=dilation, groups=2)
        return g.linear("5.weight", g.pool(x, 2, stride=2, ceil=ceil).reshape(-1))

    return model, (2, 7, 7), by_hand


def depthwise(seed: int) -> tuple[nn.Module, tuple[int, ...], Callable[[Graph, Nodes], Nodes]]:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, groups=3, bias=False),
        nn.ReLU6(),
        nn.Conv2d(6, 4, 1),
        nn.GroupNorm(2, 4),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )

    def by_hand(g: Graph, x: Nodes) -> Nodes:
        x = g.conv("2.weight", g.conv("0.weight", x, padding=1, groups=3))
        return g.linear("7.weight", g.mean(x))

    return model, (3, 4, 4), by_hand


def residual(seed: int) -> tuple[nn.Module, tuple[int, ...], Callable[[Graph, Nodes], Nodes]]:
    in_place = bool(seed % 2)

    def run(net: Any, x: Tensor) -> Any:
        y = net.b(F.relu(net.a(x), inplace=in_place))
        short = net.c(x)
        if in_place:
            y += short
        else:
            y = y + short
        y = F.relu_(y) + torch.relu(net.d(y))
        return net.e(y.mean((2, 3)))

    model = Net(
        run,
        a=nn.Conv2d(2, 3, 3, stride=2, padding=1),
        b=nn.Conv2d(3, 3, 3, padding=1),
        c=nn.Conv2d(2, 3, 1, stride=2),
        d=nn.Conv2d(3, 3, 1),
        e=nn.Linear(3, 2),
    )

    def by_hand(g: Graph, x: Nodes) -> Nodes:
        y = g.conv("b.weight", g.conv("a.weight", x, stride=2, padding=1), padding=1)
        y = g.merged(y, g.conv("c.weight", x, stride=2))
        return g.linear("e.weight", g.mean(g.merged(y, g.conv("d.weight", y))))

    return model, (2, 5, 5), by_hand


def concatenated(seed: int) -> tuple[nn.Module, tuple[int, ...], Callable[[Graph, Nodes], Nodes]]:
    def run(net: Any, x: Tensor) -> Any:
        y = torch.cat([x, net.a(x)], 1)
        y = torch.cat([y, net.b(y).relu()], 1)
        y = y.view(1, 2, 4, 4, 4).transpose(1, 2).reshape(1, 8, 4, 4)  # a shuffle of channels
        first, second = y.chunk(2, dim=1)
        return net.c(torch.cat([first.flatten(1), F.max_pool2d(second, 3, 2, 1).flatten(1)], 1))

    model = Net(run, a=nn.Conv2d(2, 3, 3, padding=1), b=nn.Conv2d(5, 3, 1), c=nn.Linear(64 + 16, 2))

    def by_hand(g: Graph, x: Nodes) -> Nodes:
        y = np.concatenate([x, g.conv("a.weight", x, padding=1)])
        y = np.concatenate([y, g.conv("b.weight", y)])
        y = y.reshape(2, 4, 4, 4).swapaxes(0, 1).reshape(8, 4, 4)
        pooled = g.pool(y[4:], 3, stride=2, padding=1)
        return g.linear("c.weight", np.concatenate([y[:4].reshape(-1), pooled.reshape(-1)]))

    return model, (2, 4, 4), by_hand


def transposed(seed: int) -> tuple[nn.Module, tuple[int, ...], Callable[[Graph, Nodes], Nodes]]:
    groups, stride = 1 + seed % 2, 1 + seed // 2 % 2
    model = nn.Sequential(
        nn.ConvTranspose2d(2, 4, 3, stride=stride, padding=1, groups=groups), nn.ReLU(), nn.Conv2d(4, 2, 2, stride=2)
    )

    def by_hand(g: Graph, x: Nodes) -> Nodes:
        return g.conv("2.weight", g.transposed("0.weight", x, stride=stride, padding=1, groups=groups), stride=2)

    return model, (2, 3, 3), by_hand


def other_dimensions(seed: int) -> tuple[nn.Module, tuple[int, ...], Callable[[Graph, Nodes], Nodes]]:
    if seed % 2:
        model: nn.Module = nn.Sequential(
            nn.Conv1d(2, 3, 3, padding=1), nn.InstanceNorm1d(3), nn.Conv1d(3, 2, 2, stride=2)
        )
        shape: tuple[int, ...] = (2, 6)
    else:
        model = nn.Sequential(nn.Conv3d(2, 3, 3, padding=1), nn.BatchNorm3d(3), nn.Conv3d(3, 2, 2, stride=2))
        shape = (2, 3, 3, 3)
    return model, shape, lambda g, x: g.conv("2.weight", g.conv("0.weight", x, padding=1), stride=2)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM | nn.GRU], hidden: int, both_ways: bool) -> None:
        super().__init__()
        self.core = kind(2, hidden, batch_first=True, bidirectional=both_ways)
        self.head = nn.Linear(hidden * (1 + both_ways), 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.core(x)[0][:, -1])
        return output


def recurrent(seed: int) -> tuple[nn.Module, tuple[int, ...], Callable[[Graph, Nodes], Nodes]]:
    gru, both_ways = bool(seed % 2), bool(seed // 2 % 2)
    model = Recurrent(nn.GRU if gru else nn.LSTM, 2, both_ways)

    def by_hand(g: Graph, x: Nodes) -> Nodes:
        layer = g.gru if gru else g.lstm
        y = layer(x, prefix="core.")
        if both_ways:
            y = np.concatenate([y, layer(x[::-1], "_l0_reverse", "core.")[::-1]], axis=1)
        return g.linear("head.weight", y[-1])

    return model, (3, 2), by_hand


class Attention(nn.Module):
    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.norm, self.core, self.head = (
            nn.LayerNorm(4),
            nn.MultiheadAttention(4, 2, batch_first=True),
            nn.Linear(4, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        forbidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1) if self.causal else None
        y = self.norm(x)
        y = x + self.core(y, y, y, need_weights=False, attn_mask=forbidden)[0]
        output: Tensor = self.head(y[:, 0] if self.causal else y.mean(1))
        return output


def attention(seed: int) -> tuple[nn.Module, tuple[int, ...], Callable[[Graph, Nodes], Nodes]]:
    causal = bool(seed % 2)

    def by_hand(g: Graph, x: Nodes) -> Nodes:
        y = g.merged(x, g.attention(x, 2, causal=causal, prefix="core."))
        return g.linear("head.weight", y[0] if causal else g.mean(y.T))

    return Attention(causal), (3, 4), by_hand


def gated(seed: int) -> tuple[nn.Module, tuple[int, ...], Callable[[Graph, Nodes], Nodes]]:
    """Squeeze and excitation: channels times a gate made of their means; then a weight that serves twice."""

    def run(net: Any, x: Tensor) -> Any:
        y = net.a(x)
        gate = torch.sigmoid(net.c(F.relu(net.b(y.mean((2, 3))))))
        y = (y * gate[:, :, None, None]).amax((2, 3))
        return net.d(net.d(y))

    model = Net(run, a=nn.Conv2d(2, 3, 2), b=nn.Linear(3, 2), c=nn.Linear(2, 3), d=nn.Linear(3, 3))

    def by_hand(g: Graph, x: Nodes) -> Nodes:
        y = g.conv("a.weight", x)
        gate = g.linear("c.weight", g.linear("b.weight", g.mean(y)))
        y = g.merged(y, np.broadcast_to(gate[:, None, None], y.shape))
        return g.linear("d.weight", g.linear("d.weight", g.mean(y)))

    return model, (2, 3, 3), by_hand


KINDS: list[Build] = [
    *(mlp, cnn, depthwise, residual, concatenated, transposed, other_dimensions, recurrent, attention, gated)
]


@pytest.mark.parametrize("build", KINDS, ids=lambda build: build.__name__)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), density=st.sampled_from([0.1, 0.25, 0.4, 0.6, 0.9]))
def test_effective_connections_are_those_on_paths(build: Build, seed: int, density: float) -> None:
    agree(build, seed, density)


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


@pytest.mark.parametrize(
    "build", [mlp, cnn, depthwise, concatenated, other_dimensions], ids=lambda build: build.__name__
)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), density=st.sampled_from([0.2, 0.5]))
def test_effective_is_where_a_linear_positive_network_has_a_gradient(build: Build, seed: int, density: float) -> None:
    """Weights and inputs at one, biases at zero, normalisation switched off, maxima replaced by means, in float64."""
    model, shape, _ = build(seed)
    mask = random_mask(model, seed, density)
    found = connectivity(model, mask, torch.zeros(1, *shape))
    linear = nn.Sequential(*[linearised(layer) for layer in model]) if isinstance(model, nn.Sequential) else model
    linear.double().eval()
    for name, parameter in linear.named_parameters():
        parameter.data.copy_(mask[name].double() if name in mask else torch.zeros_like(parameter))
    pool = F.max_pool2d
    F.max_pool2d = lambda x, *args: F.avg_pool2d(x, *args)  # type: ignore[assignment]
    try:
        linear(torch.ones(1, *shape, dtype=torch.float64)).sum().backward()
    finally:
        F.max_pool2d = pool
    for name, parameter in linear.named_parameters():
        if name in mask:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            assert torch.equal(found.effective_mask[name], (gradient > 0) & mask[name]), name


def linearised(layer: nn.Module) -> nn.Module:
    if isinstance(layer, nn.MaxPool2d):
        return nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.SiLU)
    return nn.Identity() if isinstance(layer, kinds) else layer


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


@pytest.mark.parametrize(
    "name", [p.name for p in MODELS.plugins() if p.name[-1] != ":"] + ["torchvision:mobilenet_v3_small"]
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
                assert rules.known(operation), f"{name}: {operation}"
