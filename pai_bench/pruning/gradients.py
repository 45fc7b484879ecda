"""Gradients of the loss with respect to the (masked) weights, as criteria need them.

The loss L is the mean cross-entropy of the network's logits over the batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pai_bench.errors import UserError
from pai_bench.pruning.criterion import Batch, prunable_parameters


def loss(model: nn.Module, batch: Batch, *, temperature: float = 1.0) -> Tensor:
    """L, the mean cross-entropy over `batch` of the logits divided by `temperature`."""
    try:
        logits = model(batch.inputs)
    except RuntimeError as error:
        shape = tuple(batch.inputs.shape)
        raise UserError(f"the batch, inputs of shape {shape}, does not fit the model: {error}") from error
    classes, highest = logits.shape[-1], int(batch.targets.max())
    if int(batch.targets.min()) < 0 or highest >= classes:
        raise UserError(f"targets must lie in 0..{classes - 1}, the model's classes, but reach {highest}")
    return F.cross_entropy(logits / temperature, batch.targets)


def loss_and_gradients(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """L, and ``g = dL/dw`` of every prunable weight at every position, removed ones included."""
    parameters = prunable_parameters(model)
    value = loss(model, batch)
    found = torch.autograd.grad(value, list(parameters.values()), materialize_grads=True)
    return value.detach(), dict(zip(parameters, found, strict=True))


def gradients(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """``g = dL/dw`` of every prunable weight at every position, removed ones included."""
    return loss_and_gradients(model, batch)[1]


def hessian_gradient_product(model: nn.Module, batch: Batch, *, temperature: float = 1.0) -> dict[str, Tensor]:
    """``H g`` of every prunable weight, with g and the Hessian H of the loss at `temperature`.

    ``H g`` is the gradient of ``g . stop_gradient(g)``, so one graph serves both derivatives.
    """
    parameters = prunable_parameters(model)
    targets = list(parameters.values())
    with twice_differentiable(model):
        value = loss(model, batch, temperature=temperature)
    first = torch.autograd.grad(value, targets, create_graph=True, materialize_grads=True)
    inner = torch.stack([(g * g.detach()).sum() for g in first]).sum()
    return dict(zip(parameters, torch.autograd.grad(inner, targets, materialize_grads=True), strict=True))


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Keep a forward pass to kernels that have second derivatives: not cuDNN's recurrent ones, no fused attention."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    cudnn = torch.backends.cudnn.enabled and not recurrent
    with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=cudnn):
        yield
