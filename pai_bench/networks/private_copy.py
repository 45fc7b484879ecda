"""Private copies of a network, which share its memory until one of them is written to, and how changes are detected."""

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pai_bench.networks.captured import is_holder, rebind
from pai_bench.networks.dropout import run_in_scoring_mode
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
"""The statistics that batch norm uses: those of the batch (``train``), or the running ones (``eval``)."""

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
    """Whether `tensor`, made by `shared`, has not been written to; its original may have been."""
    return tensor.layout is torch.strided and is_lazy_clone(tensor)


def private_copy(
    model: nn.Module, names: list[str], bn: BatchNormMode, weights: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """A private copy of `model` for scoring, in which only the parameters `names` get gradients.

    `weights`, by name, replace those of the network.
    """
    weights, scored = weights or {}, set(names)
    memo: dict[int, Any] = {}
    for name, parameter in model.named_parameters():
        if parameter.is_meta and name in scored:
            raise UserError(f"{name!r} is on the device meta and has no values: build the model on a real one")
        if type(parameter) is nn.Parameter:
            memo[id(parameter)] = own = nn.Parameter(shared(weights.get(name, parameter)), requires_grad=False)
            vars(own).update(vars(parameter))
    twin = copied(model, memo)
    refuse_shared(model, twin)
    for name, parameter in twin.named_parameters():
        parameter.requires_grad_(name in scored)
    for module in twin.modules():
        module.training = bn == "train" and isinstance(module, BATCH_NORMS)
    run_in_scoring_mode(twin)
    return twin


def copied(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A copy of a network, in which functions that refer to its parts refer to those of the copy."""
    memo = {} if memo is None else memo
    modules = list(model.modules())
    for module in modules:
        for value in graph_tensors(module):
            memo[id(value)] = value.detach().clone()
    try:
        if all(map(has_default_copy, set(map(type, modules)))):
            holders = copy_parts(modules, memo)
        else:
            twin = memo[id(model)] = copy.deepcopy(model, memo)
            own = set(map(id, modules))  # a module's copy may be itself (`refuse_shared`)
            holders = [module for module in twin.modules() if id(module) not in own]
    except Exception as error:  # whatever a module's own __deepcopy__ raises
        raise UserError(f"{type(model).__name__} cannot be copied for scoring: {error}") from error
    rebind(holders, memo)
    result: nn.Module = memo[id(model)]
    return result


def copy_parts(modules: list[nn.Module], memo: dict[int, Any]) -> list[nn.Module]:
    """Copy all modules of a network, faster than ``deepcopy``, which looks at about thirty attributes of each.

    Returns the copies that may contain functions.
    """
    for module in modules:  # all of them first, since modules may refer to each other
        memo[id(module)] = type(module).__new__(type(module))
    holders = []
    for module in modules:
        state, holds = vars(memo[id(module)]), False
        for name, value in vars(module).items():
            if type(value) in SIMPLE:
                state[name] = value
            elif type(value) in (dict, OrderedDict) and not value:  # most of them
                state[name] = type(value)()
            elif name in REGISTRIES:
                state[name] = type(value)((key, copy.deepcopy(part, memo)) for key, part in value.items())
            elif name != COMPILED_CALL:
                state[name] = copy.deepcopy(value, memo)
                holds = holds or is_holder(value)
        if holds:
            holders.append(memo[id(module)])
    return holders


def graph_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Tensors with a graph that a forward pass has left in a module, which ``deepcopy`` refuses."""
    for value in vars(module).values():
        if type(value) in SIMPLE or (type(value) in CONTAINERS and not value):  # most of them
            continue
        for part in (value.values() if isinstance(value, dict) else value) if type(value) in CONTAINERS else (value,):
            if isinstance(part, Tensor) and part.grad_fn is not None:
                yield part


SIMPLE = frozenset([bool, int, float, str, type(None)])
CONTAINERS = frozenset([dict, OrderedDict, list, tuple])


def has_default_copy(cls: type[nn.Module]) -> bool:
    """Whether a class of modules does not define how they are copied."""
    methods = ("__reduce_ex__", "__reduce__", "__getstate__", "__setstate__", "__new__")
    own = {method for method in methods if getattr(cls, method) is not getattr(nn.Module, method)}
    if cls.__setstate__.__module__.startswith("torch.nn.modules") and not issubclass(cls, nn.RNNBase):
        own.discard("__setstate__")  # other layers of torch define it for files of early versions only
    return not own and not hasattr(cls, "__deepcopy__")


def parts(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """All modules, parameters and buffers by name, in one pass, where torch's own methods would take three."""
    for name, module in model.named_modules():
        yield name, module
        for tensors in own_tensors(module):
            for key, tensor in tensors.items():
                if tensor is not None:
                    yield f"{name}.{key}" if name else key, tensor


def refuse_shared(model: nn.Module, twin: nn.Module) -> None:
    """Raise for a copy that has a part of `model` itself, which would change with the copy."""
    own = {id(part) for _, part in parts(model)}
    for name, part in parts(twin):
        if id(part) in own:
            raise UserError(
                f"{name!r}, a {type(part).__name__}, gives itself when it is copied; scoring needs a copy of its own"
            )


def mode_and_hooks(module: nn.Module) -> tuple[Any, ...]:
    """The mode of a module and its numbers of hooks, which show a change."""
    return (module.training, *map(len, module_hooks(module)))


def fingerprints(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    """Name -> values that show a change of the parameter or module: versions, flags, and numbers of hooks."""
    values: dict[str, tuple[Any, ...]] = {}
    for name, part in parts(model):
        if isinstance(part, nn.Module):
            values[name or type(model).__name__] = mode_and_hooks(part)
        elif isinstance(part, nn.Parameter):
            values[name] = (id(part), version_counter(part), part.requires_grad)
    return values


def scoring_dtype(tensor: Tensor, option: str | None) -> torch.dtype:
    """The data type of `tensor` in scoring: that of the option ``score_dtype``, or its own, but float32 for halves."""
    if not tensor.is_floating_point() or (option is None and tensor.dtype not in HALVES):
        return tensor.dtype
    return torch.float64 if option == "float64" else torch.float32


@torch.no_grad()
def convert_for_scoring(model: nn.Module, option: str | None) -> bool:
    """Convert the parameters and buffers of a private copy to their `scoring_dtype`; returns whether any changed."""
    changed = False
    for _, part in parts(model):
        if isinstance(part, Tensor) and (dtype := scoring_dtype(part, option)) != part.dtype:
            part.data, changed = part.data.to(dtype), True
    return changed


def float_dtypes(model: nn.Module) -> set[torch.dtype]:
    """The floating-point types of a network's parameters."""
    return {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
