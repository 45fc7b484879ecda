"""Replacements for torch's functions have the same values and derivatives, first and second."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pai_bench.scoring.double_backward import TwiceDifferentiable, batch_norm

SHAPES = [(7, 3), (4, 3, 5), (4, 3, 2, 5), (2, 3, 2, 2, 2)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm(shape: tuple[int, ...], affine: bool) -> None:
    """Against torch's own double backward."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    weight, bias = (torch.rand(3, generator=generator, dtype=torch.float64) + 0.5 for _ in range(2))
    given = (weight, bias) if affine else (None, None)
    found: list[list[Tensor]] = []
    functions: list[Callable[..., Any]] = [F.batch_norm, batch_norm]
    for function in functions:
        inputs = x.clone().requires_grad_()
        y = function(inputs, None, None, *given, True)
        (first,) = torch.autograd.grad((y * y.sin()).sum(), inputs, create_graph=True)
        (second,) = torch.autograd.grad((first * first.detach().cos()).sum(), inputs)
        found.append([y, first, second])
    for ours, theirs in zip(found[1], found[0], strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11)


def test_batch_norm_by_finite_differences() -> None:
    x = torch.randn(5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.tensor([0.7, -1.3], dtype=torch.float64)

    def function(x: Tensor) -> Tensor:
        return batch_norm(x, None, None, weight, None, True)

    assert torch.autograd.gradcheck(function, (x,))
    assert torch.autograd.gradgradcheck(function, (x,))


CONVOLUTIONS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "1d": (nn.Conv1d(2, 3, 3), (2, 2, 7)),
    "2d, strided": (nn.Conv2d(2, 4, (3, 2), stride=2, padding=(1, 0)), (2, 2, 6, 5)),
    "2d, dilated and grouped": (nn.Conv2d(4, 4, 3, dilation=2, groups=2, bias=False), (2, 4, 7, 6)),
    "depthwise": (nn.Conv2d(3, 3, 3, padding=1, groups=3), (2, 3, 4, 4)),
    "padded to the same size": (nn.Conv2d(2, 2, 3, padding="same"), (2, 2, 4, 4)),
    "circular": (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), (2, 2, 4, 4)),
    "3d": (nn.Conv3d(1, 2, 2), (1, 1, 3, 3, 3)),
    "one example without a batch": (nn.Conv2d(2, 3, 3), (2, 5, 5)),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("constant_input", [False, True])
def test_convolutions(kind: str, constant_input: bool) -> None:
    """Value, gradients, and Hessian products with respect to input, weight and bias, against torch's own."""
    layer, shape = CONVOLUTIONS[kind]
    layer = layer.double()
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found: list[list[Tensor]] = []
    for mode in (nullcontext(), TwiceDifferentiable()):
        inputs = x.clone().requires_grad_(not constant_input)
        with mode:
            y = layer(inputs)
        of = [*([] if constant_input else [inputs]), *layer.parameters()]
        first = torch.autograd.grad((y * y.sin()).sum(), of, create_graph=True)
        second = torch.autograd.grad(torch.stack([(f * f.detach().cos()).sum() for f in first]).sum(), of)
        found.append([y, *first, *second])
    for ours, theirs in zip(found[1], found[0], strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11)


def test_a_convolution_whose_input_gradient_alone_is_used() -> None:
    """Nothing flows back from the weight's gradient then."""
    layer = nn.Conv2d(2, 3, 3).double()
    found = []
    for mode in (nullcontext(), TwiceDifferentiable()):
        x = torch.ones(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
        with mode:
            y = layer(x)
        (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.pow(2).sum(), [x, layer.weight]))
    for ours, theirs in zip(found[1], found[0], strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9)


def test_a_weight_that_is_scored_itself_is_left_to_torch() -> None:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double()
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(
        batch_norm(x, None, None, weight, None, True).pow(3).sum(), weight, create_graph=True
    )
    (second,) = torch.autograd.grad(first.sum(), weight)
    assert second.abs().sum() > 0


def test_hardsigmoid() -> None:
    x = torch.linspace(-5, 5, 31, dtype=torch.float64)
    with TwiceDifferentiable():
        assert torch.allclose(nn.Hardsigmoid()(x), torch.clamp(x / 6 + 0.5, 0, 1))


def test_one_value_per_channel_is_refused_as_torch_does() -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        batch_norm(torch.ones(1, 3), None, None, None, None, True)


def test_defaults_are_those_of_torch() -> None:
    x, weight = torch.randn(4, 3, 5, 5).double(), torch.ones(3).double().requires_grad_()
    options: list[dict[str, Any]] = [{}, {"training": True}]
    functions: list[Callable[..., Any]] = [F.batch_norm, batch_norm]
    for training in options:
        found = []
        for function in functions:
            mean, variance = torch.zeros(3).double(), torch.ones(3).double()
            found.append([function(x, mean, variance, weight, **training), mean, variance])
        for ours, theirs in zip(found[1], found[0], strict=True):
            assert torch.equal(ours, theirs)
    kernel = torch.randn(2, 3, 3, 3).double()
    with TwiceDifferentiable():
        ours = F.conv2d(x, kernel)
    torch.testing.assert_close(ours, F.conv2d(x, kernel))


def test_which_functions_are_replaced() -> None:
    """Others are torch's own; those would give the same, but slowly."""
    x = torch.randn(4, 3, 5, 5, requires_grad=True)
    kernel, scale = torch.randn(2, 3, 3, 3), torch.ones(3)
    with TwiceDifferentiable():
        replaced = [
            F.conv2d(x, kernel),
            F.batch_norm(x, None, None, scale, training=True),
            F.batch_norm(x, None, None, training=True),
        ]
        own = [
            F.conv2d(x, kernel, padding="same"),
            F.batch_norm(x, torch.zeros(3), torch.ones(3)),
            F.linear(x, x[0, 0]),
        ]
    names = [str(y.grad_fn and y.grad_fn.name()) for y in (*replaced, *own)]
    assert [name.startswith("_") for name in names] == [True] * 3 + [False] * 3
