"""Selecting 5 % of the scores of torchvision's VGG-16-BN: 134 million in 16 tensors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.conftest import CompareWithFloor
from benchmarks.networks import example
from pai_bench.masks import select
from pai_bench.masks.selection import kept_count
from pai_bench.scoring import prunable_parameters

DENSITY = 0.05


FLOORS = ["torch.kthvalue", "torch.sort", "one read"]


@pytest.mark.parametrize("method", ["select", *FLOORS])
@pytest.mark.parametrize("floor", FLOORS)
def test_select(compare_with_floor: CompareWithFloor, device: torch.device, floor: str, method: str) -> None:
    """Selection with masks. On a CPU, the target is a quarter of the time of ``torch.kthvalue`` on the same scores.

    On CUDA, ``torch.kthvalue`` uses only one multiprocessor, so the floor is a sort.
    """
    if "torch.sort" in (floor, method) and device.type == "cpu":
        pytest.skip("the sort is the floor on CUDA only")
    model, _ = example("torchvision:vgg16_bn", device)
    shapes = {name: weight.shape for name, weight in prunable_parameters(model).items()}
    flat = torch.rand(sum(shape.numel() for shape in shapes.values()), generator=torch.Generator().manual_seed(0))
    flat = flat.to(device)
    parts = flat.split([shape.numel() for shape in shapes.values()])
    scores = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
    count = kept_count(DENSITY, len(flat))
    work: dict[str, Callable[[], Any]] = {
        "select": lambda: select(scores, count),
        "torch.kthvalue": lambda: flat.kthvalue(len(flat) - count + 1),
        "torch.sort": lambda: flat.sort(),
        "one read": lambda: [score.sum() for score in scores.values()],
    }
    target = 0.25 if (method, floor, device.type) == ("select", "torch.kthvalue", "cpu") else None
    compare_with_floor(work[method], work[floor], group=f"selection, floor {floor}", target=target)
