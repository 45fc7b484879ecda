"""Another draw of a network's initialisation."""

from collections.abc import Callable

from torch import nn

from pai_bench.networks.private_copy import copied
from pai_bench.support.errors import UserError
from pai_bench.support.identity import stream
from pai_bench.support.initialise import initialise
from pai_bench.support.randomness import random_state
from pai_bench.support.torch_internals import reset_method

Draw = Callable[[int], nn.Module]
"""A function of a seed that returns the same network with other initial weights."""


def redrawn(model: nn.Module, seed: int, draw: Draw | None = None) -> nn.Module:
    """A copy of `model` with another draw of its initial weights: by `draw`, or by the methods of its layers."""
    if draw is None:
        return redraw_(copied(model), seed)
    first = next(model.parameters())
    with random_state(stream(seed, "redraw")):  # `draw` may seed torch
        other = draw(seed).to(first.device, first.dtype)
    shapes = [{name: parameter.shape for name, parameter in m.named_parameters()} for m in (model, other)]
    if shapes[0] != shapes[1]:
        raise UserError(f"draw gives a {type(other).__name__} with other parameters than {type(model).__name__}")
    return other


def initialised_by(model: nn.Module, seed: int, initializer: str) -> nn.Module:
    """A copy of `model` with initial weights drawn by the named initializer, the same on every device."""
    device = next(model.parameters()).device
    with random_state(stream(seed, "redraw")):
        return initialise(copied(model).cpu(), initializer).to(device)


def redraw_(model: nn.Module, seed: int) -> nn.Module:
    """Draw the weights of `model` again, in place, and return it.

    Each module draws its own by ``reset_parameters``, which PyTorch's layers have; modules inside another one come
    first. The draw depends on `seed` alone, and differs from that of ``torch.manual_seed(seed)``. Raises `UserError`
    for a module with parameters but without that method.
    """
    with random_state(stream(seed, "redraw")):
        for name, module in reversed(list(model.named_modules())):
            reset = reset_method(module)
            if reset is not None:
                reset()
            elif any(True for _ in module.parameters(recurse=False)):
                where = f"{name!r}, a {type(module).__name__}" if name else type(module).__name__
                raise UserError(f"{where}, has parameters but no method reset_parameters: give draw=, see `prune`")
    return model
