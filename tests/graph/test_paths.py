"""Effective connections and numbers of paths, beside paths that are followed by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from pai_bench.graph.connectivity import Connectivity, connectivity
from tests.graph.kinds import KINDS, Build, cnn, concatenated, depthwise, mlp, other_dimensions, random_mask
from tests.graph.paths import Graph


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


@pytest.mark.parametrize("build", KINDS, ids=lambda build: build.__name__)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), density=st.sampled_from([0.1, 0.25, 0.4, 0.6, 0.9]))
def test_effective_connections_are_those_on_paths(build: Build, seed: int, density: float) -> None:
    agree(build, seed, density)


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


@pytest.mark.parametrize(
    ("shape", "pooled", "paths"), [((2, 6), nn.AdaptiveAvgPool1d(3), 12), ((2, 4, 6), nn.AdaptiveAvgPool2d((2, 3)), 48)]
)
def test_paths_through_windows_of_any_number_of_dimensions(
    shape: tuple[int, ...], pooled: nn.Module, paths: int
) -> None:
    """Each value of an image is in one window, and each window leads to the output."""
    places = pooled(torch.zeros(1, *shape)).numel()
    model = nn.Sequential(pooled, nn.Flatten(), nn.Linear(places, 1))
    found = connectivity(model, {"2.weight": torch.ones(1, places, dtype=torch.bool)}, torch.zeros(1, *shape))
    assert not found.unknown
    assert found.log10_paths == pytest.approx(np.log10(paths))


def test_a_bias_that_is_added_is_effective_where_its_unit_is_on_a_path() -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
            self.shift = nn.Parameter(torch.ones(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.last(torch.relu(self.first(x) + self.shift))
            return found

    mask = {"first.weight": torch.tensor([[1, 1], [1, 1]]).bool(), "shift": torch.ones(2).bool()}
    found = connectivity(Added(), mask | {"last.weight": torch.tensor([[1, 0]]).bool()}, torch.zeros(1, 2))
    assert found.effective_mask["shift"].tolist() == [True, False]
    assert found.effective_mask["first.weight"].tolist() == [[True, True], [False, False]]
