"""The networks of the benchmarks, with their batches."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import pai_bench as pb
from pai_bench.analyses.cost import bare

NETWORKS: dict[str, tuple[tuple[int, ...], int]] = {
    "lenet-300-100": ((1, 28, 28), 100),
    "torchvision:vgg16_bn": ((3, 32, 32), 64),
    "resnet-18": ((3, 32, 32), 128),
    "torchvision:resnet50": ((3, 64, 64), 32),
}
"""Name -> shape of an input and size of the score batch."""


def example(name: str, device: torch.device, size: int | None = None) -> tuple[nn.Module, pb.Batch]:
    """A network and a batch of random inputs for it."""
    shape, default = NETWORKS.get(name, ((3, 32, 32), 100))
    model = pb.create_model(name, input_shape=shape, num_classes=10, seed=0).to(device)
    generator = torch.Generator().manual_seed(0)
    count = size or default
    return model, pb.Batch(torch.randn(count, *shape, generator=generator), torch.arange(count) % 10).to(device)


def forward_and_backward(model: nn.Module, batch: pb.Batch, criterion: pb.Criterion) -> Callable[[], Any]:
    """The floor of scoring: one forward and backward pass of the same batch, without a criterion."""
    return bare(model, batch, criterion)
