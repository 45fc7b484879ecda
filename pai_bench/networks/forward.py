"""A forward pass whose errors name the layer that the inputs do not fit, and one without activation checkpointing."""

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from pai_bench.support.errors import UserError
from pai_bench.support.torch_internals import class_name

RECOMPUTATION = "the network computes activations again (torch.utils.checkpoint)"


def forward(model: nn.Module, inputs: Tensor) -> Any:
    """The output of `model` for `inputs`, of whatever type the network returns.

    Raises `UserError` if the inputs do not fit, which names their shape and the layer.
    """
    try:
        return model(inputs)
    except (torch.OutOfMemoryError, UserError):
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        shape = f"{tuple(inputs.shape)}, {inputs.dtype} on {inputs.device}"
        where = failing_layer(model, inputs)
        if RECOMPUTATION in str(error):
            raise RecomputationError(f"{RECOMPUTATION}, in {where}: switch that off while scoring") from error
        raise UserError(f"the batch, inputs of shape {shape}, does not fit the model in {where}: {error}") from error


class RecomputationError(UserError):
    """Raised for a network that computes activations again during backpropagation."""


@contextmanager
def no_recomputation() -> Iterator[None]:
    """A block in which activation checkpointing raises `RecomputationError`.

    What is computed again during backpropagation would be computed without the function modes of the block.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(torch.autograd.graph.disable_saved_tensors_hooks(RECOMPUTATION))
        except RuntimeError as error:  # the caller's own hooks are active, such as those of save_on_cpu
            raise RecomputationError(f"{RECOMPUTATION}, or saves them elsewhere: score outside of that") from error
        yield


def _enter(entered: list[str], label: str, _module: nn.Module, _inputs: Any) -> None:
    entered.append(label)


def _leave(entered: list[str], _module: nn.Module, _inputs: Any, _output: Any) -> None:
    entered.pop()


@torch.no_grad()
def failing_layer(model: nn.Module, inputs: Tensor) -> str:
    """The innermost module that a forward pass enters and does not leave."""
    entered: list[str] = []
    handles = []
    for name, module in model.named_modules():
        label = f"{name or 'its own forward'!r}, a {type(module).__name__},"
        handles.append(module.register_forward_pre_hook(functools.partial(_enter, entered, label)))
        handles.append(module.register_forward_hook(functools.partial(_leave, entered)))
    with suppress(Exception):
        model(inputs)
    for handle in handles:
        handle.remove()
    return entered[-1] if entered else class_name(model)
