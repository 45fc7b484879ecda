"""Functions with a fast double backward, in place of those of torch that have none or a slow one."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pai_bench.support.errors import UserError
from pai_bench.support.torch_internals import innermost_transform


class TwiceDifferentiable(TorchFunctionMode):
    """Replaces, inside its block, functions that have no second derivative or a slow one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.hardsigmoid:
            return F.relu6(args[0] + 3) / 6
        if in_transform():  # torch.func wants rules that the functions below do not have
            return func(*args, **(kwargs or {}))
        if func is F.batch_norm:
            return batch_norm(*args, **(kwargs or {}))
        if func in CONVOLUTIONS:
            return convolution(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def in_transform() -> bool:
    """Whether a transform of torch.func, such as ``vmap`` or ``grad``, is running."""
    return innermost_transform() is not None


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``F.batch_norm``; with batch statistics and constant weight and bias, by the formulas of `_BatchNorm`.

    Then the running statistics are not updated.
    """
    constant = not any(tensor is not None and tensor.requires_grad for tensor in (weight, bias))
    if not training or not constant or input.numel() == input.shape[1]:  # torch raises its own error for a single value
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    output: Tensor = _BatchNorm.apply(input, weight, bias, eps)
    return output


class _BatchNorm(Function):
    """y = (x - mean) r weight + bias, with r = 1 / sqrt(variance + eps), both over all dimensions but the channels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        y, mean, r = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, r)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight, mean, r = ctx.saved_tensors
        return _BatchNormBackward.apply(gradients[0], x, weight, mean, r, ctx.eps), None, None, None


class _BatchNormBackward(Function):
    """dx = weight r (g - m1 - u m2), with u = (x - mean) r, m1 the mean of g and m2 that of g u.

    For a gradient G of its result, with m3 the mean of G, m4 that of G u and A that of G g:

    * with respect to g, the same function of G: weight r (G - m3 - u m4);
    * with respect to x: -weight r^2 (u (A - m1 m3 - 3 m2 m4) + m4 (g - m1) + m2 (G - m3)).
    """

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, r: Tensor, eps: float) -> Tensor:
        dx, m2, m1 = _backward(g, x, weight, mean, r, eps)
        ctx.save_for_backward(g, x, weight, mean, r, m1, m2)
        ctx.eps = eps
        return dx

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        if torch.is_grad_enabled():  # below, the statistics are constants
            raise UserError("batch norm in train mode is differentiated a third time; use bn=eval")
        g, x, weight, mean, r, m1, m2 = ctx.saved_tensors
        big = gradients[0]
        to_g, m4, m3 = _backward(big, x, weight, mean, r, ctx.eps)
        a = _mean(big * g)
        scale = -r * r if weight is None else -r * r * weight
        # one affine combination of x, g and G for each channel
        along_x = scale * r * (a - m1 * m3 - 3 * m2 * m4)
        shift = -(along_x * mean) - scale * (m4 * m1 + m2 * m3)
        shape = (1, -1, *(1,) * (x.dim() - 2))
        to_x = torch.addcmul(shift.view(shape), x, along_x.view(shape))
        to_x.addcmul_(g, (scale * m4).view(shape)).addcmul_(big, (scale * m2).view(shape))
        return to_g, to_x, None, None, None, None


def _backward(
    g: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, r: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient with respect to x, and by channel the means of g u and of g."""
    # torch returns the sums only with a weight
    factor = torch.ones_like(mean) if weight is None else weight
    dx, along, total = torch.ops.aten.native_batch_norm_backward(
        g.contiguous(), x, factor, None, None, mean, r, True, eps, [True, True, True]
    )
    count = x.numel() // x.shape[1]
    return dx, along / count, total / count


def _mean(x: Tensor) -> Tensor:
    return x.mean([i for i in range(x.dim()) if i != 1])


CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)


def convolution(
    function: Any,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """One of ``F.conv1d``, ``F.conv2d``, ``F.conv3d``, with a double backward that uses the kernels of the backward."""
    if input.dim() != weight.dim() or not input.numel() or isinstance(padding, str):
        output: Tensor = function(input, weight, bias, stride, padding, dilation, groups)
        return output
    spatial = weight.dim() - 2
    sizes = [list(v) if isinstance(v, (tuple, list)) else [v] for v in (stride, padding, dilation)]
    sizes = [size * spatial if len(size) == 1 else size for size in sizes]
    output = _Convolution.apply(input, weight, sizes, groups)
    return output if bias is None else output + bias.view(1, -1, *(1,) * spatial)


def _options(sizes: list[list[int]], groups: int) -> tuple[Any, ...]:
    """Stride, padding, dilation, transposed, output padding and groups: the arguments of ``torch.convolution``."""
    return *sizes, False, [0] * len(sizes[0]), groups


class _Convolution(Function):
    """y = x * w."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, sizes: list[list[int]], groups: int) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.options = sizes, groups
        y: Tensor = torch.convolution(x, w, None, *_options(sizes, groups))
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        needed = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        return *_ConvolutionBackward.apply(gradients[0], *ctx.saved_tensors, *ctx.options, needed), None, None


class _ConvolutionBackward(Function):
    """The gradients dx and dw of a convolution, for a gradient g of its result.

    For gradients X of dx and W of dw, all of it is linear in each of g, x and w:

    * with respect to g: x * W + X * w;
    * with respect to x: dx, with W in place of w;
    * with respect to w: dw, with X in place of x.
    """

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, w: Tensor, sizes: list[list[int]], groups: int, needed: tuple[bool, bool]
    ) -> Any:
        ctx.save_for_backward(g, x, w)
        ctx.options = _options(sizes, groups)
        ctx.set_materialize_grads(False)
        dx, dw, _ = torch.ops.aten.convolution_backward(g, x, w, None, *ctx.options, [*needed, False])
        return dx, dw

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        g, x, w = ctx.saved_tensors
        big_x, big_w = gradients
        to_g = to_x = to_w = None
        if big_w is not None:
            to_g = torch.convolution(x, big_w, None, *ctx.options)
            if ctx.needs_input_grad[1]:
                to_x = torch.ops.aten.convolution_backward(g, x, big_w, None, *ctx.options, [True, False, False])[0]
        if big_x is not None:
            from_x = torch.convolution(big_x, w, None, *ctx.options)
            to_g = from_x if to_g is None else to_g.add_(from_x)
            if ctx.needs_input_grad[2]:
                to_w = torch.ops.aten.convolution_backward(g, big_x, w, None, *ctx.options, [False, True, False])[1]
        return to_g, to_x, to_w, None, None, None
