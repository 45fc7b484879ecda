"""What may be around a network, or around parts of it, and what of it scoring can see through."""

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

    An error for what is no network, and for one with weights in a part that ``torch.jit`` has compiled, which hides
    what kind of layer they belong to.
    """
    model = innermost(model)
    refuse_scripted(model, with_weights=True)
    return model


def innermost(model: nn.Module) -> nn.Module:
    """`unwrapped` for those who look at the parts of the network later, at which `refuse_scripted` is due."""
    if not isinstance(model, nn.Module):
        given = repr(model) if isinstance(model, str) else getattr(model, "__name__", type(model).__name__)
        cure = "; pai_bench.create_model builds one by name" if isinstance(model, str) else ""
        cure = f"; give the network that {given} builds" if callable(model) else cure
        raise UserError(f"a model is an nn.Module, not {given}{cure}")
    while isinstance(inner := inside(model), nn.Module):
        model = inner
    return model


def refuse_scripted(model: nn.Module, *, with_weights: bool = False) -> None:
    """An error for a network with a part that ``torch.jit`` has compiled, or only for one that has weights there."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) and not (
            with_weights and next(module.parameters(), None) is None
        ):
            what = f"{name!r}" if name else "the model"
            raise UserError(
                f"{what} is compiled by torch.jit, which hides what it does: give what it was compiled from"
            )


def inside(model: nn.Module) -> Any:
    """What is inside the outermost wrapper of `model`; None without one."""
    return model.module if isinstance(model, PARALLEL) else compiled_from(model)


class Recomputed:
    """In place of the checkpoints that PyTorch calls reentrant: those that any gradient can be taken through."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *inputs: Any) -> Any:
        return torch.utils.checkpoint.checkpoint(
            function, *inputs, use_reentrant=False, preserve_rng_state=preserve_rng_state
        )


@contextmanager
def seen_through() -> Iterator[None]:
    """A block in which compiled parts run as they were written, and reentrant checkpoints as the other ones.

    Compiled code has no second derivative; a reentrant checkpoint has no gradient with respect to chosen weights, and
    at the first layer of a network none at all.
    """
    torch.utils.checkpoint.CheckpointFunction = Recomputed  # type: ignore[assignment, misc]
    try:
        if compiler_in_use():  # or else setting its stance would import it
            with torch.compiler.set_stance("force_eager"):
                yield
        else:
            yield
    finally:
        torch.utils.checkpoint.CheckpointFunction = REENTRANT  # type: ignore[misc]
