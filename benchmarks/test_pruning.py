"""Whole prunings: scores, checks and selections, for all cuts of a schedule."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

import pai_bench as pb
from benchmarks.conftest import CompareWithFloor
from benchmarks.networks import NETWORKS, example, forward_and_backward
from pai_bench.masks import OneShot
from pai_bench.scoring import prunable_parameters
from tests.made import UNSTRUCTURED


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ["bare pass", *UNSTRUCTURED])
def test_prune(compare_with_floor: CompareWithFloor, device: torch.device, name: str, network: str) -> None:
    """Compared with one forward and backward pass. Iterative criteria run only on the small network."""
    criterion = pb.get_criterion("snip" if name == "bare pass" else name)
    if criterion.schedule != OneShot() and network != "lenet-300-100":
        pytest.skip("an iterative schedule on a large network; its score is measured")
    model, batch = example(network, device)
    floor = forward_and_backward(model, batch, criterion)
    work = floor if name == "bare pass" else lambda: pb.prune(model, batch, criterion, 0.95)
    compare_with_floor(work, floor, group=f"prune {network}")


def test_magnitude_and_kthvalue(compare_with_floor: CompareWithFloor, device: torch.device) -> None:
    """134 million weights, checks and scoring included; the target is 2.5 times the speed of ``torch.kthvalue``."""
    model, batch = example("torchvision:vgg16_bn", device)
    flat = torch.cat([weight.detach().abs().flatten() for weight in prunable_parameters(model).values()])

    def floor() -> Any:
        return flat.kthvalue(round(0.95 * len(flat)) + 1)

    compare_with_floor(
        lambda: pb.prune(model, batch, "magnitude", 0.95),
        floor,
        group="prune torchvision:vgg16_bn by magnitude, floor torch.kthvalue",
        target=0.4,
    )


def test_synflow_and_a_hundred_passes(compare_with_floor: CompareWithFloor, device: torch.device) -> None:
    """15 million weights, 100 cuts. Target: 1.5 times 100 forward and backward passes of one example in float64."""
    model, batch = example("vgg-16-bn", device)
    compare_with_floor(
        lambda: pb.prune(model, batch, "synflow", 0.95),
        hundred_passes(model),
        group="prune vgg-16-bn by synflow, floor 100 x forward + backward of one example",
        target=1.5,
    )


def hundred_passes(model: torch.nn.Module) -> Callable[[], None]:
    """A hundred forward and backward passes of one example in float64, for the prunable weights."""
    twin = copy.deepcopy(model).double().eval().requires_grad_(False)
    weights = [weight.requires_grad_(True) for weight in prunable_parameters(twin).values()]
    ones = torch.ones(1, 3, 32, 32, dtype=torch.float64, device=weights[0].device)

    def passes() -> None:
        for _ in range(100):
            torch.autograd.grad(twin(ones).sum(), weights)

    return passes
