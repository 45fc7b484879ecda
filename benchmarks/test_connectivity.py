"""Connectivity of a network under a mask, compared with a forward and backward pass."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import pai_bench as pb
from benchmarks.conftest import CompareWithFloor
from pai_bench.scoring import prunable_parameters


def thousand() -> nn.Module:
    """A thousand linear layers."""
    return nn.Sequential(*[nn.Linear(100, 100) for _ in range(1000)])


NETWORKS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "1,000 linear layers, 1 example": ((1, 100), thousand),
    "1,000 linear layers, 100 examples": ((100, 100), thousand),
    "resnet152, 1 example": ((1, 3, 224, 224), lambda: torchvision.models.resnet152(weights=None)),
    "vit_b_16, 1 example": ((1, 3, 224, 224), lambda: torchvision.models.vit_b_16(weights=None)),
}
"""Networks, with the shape of the input of the floor."""


@pytest.mark.parametrize("case", ["connectivity", "without the number of paths"])
@pytest.mark.parametrize("network", NETWORKS)
def test_connectivity(compare_with_floor: CompareWithFloor, device: torch.device, network: str, case: str) -> None:
    """The target is five times the floor.

    Connectivity is computed once, not for each example of a batch, so a floor with fewer examples is harder to reach.
    """
    if device.type != "cpu":
        pytest.skip("connectivity is computed on a CPU")
    shape, build = NETWORKS[network]
    model, example = build().eval(), torch.zeros(shape)
    generator = torch.Generator().manual_seed(0)
    weights = prunable_parameters(model)
    mask = pb.Mask({name: torch.rand(w.shape, generator=generator) < 0.1 for name, w in weights.items()})

    def floor() -> Any:
        return torch.autograd.grad(model(example).sum(), list(weights.values()))

    compare_with_floor(
        lambda: pb.connectivity(model, mask, example[:1], paths=case == "connectivity"),
        floor,
        group=f"connectivity {network}",
        target=5.0,
    )
