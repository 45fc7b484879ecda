"""The memory layout of the weights of convolutions."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def prepare_layout(models: Sequence[nn.Module], examples: Tensor, *, channels_last: bool = True) -> None:
    """Lay out the convolution weights of networks of one architecture channels-last, or contiguous.

    oneDNN and cuDNN are fastest with channels-last on small networks. Networks that cannot be run on `examples` in this
    layout, such as those that call ``view`` on a feature map, stay as they are. A copy is tried, since a network may
    change its buffers when it runs.
    """
    if not any(isinstance(module, nn.Conv2d) for module in models[0].modules()):
        return
    if channels_last:
        try:
            lay_out(copy.deepcopy(models[0]).eval())(examples)
        except Exception:  # a network may raise anything
            return
    for model in models:
        lay_out(model, torch.channels_last if channels_last else torch.contiguous_format)


def lay_out(model: nn.Module, memory_format: torch.memory_format = torch.channels_last) -> nn.Module:
    """Convert the weights of two-dimensional convolutions of `model` to `memory_format`, and return it."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=memory_format)
    return model


def channels_last_weights(model: nn.Module) -> list[str]:
    """Names of the weights of two-dimensional convolutions that are laid out channels-last."""
    weights = {id(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d)}
    return [
        name
        for name, weight in model.named_parameters()
        if id(weight) in weights and weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    ]


def stacked_channels_last(weight: Tensor) -> Tensor:
    """The stacked kernels of several two-dimensional convolutions, channels-last like those of a grouped one."""
    kernels = weight.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    return kernels.view(*weight.shape[:2], *kernels.shape[1:])
