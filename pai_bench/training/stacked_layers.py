"""Layers of a stack of networks, as single operations on all of them.

Inside `torch.vmap` a layer sees one network, while its tensors hold those of the whole stack. `torch.vmap` has a rule
for most operations, but none for some, and a slow one for others: it copies gradients of linear layers, goes over the
input of a batch norm several times more than needed, and gives up a channels-last layout. So the layers here are
computed on the stacked tensors themselves: for a stack of K networks, images of shape (N, C, H, W) are one batch of
shape (N, K C, H, W), which is the layout in which convolutions with groups, batch norm and pooling treat every network
for itself.
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
    """Replaces, inside `torch.vmap`, the layers that this module knows."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        layer = LAYERS.get(func)
        # torch.compile cannot look into stacked tensors; a network may use transforms of its own
        if layer is None and not torch.compiler.is_compiling() and transform_depth() == 1:
            layer = FAST_LAYERS.get(func)
        found = NotImplemented if layer is None else layer(*args, **(kwargs or {}))
        return by_rule(func, args, kwargs or {}) if found is NotImplemented else found


def by_rule(func: Any, args: Any, kwargs: Any) -> Any:
    """What `torch.vmap` makes of a function, in the data type that autocast gives it on a processor without it.

    There, autocast knows convolutions, but not the operations that they come down to; and normalisation, which keeps
    the type of its input, comes down to operations that promote it.
    """
    if not torch.is_autocast_enabled("cpu"):
        return func(*args, **kwargs)
    if func in CONVOLUTIONS:
        args = [cast(arg) for arg in args]
        kwargs = {name: cast(arg) for name, arg in kwargs.items()}
    found = func(*args, **kwargs)
    if func in NORMALISATIONS:
        found = found.to((args[0] if args else kwargs["input"]).dtype)
    return found


def cast(argument: Any) -> Any:
    """A tensor on a processor as autocast casts it; anything else as it is."""
    if isinstance(argument, Tensor) and argument.is_floating_point() and argument.device.type == "cpu":
        return argument.to(torch.get_autocast_dtype("cpu"))
    return argument


class Stack:
    """The stack of networks that a tensor is of."""

    def __init__(self, tensor: Tensor) -> None:
        self.level = batched_level(tensor)
        self.size = batched_values(tensor).shape[batched_dim(tensor)]

    def stacked(self, tensor: Tensor, dim: int) -> Tensor:
        """The tensors of all networks as one, with the networks at `dim`; one that all share is expanded."""
        if is_stacked(tensor):
            return batched_values(tensor).movedim(batched_dim(tensor), dim)
        return tensor.unsqueeze(dim).expand(*tensor.shape[:dim], self.size, *tensor.shape[dim:])

    def flat(self, tensor: Tensor | None, dim: int) -> Tensor | None:
        """The same with the networks inside the tensor's own dimension `dim`, which becomes as many times longer."""
        return None if tensor is None else self.stacked(tensor, dim).flatten(dim, dim + 1)

    def seen(self, stacked: Tensor, dim: int) -> Tensor:
        """A tensor with the networks at `dim`, as each of them sees it."""
        return add_batch_dim(stacked, dim, self.level)

    def unflat(self, tensor: Tensor, dim: int) -> Tensor:
        """What `flat` made, as every network sees it."""
        return self.seen(tensor.unflatten(dim, (self.size, -1)), dim)


def is_stacked(tensor: Tensor | None) -> bool:
    """Whether there is one such tensor for each network."""
    return tensor is not None and is_batched(tensor)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """``F.linear`` as (W x^T)^T + b, whose gradient of W has the layout of W."""
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
    """A convolution in which every network is a group, or as many as its own convolution has."""
    if not is_stacked(weight) or input.dim() != weight.dim():
        return NotImplemented
    stack = Stack(weight)
    with without_innermost_transform():
        if is_stacked(input) or groups > 1:
            x, groups = stack.flat(input, 1), groups * stack.size
        else:  # images that all networks share meet all their kernels at once
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
    """``F.batch_norm``: statistics are of single channels, so those of several networks do not mix."""
    shared = any(tensor is not None and not is_stacked(tensor) for tensor in (running_mean, running_var))
    if not is_stacked(input) or input.dim() < 2 or shared:  # what moves has to be there for each network
        return NotImplemented
    stack = Stack(input)
    with without_innermost_transform():
        own = (stack.flat(tensor, 0) for tensor in (running_mean, running_var, weight, bias))
        y = F.batch_norm(stack.flat(input, 1), *own, training, momentum, eps)  # type: ignore[call-arg, arg-type]
    return stack.unflat(y, 1)


def pooling(function: Callable[..., Any], input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """A pooling of images, which treats every channel for itself."""
    if not is_stacked(input) or input.dim() < 3 or kwargs.get("return_indices"):
        return NotImplemented
    stack = Stack(input)
    with without_innermost_transform():
        y = function(stack.flat(input, 1), *args, **kwargs)
    return stack.unflat(y, 1)


def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None, *args: Any, **kwargs: Any) -> Any:
    """``F.embedding``; `torch.vmap` loses the place of a padding token in all networks but the first."""
    if padding_idx is None:
        return NotImplemented
    found = F.embedding(input, weight, None, *args, **kwargs)
    is_padding = (input == padding_idx % weight.shape[0]).unsqueeze(-1)
    return torch.where(is_padding, found.detach(), found)


def recurrent(name: str, *args: Any, **kwargs: Any) -> Any:
    """A recurrent layer as the simpler operations that it is made of, since `torch.vmap` knows only those."""
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
"""Layers that `torch.vmap` cannot do, or does wrongly."""

FAST_LAYERS: Mapping[Any, Callable[..., Any]] = {
    F.linear: linear,
    F.batch_norm: batch_norm,
    **{function: functools.partial(convolution, function) for function in (F.conv1d, F.conv2d, F.conv3d)},
    **{function: functools.partial(pooling, function) for function in POOLING},
}
"""Layers that it does more slowly than they can be done; each gives `NotImplemented` where it does not apply."""
