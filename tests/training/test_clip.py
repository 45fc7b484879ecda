"""Gradients that are too long are shortened, each network's by itself; and the protocol of SNIP-it's code."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.data import Split
from pai_bench.support.registry import PROTOCOLS
from pai_bench.training.batches import Batches, Order
from pai_bench.training.protocol import Protocol
from pai_bench.training.step import Step
from pai_bench.training.trainable_groups import Branches, SingleModel, StackedModels, TrainableGroup

PROTOCOL = Protocol(name="", epochs=1, batch_size=8, learning_rate=0.1, momentum=0.0, weight_decay=0.0, clip_norm=0.5)


def network(scale: float) -> nn.Module:
    """A network whose gradient is longer, the larger its weights are."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        model.get_parameter("2.weight").mul_(scale)
    model.get_parameter("0.bias").requires_grad_(False)
    return model


X, Y = torch.linspace(-3, 3, 48).double().view(8, 6), torch.arange(8) % 3
SCALES = [0.01, 30.0, 100.0]


def expected(scale: float) -> list[Tensor]:
    """One step of plain gradient descent, its gradient shortened by torch."""
    model = network(scale)
    F.cross_entropy(model(X), Y).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    return [weight.detach() for weight in model.parameters()]


@pytest.mark.parametrize("kind", ["alone", "stacked", "branches"])
def test_each_network_is_clipped_as_torch_would_clip_it(kind: str) -> None:
    models = [network(scale) for scale in SCALES]
    program: TrainableGroup
    if kind == "alone":
        for model in models:
            Step(SingleModel(model), PROTOCOL)(X[None], Y[None], 0.1)
    else:
        program = (StackedModels if kind == "stacked" else Branches)(models, [None] * len(models))
        Step(program, PROTOCOL)(torch.stack([X] * len(models)), torch.stack([Y] * len(models)), 0.1)
        program.finish()
    for model, scale in zip(models, SCALES, strict=True):
        for one, other in zip(model.parameters(), expected(scale), strict=True):
            torch.testing.assert_close(one.detach(), other, rtol=1e-10, atol=1e-12)


def test_the_gradients_are_of_both_kinds() -> None:
    norms = []
    for scale in SCALES:
        model = network(scale)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        gradients = torch.autograd.grad(F.cross_entropy(model(X), Y), weights)
        norms.append(float(torch.stack([g.square().sum() for g in gradients]).sum().sqrt()))
    assert norms[0] < 0.5 < norms[1] < norms[2]


def test_snip_it_mirrors_a_fifth_of_the_images() -> None:
    protocol = dataclasses.replace(PROTOCOLS["snip-it"], batch_size=1000)
    assert protocol.clip_norm == 10
    images = torch.zeros(10_000, 1, 1, 2, dtype=torch.uint8)
    images[..., 0] = 255
    split = Split(images, torch.zeros(10_000, dtype=torch.long))
    data = pb.DataSet("pairs", split, split, num_classes=2)
    seen = torch.cat([inputs for inputs, _ in Batches(data, [Order(0)], protocol).epoch()], 1)
    mirrored = (seen[..., 0] < seen[..., 1]).double().mean()
    assert abs(float(mirrored) - 0.2) < 4 * (0.2 * 0.8 / 10_000) ** 0.5
    assert "a fifth of the images mirrored, gradients of norm 10 at most" in protocol.describe()


def test_a_limit_must_be_positive() -> None:
    with pytest.raises(pb.UserError, match=r"clip norm 0\.0 must be positive"):
        dataclasses.replace(PROTOCOL, clip_norm=0.0)


def test_identities_of_protocols_without_a_limit_are_what_they_were() -> None:
    assert "clip_norm" not in PROTOCOLS["short"].settings()
    assert PROTOCOLS["snip-it"].settings()["clip_norm"] == 10
