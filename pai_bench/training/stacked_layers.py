"""Layers of a stack of networks, each as one operation on all of them.

Inside `torch.vmap` a layer is called for one network, while its tensors are those of the whole stack. `torch.vmap` has
rules for most operations, but none for some, and slow ones for others: it copies gradients of linear layers, reads the
input of a batch norm several times more than needed, and loses a channels-last layout. The layers here work on the
stacked tensors: for K networks, images of shape (N, C, H, W) become one batch of shape (N, K C, H, W), a layout in
which grouped convolutions, batch norm and pooling treat each network separately.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pai_bench.support.torch_internals import (
    add_batch_dim,
    batched_dim,
    batched_level,
    batched_values,
    decomposed,
    is_batched,
    transform_depth,
    without_innermost_transform,
)


class StackedLayers(TorchFunctionMode):
    """Replaces, inside `torch.vmap`, the layers of `LAYERS` and `FAST_LAYERS`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        layer = LAYERS.get(func)
        # torch.compile does not support stacked tensors; a network may use its own transforms
        if layer is None and not torch.compiler.is_compiling() and transform_depth() == 1:
            layer = FAST_LAYERS.get(func)
        output = NotImplemented if layer is None else layer(*args, **(kwargs or {}))
        return by_rule(func, args, kwargs or {}) if output is NotImplemented else output


def by_rule(func: Any, args: Any, kwargs: Any) -> Any:
    """The result by the rule of `torch.vmap`, in the data type that autocast on a processor gives without vmap.

    There, autocast has no rule for the operations into which vmap decomposes convolutions; and normalisation, which
    keeps the type of its input, is decomposed into operations that promote it.
    """
    if not torch.is_autocast_enabled("cpu"):
        return func(*args, **kwargs)
    if func in CONVOLUTIONS:
        args = [cast(arg) for arg in args]
        kwargs = {name: cast(arg) for name, arg in kwargs.items()}
    output = func(*args, **kwargs)
    if func in NORMALISATIONS:
        output = output.to((args[0] if args else kwargs["input"]).dtype)
    return output


def cast(argument: Any) -> Any:
    """A tensor on a processor in the type of autocast; anything else unchanged."""
    if isinstance(argument, Tensor) and argument.is_floating_point() and argument.device.type == "cpu":
        return argument.to(torch.get_autocast_dtype("cpu"))
    return argument


class Stack:
    """The stack of networks that a tensor belongs to."""

    def __init__(self, tensor: Tensor) -> None:
        self.level = batched_level(tensor)
        self.size = batched_values(tensor).shape[batched_dim(tensor)]

    def stacked(self, tensor: Tensor, dim: int) -> Tensor:
        """The tensors of all networks as one, with the networks at `dim`; a shared tensor is expanded."""
        if is_stacked(tensor):
            return batched_values(tensor).movedim(batched_dim(tensor), dim)
        return tensor.unsqueeze(dim).expand(*tensor.shape[:dim], self.size, *tensor.shape[dim:])

    def flat(self, tensor: Tensor | None, dim: int) -> Tensor | None:
        """`stacked`, with the networks merged into the tensor's own dimension `dim`."""
        return None if tensor is None else self.stacked(tensor, dim).flatten(dim, dim + 1)

    def seen(self, stacked: Tensor, dim: int) -> Tensor:
        """A tensor with the networks at `dim`, as a batched tensor of `torch.vmap`."""
        return add_batch_dim(stacked, dim, self.level)

    def unflat(self, tensor: Tensor, dim: int) -> Tensor:
        """The inverse of `flat`, as a batched tensor of `torch.vmap`."""
        return self.seen(tensor.unflatten(dim, (self.size, -1)), dim)


def is_stacked(tensor: Tensor | None) -> bool:
    """Whether there is one such tensor for each network."""
    return tensor is not None and is_batched(tensor)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """``F.linear`` as (W x^T)^T + b, so that the gradient of W has the layout of W."""
    if not is_stacked(weight) or input.dim() < 2 or weight.dim() != 2 or (bias is not None and bias.dim() != 1):
        return NotImplemented
    stack, shape = Stack(weight), input.shape[:-1]
    with without_innermost_transform():
        x, w = stack.stacked(input, 0).flatten(1, -2), stack.stacked(weight, 0)
        if bias is None:
            y = torch.bmm(w, x.transpose(1, 2))
        else:
            y = torch.baddbmm(stack.stacked(bias, 0).unsqueeze(2), w, x.transpose(1, 2))
        y = y.transpose(1, 2).unflatten(1, shape)
    return stack.seen(y, 0)


def convolution(
    function: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """A convolution in which each network has its own groups."""
    if not is_stacked(weight) or input.dim() != weight.dim():
        return NotImplemented
    stack = Stack(weight)
    with without_innermost_transform():
        if is_stacked(input) or groups > 1:
            x, groups = stack.flat(input, 1), groups * stack.size
        else:  # shared images are convolved with the kernels of all networks at once
            x = input
        y = function(x, stack.flat(weight, 0), stack.flat(bias, 0), stride, padding, dilation, groups)
    return stack.unflat(y, 1)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """``F.batch_norm``, whose statistics are per channel, so that those of networks do not mix."""
    shared = any(tensor is not None and not is_stacked(tensor) for tensor in (running_mean, running_var))
    if not is_stacked(input) or input.dim() < 2 or shared:  # each network needs its own running statistics
        return NotImplemented
    stack = Stack(input)
    with without_innermost_transform():
        own = (stack.flat(tensor, 0) for tensor in (running_mean, running_var, weight, bias))
        y = F.batch_norm(stack.flat(input, 1), *own, training, momentum, eps)  # type: ignore[call-arg, arg-type]
    return stack.unflat(y, 1)


def pooling(function: Callable[..., Any], input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """A pooling of images, which treats each channel separately."""
    if not is_stacked(input) or input.dim() < 3 or kwargs.get("return_indices"):
        return NotImplemented
    stack = Stack(input)
    with without_innermost_transform():
        y = function(stack.flat(input, 1), *args, **kwargs)
    return stack.unflat(y, 1)


def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None, *args: Any, **kwargs: Any) -> Any:
    """``F.embedding``; `torch.vmap` loses the index of the padding token in all networks but the first."""
    if padding_idx is None:
        return NotImplemented
    rows = F.embedding(input, weight, None, *args, **kwargs)
    is_padding = (input == padding_idx % weight.shape[0]).unsqueeze(-1)
    return torch.where(is_padding, rows.detach(), rows)


def recurrent(name: str, *args: Any, **kwargs: Any) -> Any:
    """A recurrent layer decomposed into operations for which `torch.vmap` has rules."""
    return decomposed(getattr(torch.ops.aten, name).input, *args, **kwargs)


POOLING = (
    *(F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
    *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_max_pool1d, F.adaptive_max_pool2d),
)

CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)

NORMALISATIONS = (F.layer_norm, F.group_norm)

LAYERS: Mapping[Any, Callable[..., Any]] = {
    F.embedding: embedding,
    **{getattr(torch, name): functools.partial(recurrent, name) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
}
"""Layers for which `torch.vmap` has no rule, or a wrong one."""

FAST_LAYERS: Mapping[Any, Callable[..., Any]] = {
    F.linear: linear,
    F.batch_norm: batch_norm,
    **{function: functools.partial(convolution, function) for function in (F.conv1d, F.conv2d, F.conv3d)},
    **{function: functools.partial(pooling, function) for function in POOLING},
}
"""Layers for which its rule is slow. Each returns `NotImplemented` where it does not apply."""
