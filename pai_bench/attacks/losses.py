"""What attacks make large: losses of logits, one number for each example."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from pai_bench.attacks.examples import Examples

Network = Callable[[Tensor], Tensor]
"""From inputs in [0, 1], (N, ...), to logits (N, classes), each example by itself."""

Loss = Callable[[Tensor, Examples], Tensor]
"""From logits (N, classes) and their examples to a number for each, (N,); it grows towards another class."""


def cross_entropy(logits: Tensor, examples: Examples) -> Tensor:
    """``log sum_j exp(z_j) - z_y``. Where logits are far apart, it and its gradient are 0 in float32."""
    return F.cross_entropy(logits, examples.labels, reduction="none")


def margin(logits: Tensor, examples: Examples) -> Tensor:
    """``max_(j != y) z_j - z_y``, which is positive where another class has the largest logit."""
    return without_label(logits, examples.labels).amax(1) - at(logits, examples.labels)


def towards_target(logits: Tensor, examples: Examples) -> Tensor:
    """``z_t - z_y``, t the target of an example."""
    assert examples.targets is not None
    return at(logits, examples.targets) - at(logits, examples.labels)


def at(logits: Tensor, classes: Tensor) -> Tensor:
    """The logit of a class of each example, (N,)."""
    return logits.gather(1, classes[:, None]).squeeze(1)


def without_label(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits with minus infinity in place of the label's."""
    return logits.scatter(1, labels[:, None], -torch.inf)


def predicted(logits: Tensor) -> Tensor:
    """The class that has the largest logit, (N,); -1, which is none, where a logit is not a number."""
    return torch.where(logits.isnan().any(1), -1, logits.argmax(1))


def is_fooled(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the label's logit is not the largest, (N,)."""
    return predicted(logits) != labels


def loss_gradients(network: Network, inputs: Tensor, examples: Examples, loss: Loss) -> tuple[Tensor, Tensor]:
    """The logits of `inputs`, and the gradient of each example's loss with respect to them."""
    inputs = inputs.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = network(inputs)
        if not logits.requires_grad:  # as of a network that rounds its inputs
            return logits, torch.zeros_like(inputs)
        (gradients,) = torch.autograd.grad(loss(logits, examples).sum(), inputs, allow_unused=True)
    return logits.detach(), torch.zeros_like(inputs) if gradients is None else gradients
