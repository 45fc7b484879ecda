"""Private copies of a network, which share its memory until somebody writes to it, and what shows a change of them."""

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pai_bench.networks.captured import is_holder, rebind
from pai_bench.networks.dropout import steady
from pai_bench.support.errors import UserError
from pai_bench.support.memory import is_recorded
from pai_bench.support.torch_internals import (
    COMPILED_CALL,
    REGISTRIES,
    BatchNormBase,
    is_lazy_clone,
    lazy_clone,
    module_hooks,
    own_tensors,
    version_counter,
)

BATCH_NORMS = (BatchNormBase,)


BatchNormMode = Literal["train", "eval"]
"""Which statistics batch norm uses: those of the batch, or the running ones."""

HALVES = (torch.float16, torch.bfloat16)


def shared(tensor: Tensor) -> Tensor:
    """A copy of `tensor` that shares its memory until one of the two is written to."""
    if is_recorded(tensor):
        return tensor.detach().clone()
    try:
        if tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
            return tensor.detach().clone()  # a view: the first write would copy all that lies around it
        return lazy_clone(tensor.detach())
    except RuntimeError:  # memory that torch has not allocated itself
        return tensor.detach().clone()


def still_shared(tensor: Tensor) -> bool:
    """Whether nobody has written to what `shared` gave."""
    return tensor.layout is torch.strided and is_lazy_clone(tensor)


def private_copy(
    model: nn.Module, names: list[str], bn: BatchNormMode, weights: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """A private copy of `model` for scoring, in which the parameters `names`, and no others, get gradients.

    It has these `weights` in place of the network's own.
    """
    for name in names:
        if model.get_parameter(name).is_meta:
            raise UserError(f"{name!r} is on the device meta and has no values: build the model on a real one")
    weights = weights or {}
    memo: dict[int, Any] = {}
    for name, parameter in model.named_parameters():
        if type(parameter) is nn.Parameter:
            memo[id(parameter)] = own = nn.Parameter(shared(weights.get(name, parameter)), requires_grad=False)
            vars(own).update(vars(parameter))
    twin = copied(model, memo)
    refuse_shared(model, twin)
    twin.requires_grad_(False)
    for name in names:
        twin.get_parameter(name).requires_grad_(True)
    for module in twin.modules():
        module.training = bn == "train" and isinstance(module, BATCH_NORMS)
    steady(twin)
    return twin


def copied(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A copy of a network, whose functions that hold parts of it hold those of the copy; `memo` as of ``deepcopy``."""
    memo = {} if memo is None else memo
    modules = list(model.modules())
    for module in modules:
        for value in left_behind(module):
            memo[id(value)] = value.detach().clone()
    try:
        if all(map(is_copied_as_usual, set(map(type, modules)))):
            holders = copy_parts(modules, memo)
        else:
            twin = memo[id(model)] = copy.deepcopy(model, memo)
            own = set(map(id, modules))  # some may give themselves (`refuse_shared`)
            holders = [module for module in twin.modules() if id(module) not in own]
    except Exception as error:  # whatever a module's own __deepcopy__ raises
        raise UserError(f"{type(model).__name__} cannot be copied for scoring: {error}") from error
    rebind(holders, memo)
    found: nn.Module = memo[id(model)]
    return found


def copy_parts(modules: list[nn.Module], memo: dict[int, Any]) -> list[nn.Module]:
    """Copy all modules of a network, without asking of each of the thirty things in one how to copy it.

    Returns the copies in which there may be functions.
    """
    for module in modules:  # all of them first, since modules may know of one another
        memo[id(module)] = type(module).__new__(type(module))
    holders = []
    for module in modules:
        state, holds = vars(memo[id(module)]), False
        for name, value in vars(module).items():
            if type(value) in SIMPLE:
                state[name] = value
            elif type(value) in (dict, OrderedDict) and not value:  # a dozen of them
                state[name] = type(value)()
            elif name in REGISTRIES:
                state[name] = type(value)((key, copy.deepcopy(part, memo)) for key, part in value.items())
            elif name != COMPILED_CALL:
                state[name] = copy.deepcopy(value, memo)
                holds = holds or is_holder(value)
        if holds:
            holders.append(memo[id(module)])
    return holders


def left_behind(module: nn.Module) -> Iterator[Tensor]:
    """What a forward pass has left in a module that only its graph can tell the value of, which nothing can copy."""
    for value in vars(module).values():
        kind = type(value)
        if kind in SIMPLE or (kind in CONTAINERS and not value):  # most of them
            continue
        for part in (value.values() if isinstance(value, dict) else value) if kind in CONTAINERS else (value,):
            if isinstance(part, Tensor) and part.grad_fn is not None:
                yield part


SIMPLE = frozenset([bool, int, float, str, type(None)])
CONTAINERS = frozenset([dict, OrderedDict, list, tuple])


def is_copied_as_usual(kind: type[nn.Module]) -> bool:
    """Whether modules of a class say nothing themselves of how they are copied."""
    ways = ("__reduce_ex__", "__reduce__", "__getstate__", "__setstate__", "__new__")
    own = {way for way in ways if getattr(kind, way) is not getattr(nn.Module, way)}
    if kind.__setstate__.__module__.startswith("torch.nn.modules") and not issubclass(kind, nn.RNNBase):
        own.discard("__setstate__")  # torch's own are for files of its early versions, but for this one
    return not own and not hasattr(kind, "__deepcopy__")


def parts(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """All modules, parameters and buffers by name, in one walk, where torch's own ways would take three."""
    for name, module in model.named_modules():
        yield name, module
        for tensors in own_tensors(module):
            for key, tensor in tensors.items():
                if tensor is not None:
                    yield f"{name}.{key}" if name else key, tensor


def refuse_shared(model: nn.Module, twin: nn.Module) -> None:
    """Refuse a copy that holds a part of `model` itself: what happens to the copy would happen to that."""
    own = {id(part) for _, part in parts(model)}
    for name, part in parts(twin):
        if id(part) in own:
            kind = type(part).__name__
            raise UserError(f"{name!r}, a {kind}, gives itself when it is copied; scoring needs a copy of its own")


def mode_and_hooks(module: nn.Module) -> tuple[Any, ...]:
    """What shows that a module was switched, or has other hooks: its mode, and the number of each kind."""
    return (module.training, *map(len, module_hooks(module)))


def fingerprints(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    """What shows that a parameter or module was changed, by name: versions, flags, and the number of hooks."""
    found: dict[str, tuple[Any, ...]] = {}
    for name, part in parts(model):
        if isinstance(part, nn.Module):
            found[name or type(model).__name__] = mode_and_hooks(part)
        elif isinstance(part, nn.Parameter):
            found[name] = (id(part), version_counter(part), part.requires_grad)
    return found


def wide(tensor: Tensor, kind: str | None) -> torch.dtype:
    """The type in which `tensor` is computed with: the `kind` asked for, or its own, if that is no half precision."""
    if not tensor.is_floating_point() or (kind is None and tensor.dtype not in HALVES):
        return tensor.dtype
    return torch.float64 if kind == "float64" else torch.float32


@torch.no_grad()
def widen(model: nn.Module, kind: str | None) -> bool:
    """Give the parameters and buffers of a private copy the types that it is scored in; whether any was another."""
    changed = False
    for _, part in parts(model):
        if isinstance(part, Tensor) and (wanted := wide(part, kind)) != part.dtype:
            part.data, changed = part.data.to(wanted), True
    return changed


def kinds_of(model: nn.Module) -> set[torch.dtype]:
    """The types of a network's parameters that are floats."""
    return {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
