"""One score by every criterion, compared with a forward and backward pass of the same batch.

Run with ``tox -e benchmarks``; more options are those of pytest-benchmark.
"""

import pytest
import torch

import pai_bench as pb
from benchmarks.conftest import CompareWithFloor
from benchmarks.networks import NETWORKS, example, forward_and_backward
from pai_bench.support.registry import CRITERIA

TARGETS = {
    ("snip", "torchvision:vgg16_bn"): 1.15,
    ("snip", "resnet-18"): 1.15,
    ("grasp", "resnet-18"): 3.3,
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", [plugin.name for plugin in CRITERIA.plugins() if not plugin.target.structured])
def test_score(compare_with_floor: CompareWithFloor, device: torch.device, name: str, network: str) -> None:
    """SNIP's target is 1.15 times the floor, GraSP's 3.3."""
    criterion = pb.get_criterion(name)
    model, batch = example(network, device, 100 if (name, network) == ("grasp", "resnet-18") else None)
    compare_with_floor(
        lambda: criterion.score(model, batch),
        forward_and_backward(model, batch, criterion),
        group=f"score {network}",
        target=(target := TARGETS.get((name, network))),
        rounds=7 if target else 3,
    )


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("bn", ["eval", "train"])
def test_floor(compare_with_floor: CompareWithFloor, device: torch.device, bn: str, network: str) -> None:
    """The floor compared with itself: the difference from 1 is the uncertainty of the ratios."""
    model, batch = example(network, device)
    floor = forward_and_backward(model, batch, pb.get_criterion("snip", bn=bn))
    compare_with_floor(floor, floor, group=f"score {network}")
