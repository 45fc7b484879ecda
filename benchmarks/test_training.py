"""Training steps compared with the products of their layers and with a usual loop; lanes; workers.

``tox -e benchmarks -- benchmarks/test_training.py --speed-report report.md`` writes a report.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pai_bench as pb
from benchmarks.conftest import CompareWithFloor
from benchmarks.floors import layer_products, repeat_products, usual_loop, write_mnist
from pai_bench.data import Split
from pai_bench.support.memory import keep_freed_memory
from pai_bench.training.batches import Batches, Order
from pai_bench.training.protocol import Augmentation, Protocol
from pai_bench.training.recorded import WARM_UP, step_for
from pai_bench.training.trainer import ENGINE

CASES: dict[str, tuple[tuple[int, ...], int, Augmentation, int, float]] = {
    "lenet-300-100": ((1, 28, 28), 100, "none", 200, 0.60),
    "lenet-5-caffe": ((1, 28, 28), 100, "none", 40, 0.60),
    "resnet-20": ((3, 32, 32), 128, "flip-crop", 5, 0.60),
    "vgg-11-bn": ((3, 32, 32), 128, "flip-crop", 3, 0.85),
}
"""Network -> shape of an input, batch size, augmentation, number of steps, and target: floor / time, at least."""

EXAMPLES = 10_000

EPOCHS = 6
"""Epochs that take about as long as one epoch of the usual loop."""


def images(shape: tuple[int, ...], device: torch.device) -> pb.DataSet:
    """Random images."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (EXAMPLES, *shape), generator=generator, dtype=torch.uint8)
    split = Split(inputs, torch.randint(0, 10, (EXAMPLES,), generator=generator))
    return pb.DataSet("random", split, Split(*(t[:10] for t in split)), num_classes=10).to(device)


def networks(name: str, shape: tuple[int, ...], device: torch.device, count: int = 1) -> list[torch.nn.Module]:
    """Freshly initialised networks."""
    return [pb.create_model(name, input_shape=shape, num_classes=10, seed=i).to(device) for i in range(count)]


def training(name: str, device: torch.device, lanes: int = 1, steps: int | None = None) -> Callable[[], Any]:
    """A function that trains pruned networks for some steps, with their batches, as a sweep does."""
    keep_freed_memory()  # as in every process that runs a sweep
    shape, batch, augmentation, default, _ = CASES[name]
    data, models = images(shape, device), networks(name, shape, device, lanes)
    weights = dict(models[0].named_parameters())
    mask = {n: torch.rand(p.shape, device=device) < 0.1 for n, p in weights.items() if p.dim() > 1}
    protocol = Protocol(name="", epochs=1, batch_size=batch, learning_rate=0.01, augmentation=augmentation)
    program = ENGINE.program(models, [mask] * lanes, data.normalised(data.train.inputs[:2]))
    step = step_for(program, protocol, device)
    stream = Batches(data, [Order(i) for i in range(lanes)], protocol).endless()

    def work() -> None:
        for _ in range(steps or default):
            step(*next(stream), 0.01)

    for _ in range(WARM_UP + 2):
        step(*next(stream), 0.01)
    return work


@pytest.mark.parametrize("products", ["all", "needed"])
@pytest.mark.parametrize("network", CASES)
def test_step(compare_with_floor: CompareWithFloor, device: torch.device, network: str, products: str) -> None:
    """A step with its batch, compared with all three products of each layer, or with those that a step needs."""
    shape, batch, _, steps, share = CASES[network]
    example = torch.zeros(2, *shape, device=device)
    floor = layer_products(networks(network, shape, device)[0], example, batch, to_input=products == "all")
    compare_with_floor(
        training(network, device),
        repeat_products(floor, steps),
        group=f"training step {network}",
        target=1 / share,
        rounds=9,
        images=steps * batch,
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_usual_loop(compare_with_floor: CompareWithFloor, device: torch.device, workers: int, tmp_path: Path) -> None:
    """An epoch, compared with torchvision's data set and transforms in a DataLoader. Target: 8 times as fast."""
    write_mnist(tmp_path, EXAMPLES)
    (model,) = networks("lenet-300-100", (1, 28, 28), device)
    compare_with_floor(
        training("lenet-300-100", device, steps=EPOCHS * EXAMPLES // 100),
        usual_loop(tmp_path, model, 100, device, workers),
        group=f"MNIST, LeNet-300-100, compared with a DataLoader with {workers} workers",
        target=1 / 8,
        rounds=7,
        times=EPOCHS,
        images=EXAMPLES,
    )


@pytest.mark.parametrize("lanes", [1, 4, 16, 64])
@pytest.mark.parametrize("network", ["lenet-300-100", "lenet-5-caffe"])
def test_lanes(compare_with_floor: CompareWithFloor, device: torch.device, network: str, lanes: int) -> None:
    """Steps of trials in lanes, compared with the same number of steps one after the other."""
    steps = max(2, CASES[network][3] // (4 * lanes))
    alone, together = training(network, device, steps=steps * lanes), training(network, device, lanes, steps)
    images_seen = steps * lanes * CASES[network][1]
    compare_with_floor(together, alone, group=f"lanes, {network}", rounds=5, images=images_seen)


@pytest.mark.slow
def test_sixteen_trials(compare_with_floor: CompareWithFloor, device: torch.device, tmp_path: Path) -> None:
    """16 trials as ``auto`` runs them, compared with one after the other. Target: 1.6 times as many per hour."""
    counts = iter(range(100))

    def sweep(**options: Any) -> Callable[[], Any]:
        keys: dict[str, Any] = {"criteria": ["snip", "magnitude", "random"], "models": ["lenet-300-100"], "seeds": 4}
        keys |= {"sparsities": [0.9], "epochs": 200, "batch_size": 100, "device": str(device)}
        return lambda: pb.run(pb.Sweep(**keys | options), out=tmp_path / str(next(counts)))

    compare_with_floor(
        sweep(workers="auto", lanes="auto"),
        sweep(workers=1, lanes=1),
        group="16 trials of LeNet-300-100",
        target=1 / 1.6,
        rounds=3,
        trials=16,
        warm=False,
    )
