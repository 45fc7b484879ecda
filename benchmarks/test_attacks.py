"""Verdicts: fooled examples that leave, compared with all that stay; and the passes alone.

``tox -e benchmarks -- benchmarks/test_attacks.py`` tells seconds and ratios.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from benchmarks.conftest import CompareWithFloor
from pai_bench.attacks import EFFORTS, Attacker, Ball, Examples
from pai_bench.evaluation.adversarial import attacked, first_examples

NETWORKS = ("lenet-300-100", "lenet-5-caffe", "resnet-20")

EPOCHS = 8


@dataclass(frozen=True)
class Passes:
    """A network that notes how many examples each of its passes has, and whether gradients follow."""

    network: Callable[[Tensor], Tensor]
    seen: list[tuple[int, bool]] = field(default_factory=list)

    def __call__(self, inputs: Tensor) -> Tensor:
        self.seen.append((len(inputs), inputs.requires_grad))
        return self.network(inputs)


def trained(name: str, device: torch.device) -> tuple[Callable[[Tensor], Tensor], Examples]:
    """A network that was trained on digits for some epochs, and all test examples."""
    data = pb.load_data("digits").to(device)
    model: nn.Module = pb.create_model(name, input_shape=data.input_shape, num_classes=10, seed=0).to(device)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    inputs, targets = data.normalised(data.train.inputs), data.train.targets
    for _ in range(EPOCHS):
        for part, labels in zip(inputs.split(64), targets.split(64), strict=True):
            optimiser.zero_grad()
            F.cross_entropy(model(part), labels).backward()
            optimiser.step()
    model.eval().requires_grad_(False)
    return attacked(model, data), first_examples(data, len(data.test.targets))


def attacker(network: Callable[[Tensor], Tensor]) -> Attacker:
    """What makes the verdict."""
    return Attacker(network, Ball("linf", 0.2), EFFORTS["quick"])


@pytest.mark.parametrize("name", NETWORKS[:2])
def test_fooled_examples_leave(compare_with_floor: CompareWithFloor, device: torch.device, name: str) -> None:
    """A verdict at an eps that fools most examples, compared with one in which all stay. Target: 3 times as fast."""
    network, examples = trained(name, device)
    leaving = attacker(network)
    staying = replace(leaving, leave=False)
    assert torch.equal(leaving.verdict(examples).robust, staying.verdict(examples).robust)
    compare_with_floor(
        lambda: leaving.verdict(examples),
        lambda: staying.verdict(examples),
        group=f"verdict of {name}, fooled examples leave",
        target=1 / 3,
        examples=len(examples),
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_verdict(compare_with_floor: CompareWithFloor, device: torch.device, name: str) -> None:
    """A verdict by `quick`, compared with as many passes forward, and back to the inputs, in whole batches."""
    network, examples = trained(name, device)
    passes = Passes(network)
    attacker(passes).verdict(examples)
    counts = {back: sum(count for count, has_gradient in passes.seen if has_gradient == back) for back in (True, False)}
    compare_with_floor(
        lambda: attacker(network).verdict(examples),
        lambda: bare_passes(network, examples, counts),
        group=f"verdict of {name} by quick",
        warm=False,
        examples=len(examples),
    )


def bare_passes(network: Callable[[Tensor], Tensor], examples: Examples, counts: dict[bool, int]) -> Any:
    """So many examples forward, and so many back to the inputs, 250 at once."""
    batch = examples.inputs[:250]
    for back, count in counts.items():
        for start in range(0, count, len(batch)):
            inputs = batch[: count - start].detach().requires_grad_(back)
            with torch.set_grad_enabled(back):
                logits = network(inputs)
            if back:
                torch.autograd.grad(logits.sum(), inputs)
