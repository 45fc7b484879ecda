"""The training engine: one network, data resident on its device, masks exact after every step."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pai_bench.data import DataSet, Split
from pai_bench.errors import UserError
from pai_bench.training.protocol import Protocol

EVALUATION_BATCH = 1000


class DivergedError(RuntimeError):
    """The training loss is no longer finite."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave: mean training loss over its steps, and loss and accuracy on the test set after it."""

    epoch: int
    train_loss: float
    test_loss: float
    test_accuracy: float


@dataclass(frozen=True)
class History:
    """The learning curve of a training, and its speed; evaluation is not in `seconds`."""

    epochs: tuple[Epoch, ...]
    seconds: float
    images: int

    @property
    def images_per_second(self) -> float | None:
        """Training throughput, or None if nothing was trained."""
        return self.images / self.seconds if self.images else None


def train(
    model: nn.Module,
    data: DataSet,
    protocol: Protocol,
    *,
    mask: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    on_epoch: Callable[[Epoch], None] = lambda _epoch: None,
) -> History:
    """Train `model` in place on `data`, both on one device, and evaluate it after every epoch.

    Weights that `mask` removes are exactly 0.0 before the first and after every step. The order of the examples depends
    on `seed` alone. Each epoch takes ``len(train) // batch_size`` whole batches; the rest is left out of that epoch.
    """
    size, batch_size = len(data.train.targets), protocol.batch_size
    if protocol.epochs and batch_size > size:
        raise UserError(f"batch size {batch_size} is larger than the {size} training examples of {data.name}")
    prepare_layout(model, data.normalised(data.train.inputs[:2]))
    keep_exact = Pruned(model, mask or {})
    keep_exact()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.0, momentum=protocol.momentum, weight_decay=protocol.weight_decay, fused=True
    )
    order = torch.Generator().manual_seed(seed)
    device = data.train.targets.device
    per_epoch = size // batch_size
    steps = per_epoch * protocol.epochs
    curve: list[Epoch] = []
    seconds, done = 0.0, 0
    for number in range(1, protocol.epochs + 1):
        start = time.perf_counter()
        model.train()
        total = torch.zeros((), device=device)
        permutation = torch.randperm(size, generator=order)[: per_epoch * batch_size].to(device)
        for chosen in permutation.split(batch_size):
            optimizer.param_groups[0]["lr"] = protocol.rate(done, steps)
            total += train_step(
                model, optimizer, data.normalised(data.train.inputs[chosen]), data.train.targets[chosen]
            )
            keep_exact()
            done += 1
        train_loss = float(total) / per_epoch  # waits for the device, once an epoch
        seconds += time.perf_counter() - start
        if not torch.isfinite(total):
            raise DivergedError(f"diverged: the training loss of epoch {number} is {train_loss}")
        test_loss, test_accuracy = evaluate(model, data, data.test)
        if not math.isfinite(test_loss):  # the last steps of an epoch show here first
            raise DivergedError(f"diverged: the test loss after epoch {number} is {test_loss}")
        curve.append(Epoch(number, train_loss, test_loss, test_accuracy))
        on_epoch(curve[-1])
    return History(tuple(curve), seconds, done * batch_size)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> Tensor:
    """One step of SGD; returns the loss before it, without waiting for the device."""
    loss = F.cross_entropy(model(inputs), targets)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


class Pruned:
    """Sets the removed weights of a network to zero, all layers in one call."""

    def __init__(self, model: nn.Module, mask: Mapping[str, Tensor]) -> None:
        self.weights: list[Tensor] = [model.get_parameter(name) for name in mask]
        self.factors = [
            torch.empty_like(weight, requires_grad=False).copy_(mask[name])
            for name, weight in zip(mask, self.weights, strict=True)
        ]

    @torch.no_grad()
    def __call__(self) -> None:
        if self.weights:
            torch._foreach_mul_(self.weights, self.factors)


@torch.no_grad()
def prepare_layout(model: nn.Module, examples: Tensor) -> None:
    """Lay out convolution weights channels-last, in which both oneDNN and cuDNN are fastest on small networks.

    A network that cannot be run on `examples` like this, as one that calls ``view`` on a feature map, stays as it was.
    """
    if any(isinstance(module, nn.Conv2d) for module in model.modules()):
        model.eval().to(memory_format=torch.channels_last)
        try:
            model(examples)
        except RuntimeError:
            model.to(memory_format=torch.contiguous_format)


@torch.inference_mode()
def evaluate(model: nn.Module, data: DataSet, split: Split) -> tuple[float, float]:
    """Mean cross-entropy and accuracy (in [0, 1]) of `model`, in eval mode, on `split` of `data`."""
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=split.targets.device)
    correct = torch.zeros((), dtype=torch.int64, device=split.targets.device)
    for inputs, targets in zip(*(t.split(EVALUATION_BATCH) for t in split), strict=True):
        logits = model(data.normalised(inputs))
        loss += F.cross_entropy(logits, targets, reduction="sum").double()
        correct += (logits.argmax(1) == targets).sum()
    return float(loss) / len(split.targets), int(correct) / len(split.targets)
