"""Wrappers around a network or its parts: torch.compile, data parallelism, activation checkpoints."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.checkpoint
from torch import nn

from pai_bench.support.errors import UserError
from pai_bench.support.torch_internals import compiled_from, compiler_in_use

PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)

REENTRANT = torch.utils.checkpoint.CheckpointFunction


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside ``torch.compile`` and (Distributed)DataParallel, or `model` itself.

    Raises `UserError` for what is not a network, and for weights in a part compiled by ``torch.jit``, whose layers
    cannot be recognised.
    """
    model = innermost(model)
    refuse_scripted(model, with_weights=True)
    return model


def innermost(model: nn.Module) -> nn.Module:
    """`unwrapped` without `refuse_scripted`, for callers that check the parts of the network later."""
    if not isinstance(model, nn.Module):
        name = repr(model) if isinstance(model, str) else getattr(model, "__name__", type(model).__name__)
        cure = "; pai_bench.create_model builds one by name" if isinstance(model, str) else ""
        cure = f"; give the network that {name} builds" if callable(model) else cure
        raise UserError(f"a model is an nn.Module, not {name}{cure}")
    while isinstance(inner := inside(model), nn.Module):
        model = inner
    return model


def refuse_scripted(model: nn.Module, *, with_weights: bool = False) -> None:
    """Raise for a network with a part compiled by ``torch.jit``; `with_weights`, only if there are weights in it."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) and not (
            with_weights and next(module.parameters(), None) is None
        ):
            part = f"{name!r}" if name else "the model"
            raise UserError(
                f"{part} is compiled by torch.jit, which hides what it does: give what it was compiled from"
            )


def inside(model: nn.Module) -> Any:
    """The module inside the outermost wrapper of `model`; None without a wrapper."""
    return model.module if isinstance(model, PARALLEL) else compiled_from(model)


class NonReentrantCheckpoint:
    """Replaces PyTorch's reentrant checkpoints by non-reentrant ones, which support all gradients."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *inputs: Any) -> Any:
        return torch.utils.checkpoint.checkpoint(
            function, *inputs, use_reentrant=False, preserve_rng_state=preserve_rng_state
        )


@contextmanager
def without_compilation() -> Iterator[None]:
    """A block in which compiled parts run uncompiled, and reentrant checkpoints as non-reentrant ones.

    Compiled code has no second derivative. A reentrant checkpoint has no gradient with respect to given weights, and in
    the first layer of a network none at all.
    """
    torch.utils.checkpoint.CheckpointFunction = NonReentrantCheckpoint  # type: ignore[assignment, misc]
    try:
        if compiler_in_use():  # or else setting its stance would import it
            with torch.compiler.set_stance("force_eager"):
                yield
        else:
            yield
    finally:
        torch.utils.checkpoint.CheckpointFunction = REENTRANT  # type: ignore[misc]
