"""Scoring and selection, each beside its floor in the same group: compare the medians of a group with each other.

Run with ``tox -e benchmarks``; more options are those of pytest-benchmark.
"""

from typing import Any

import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.pruning import gradients, select
from pai_bench.pruning.guard import replica

NETWORKS = ("lenet-300-100", "lenet-5-caffe", "vgg-11-bn")


def example(name: str) -> tuple[nn.Module, pb.Batch]:
    """A network for 28x28 images and a batch of 100."""
    model = pb.create_model(name, input_shape=(1, 28, 28), num_classes=10, seed=0)
    generator = torch.Generator().manual_seed(0)
    return model, pb.Batch(torch.randn(100, 1, 28, 28, generator=generator), torch.arange(100) % 10)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("what", ["floor: bare forward + backward", "snip", "snip:bn=train", "grasp"])
def test_score(benchmark: Any, name: str, what: str) -> None:
    """A score against one forward and backward of the same batch, batch norm in eval mode."""
    model, batch = example(name)
    benchmark.group = f"score {name}"
    if what.startswith("floor"):
        benchmark(gradients, replica(model, None, "eval"), batch)
    else:
        benchmark(pb.get_criterion(what).score, model, batch)


@pytest.mark.parametrize("what", ["floor: one read", "torch.kthvalue", "select"])
def test_selection(benchmark: Any, what: str) -> None:
    """Selecting 5 % of ten million scores."""
    benchmark.group = "selection"
    scores = {"a": torch.rand(10_000_000, generator=torch.Generator().manual_seed(0))}
    if what == "select":
        benchmark.pedantic(select, (scores, 500_000), rounds=5)
    elif what == "torch.kthvalue":
        benchmark.pedantic(torch.kthvalue, (scores["a"], 9_500_000), rounds=5)
    else:
        benchmark(scores["a"].sum)
