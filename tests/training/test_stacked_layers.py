"""Layers of a stack of networks give what the layers of each network give, and keep its precision and layout."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pai_bench.support.precision import arithmetic
from pai_bench.support.torch_internals import add_batch_dim
from pai_bench.training import stacked_layers
from pai_bench.training.layout import channels_last_weights, prepare_layout, stacked_channels_last
from pai_bench.training.stacked_layers import FAST_LAYERS, StackedLayers
from pai_bench.training.trainable_groups import SingleModel, StackedModels

K = 3
"""Networks in a stack."""


def stacked(*shape: int, seed: int = 0) -> Tensor:
    """Numbers of `K` networks, with a gradient."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(K, *shape, generator=generator, dtype=torch.float64).requires_grad_()


Layer = Callable[..., Tensor]


def pool(function: Layer, *sizes: Any, **options: Any) -> tuple[Layer, list[Tensor]]:
    return (lambda x: function(x, *sizes, **options)), [stacked(2, 4, 6, 6)]


LAYERS: dict[str, tuple[Layer, list[Tensor]]] = {
    "linear": (F.linear, [stacked(5, 4), stacked(3, 4, seed=1), stacked(3, seed=2)]),
    "linear of tokens": (F.linear, [stacked(5, 2, 4), stacked(3, 4, seed=1)]),
    "conv1d": (F.conv1d, [stacked(2, 4, 9), stacked(6, 4, 3, seed=1), stacked(6, seed=2)]),
    "conv2d": (F.conv2d, [stacked(2, 4, 6, 6), stacked(6, 4, 3, 3, seed=1), stacked(6, seed=2)]),
    "conv2d in groups": (
        lambda x, w: F.conv2d(x, w, stride=2, padding=1, groups=2),
        [stacked(2, 4, 6, 6), stacked(6, 2, 3, 3, seed=1)],
    ),
    "conv3d": (lambda x, w: F.conv3d(x, w, padding="same"), [stacked(1, 2, 3, 4, 4), stacked(3, 2, 3, 3, 3, seed=1)]),
    "batch norm": (
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        [stacked(5, 4, 3, 3), stacked(4, seed=1), stacked(4, seed=2)],
    ),
    "batch norm of rows": (lambda x: F.batch_norm(x, None, None, training=True), [stacked(5, 4)]),
    "pooling of sequences": ((lambda x: F.avg_pool1d(x, 2)), [stacked(2, 4, 6)]),
    "max pooling": pool(F.max_pool2d, 3, stride=2, padding=1),
    "average pooling": pool(F.avg_pool2d, 2),
    "adaptive pooling": pool(F.adaptive_avg_pool2d, 1),
    "adaptive maximum": pool(F.adaptive_max_pool2d, 2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_and_its_gradients_are_those_of_each_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, tensors = LAYERS[name]
    replaced: list[Tensor] = []

    def seen(*given: Any) -> Tensor:
        replaced.append(add_batch_dim(*given))
        return replaced[-1]

    monkeypatch.setattr(stacked_layers, "add_batch_dim", seen)
    with StackedLayers():
        found = torch.vmap(layer)(*tensors)
    assert len(replaced) == 1  # it is one operation on all networks
    expected = torch.stack([layer(*(tensor[i] for tensor in tensors)) for i in range(K)])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    direction = torch.randn_like(expected)
    for one, other in zip(*(torch.autograd.grad(y, tensors, direction) for y in (found, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("groups", [1, 2])
def test_images_that_all_networks_share(groups: int) -> None:
    images, kernels = torch.randn(2, 4, 6, 6, dtype=torch.float64), stacked(6, 4 // groups, 3, 3)
    with StackedLayers():
        found = torch.vmap(lambda w: F.conv2d(images, w, groups=groups))(kernels)
    torch.testing.assert_close(found, torch.stack([F.conv2d(images, w, groups=groups) for w in kernels]))


def test_running_statistics_move_in_each_network() -> None:
    x, means, variances = stacked(5, 4, 3, 3), torch.zeros(K, 4).double(), torch.ones(K, 4).double()
    one, other = (means.clone(), variances.clone()), (means.clone(), variances.clone())
    with StackedLayers():
        torch.vmap(lambda x, m, v: F.batch_norm(x, m, v, training=True))(x, *one)
    for i in range(K):
        F.batch_norm(x[i], other[0][i], other[1][i], training=True)
    assert not torch.equal(one[0], means)
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_every_layer_says_where_it_does_not_apply() -> None:
    """Then it is what `torch.vmap` makes of it: weights that all share, layers of no stack, nested transforms."""
    shared, x = torch.randn(3, 4, dtype=torch.float64), stacked(5, 4)
    with StackedLayers():
        assert torch.equal(F.linear(x[0], shared), x[0] @ shared.T)
        torch.testing.assert_close(torch.vmap(lambda x: F.linear(x, shared))(x), x @ shared.T)
        nested = torch.vmap(lambda x: torch.vmap(lambda row: F.linear(row, shared))(x))(x)
        torch.testing.assert_close(nested, x @ shared.T)
        values, places = torch.vmap(lambda x: F.max_pool2d(x, 2, return_indices=True))(stacked(2, 4, 6, 6))
        images, scales = torch.randn(5, 4, 6, dtype=torch.float64), stacked(4)
        scaled = torch.vmap(lambda w: F.batch_norm(images, None, None, w, training=True))(scales)
        pooled = torch.vmap(lambda w: F.avg_pool1d(images, 2) * w[:, None])(scales)
    torch.testing.assert_close(scaled, F.batch_norm(images, None, None, training=True) * scales[:, None, :, None])
    torch.testing.assert_close(pooled, F.avg_pool1d(images, 2) * scales[:, None, :, None])
    assert values.shape == places.shape == (K, 2, 4, 3, 3)
    assert F.linear in FAST_LAYERS


class Operations(TorchDispatchMode):
    """Notes the operations that are made, with the data types of their tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made: list[tuple[str, torch.dtype | None]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        dtype = next((arg.dtype for arg in args if isinstance(arg, Tensor)), None)
        self.made.append((func.overloadpacket.__name__, dtype))
        return func(*args, **(kwargs or {}))


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )


@pytest.mark.parametrize("together", [False, True])
def test_bf16_is_the_arithmetic_of_convolutions_and_linear_layers(together: bool) -> None:
    """`torch.vmap` by itself makes operations of convolutions that autocast on a processor does not know."""
    models = [small() for _ in range(2)]
    program = StackedModels(models, [None] * 2) if together else SingleModel(models[0])
    x = torch.randn(program.lanes, 6, 2, 6, 6)
    with arithmetic("bf16", torch.device("cpu")), Operations() as operations:
        program.losses(x, torch.zeros(program.lanes, 6, dtype=torch.long))
        assert program.logits(x, by_lane=True).dtype == torch.bfloat16
    products = [(name, dtype) for name, dtype in operations.made if name in ("convolution", "addmm", "baddbmm")]
    assert {name for name, _ in products} == {"convolution", "baddbmm" if together else "addmm"}
    assert {dtype for _, dtype in products} == {torch.bfloat16}


class Constant(nn.Module):
    """A convolution with a kernel that all networks share."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, torch.full((2, 2, 3, 3), 0.3, dtype=x.dtype))


@pytest.mark.parametrize(
    "layer", [nn.ConvTranspose2d(2, 2, 3), Constant(), nn.GroupNorm(1, 2), nn.LayerNorm(6), nn.Conv2d(2, 2, 3)]
)
def test_layers_by_the_rules_of_vmap_are_in_bf16_too(layer: nn.Module) -> None:
    """Those are operations that autocast on a processor does not know, or that promote what they are given."""
    dtypes = []
    for together in (False, True):
        model = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), copy.deepcopy(layer))
        with arithmetic("bf16", torch.device("cpu")), torch.no_grad():
            if together:
                program = StackedModels([model, copy.deepcopy(model)], [None] * 2)
                found = program.logits(torch.randn(2, 4, 2, 6, 6), by_lane=True)
            else:
                found = model(torch.randn(4, 2, 6, 6))
        dtypes.append(found.dtype)
    assert dtypes == [torch.bfloat16, torch.bfloat16]


def test_linear_functions_of_other_shapes_are_those_of_vmap() -> None:
    x, weights, vectors = stacked(5, 4), stacked(3, 4, seed=1), stacked(3, seed=2)
    functions: list[Layer] = [
        lambda x, w, _b: F.linear(x, w[0]),
        lambda x, w, b: F.linear(x, w, b.sum()),
        lambda x, w, b: F.linear(x, w, b.expand(5, 3)),
    ]
    for function in functions:
        with StackedLayers():
            found = torch.vmap(function)(x, weights, vectors)
        expected = torch.stack([function(*parts) for parts in zip(x, weights, vectors, strict=True)])
        torch.testing.assert_close(found, expected)


def test_gradients_have_the_layout_of_their_weights() -> None:
    """Or else the optimiser would have to copy every one of them."""
    models = [small() for _ in range(2)]
    lanes = StackedModels(models, [None] * 2)
    losses = lanes.losses(torch.randn(2, 6, 2, 6, 6), torch.zeros(2, 6, dtype=torch.long))
    for weight, gradient in zip(lanes.parameters, torch.autograd.grad(losses.sum(), lanes.parameters), strict=True):
        assert weight.stride() == gradient.stride()


def test_which_weights_lie_channels_last() -> None:
    """Those of two-dimensional convolutions alone, whatever another layer of four dimensions does."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ConvTranspose2d(4, 2, 3), nn.Conv1d(2, 2, 3), nn.Linear(2, 2))
    assert channels_last_weights(model) == []
    for module in (model[0], model[1]):
        module.to(memory_format=torch.channels_last)
    assert channels_last_weights(model) == ["0.weight"]
    kernels = torch.randn(K, 4, 2, 3, 3)
    found = stacked_channels_last(kernels)
    assert torch.equal(found, kernels)
    assert found.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


def test_a_stack_keeps_the_layout_of_its_networks_whose_modes_may_differ() -> None:
    models = [small().to(memory_format=torch.channels_last) for _ in range(2)]
    models[0].eval()
    program = StackedModels(models, [None] * 2)
    assert program.state["0.weight"].flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


class Views(nn.Module):
    """A network that cannot be run with channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 3), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.conv(x).view(-1, 64))
        return output


def test_a_network_that_looks_at_memory_stays_as_it_is() -> None:
    model = Views()
    prepare_layout([model], torch.randn(2, 2, 6, 6))
    assert model.conv.weight.is_contiguous()
    assert model(torch.randn(2, 2, 6, 6)).shape == (2, 3)
