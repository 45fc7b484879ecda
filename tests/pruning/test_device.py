"""Scores and masks on a device of their own."""

import pytest
import torch

import pai_bench as pb
from pai_bench.registry import CRITERIA

NETWORKS = {
    "resnet-20": (3, 32, 32),
    "alexnet-s": (3, 32, 32),  # its pools overlap
    "lstm-s": (1, 28, 28),
    "torchvision:vit_b_16": (3, 224, 224),  # with more than one block of keys
}


@pytest.mark.gpu
@pytest.mark.parametrize("name", [plugin.name for plugin in CRITERIA.plugins()])
@pytest.mark.parametrize("network", NETWORKS)
def test_scores_have_the_same_bits_twice(network: str, name: str) -> None:
    shape = NETWORKS[network]
    model = pb.create_model(network, input_shape=shape, num_classes=10).to("cuda")
    generator = torch.Generator().manual_seed(0)
    batch = pb.Batch(torch.randn(16, *shape, generator=generator), torch.arange(16) % 10).to("cuda")
    first, second = (pb.get_criterion(name).score(model, batch) for _ in range(2))
    for layer in first:
        assert torch.equal(first[layer], second[layer]), layer
