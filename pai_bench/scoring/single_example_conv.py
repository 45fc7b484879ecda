"""Convolutions of a single example, in which reading the weights is most of the work."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from pai_bench.scoring.double_backward import in_transform

MAX_POSITIONS = 64
"""Positions of the output up to which the weights are the only large factor."""


def convolve_single_example(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """``F.conv2d``, faster for one example in float64 on a processor, with at most `MAX_POSITIONS` of the output.

    Shapes and arguments are those of ``F.conv2d``. There, each of the three products of a convolution and its gradients
    has the large matrix on the right. In all other cases ``F.conv2d`` itself.
    """
    fits = input.dim() == weight.dim() == 4 and len(input) == 1 and groups == 1 and not isinstance(padding, str)
    if fits and input.dtype == weight.dtype == torch.float64 and input.device.type == "cpu":
        pairs = [tuple(v) * 2 if len(v) == 1 else tuple(v) for v in map(_several, (stride, padding, dilation))]
        height, width = (
            (size + 2 * p - d * (kernel - 1) - 1) // s + 1
            for size, kernel, s, p, d in zip(input.shape[2:], weight.shape[2:], *pairs, strict=True)
        )
        small = min(height, width) > 0 and height * width <= MAX_POSITIONS
        if small and input.shape[1] == weight.shape[1] and not in_transform():
            output: Tensor = _Convolution.apply(input, weight, (height, width), *pairs)
            return output if bias is None else output + bias.view(1, -1, 1, 1)
    return F.conv2d(input, weight, bias, stride, padding, dilation, groups)


def _several(value: Any) -> Any:
    return value if isinstance(value, (tuple, list)) else (value,)


class _Convolution(Function):
    """y = W c, with the columns c of the input: the values that each position of the output depends on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, size: Any, stride: Any, padding: Any, dilation: Any) -> Tensor:
        ctx.unfolding = {"stride": stride, "padding": padding, "dilation": dilation}
        columns = F.unfold(x, w.shape[2:], **ctx.unfolding)[0]
        ctx.save_for_backward(columns, w)
        ctx.shape = x.shape[2:]
        return (columns.T @ w.flatten(1).T).T.reshape(1, len(w), *size)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        columns, w = ctx.saved_tensors
        g = gradients[0].reshape(len(w), -1)
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = F.fold((g.T @ w.flatten(1)).T[None], ctx.shape, w.shape[2:], **ctx.unfolding)
        if ctx.needs_input_grad[1]:
            dw = (g @ columns.T).view_as(w)
        return dx, dw, None, None, None, None
