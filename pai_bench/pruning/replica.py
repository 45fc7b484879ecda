"""Private copies of a network, which share its memory until somebody writes to it, and what shows a change of them."""

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pai_bench.errors import UserError
from pai_bench.memory import is_recorded
from pai_bench.pruning.criterion import SCORING, BatchNormMode
from pai_bench.pruning.dropout import steady

BATCH_NORMS = (_BatchNorm,)


HALVES = (torch.float16, torch.bfloat16)


def shared(tensor: Tensor) -> Tensor:
    """A copy of `tensor` that shares its memory until one of the two is written to."""
    if is_recorded(tensor):
        return tensor.detach().clone()
    try:
        if tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
            return tensor.detach().clone()  # a view: the first write would copy all that lies around it
        return torch._lazy_clone(tensor.detach())
    except RuntimeError:  # memory that torch has not allocated itself
        return tensor.detach().clone()


def still_shared(tensor: Tensor) -> bool:
    """Whether nobody has written to what `shared` gave."""
    return tensor.layout is torch.strided and bool(torch._C._is_cow_tensor(tensor))  # type: ignore[attr-defined]  # not among torch's annotations


def replica(model: nn.Module, names: list[str], bn: BatchNormMode) -> nn.Module:
    """A private copy of `model` for scoring, in which the parameters `names`, and no others, get gradients."""
    for name in names:
        if model.get_parameter(name).is_meta:
            raise UserError(f"{name!r} is on the device meta and has no values: build the model on a real one")
    outer = SCORING.get(model)
    dense = {} if outer is None else outer.dense  # the mask is laid by whoever asked for the copy
    memo: dict[int, Any] = {}
    for name, parameter in model.named_parameters():
        if type(parameter) is nn.Parameter:
            memo[id(parameter)] = copied = nn.Parameter(shared(dense.get(name, parameter)), requires_grad=False)
            vars(copied).update(vars(parameter))
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and value.grad_fn is not None:  # what a forward pass has left there
                memo[id(value)] = value.detach().clone()
            elif type(value) is OrderedDict and not value:  # a dozen in each module, which deepcopy is slow at
                memo[id(value)] = OrderedDict()
    try:
        twin = copy.deepcopy(model, memo)
    except Exception as error:  # whatever a module's own __deepcopy__ raises
        raise UserError(f"{type(model).__name__} cannot be copied for scoring: {error}") from error
    refuse_shared(model, twin)
    twin.requires_grad_(False)
    for name in names:
        twin.get_parameter(name).requires_grad_(True)
    for module in twin.modules():
        module.training = bn == "train" and isinstance(module, BATCH_NORMS)
    steady(twin)
    return twin


def refuse_shared(model: nn.Module, twin: nn.Module) -> None:
    """Refuse a copy that holds a part of `model` itself: what happens to the copy would happen to that."""
    own = {id(part) for part in (*model.modules(), *model.parameters(), *model.buffers())}
    for name, part in (*twin.named_modules(), *twin.named_parameters(), *twin.named_buffers()):
        if id(part) in own:
            kind = type(part).__name__
            raise UserError(f"{name!r}, a {kind}, gives itself when it is copied; scoring needs a copy of its own")


def fingerprints(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    """What shows that a parameter or module was changed, by name: versions, flags, and the number of hooks."""
    found: dict[str, tuple[Any, ...]] = {
        name: (id(p), p._version, p.requires_grad) for name, p in model.named_parameters()
    }
    for name, module in model.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        found[name or type(model).__name__] = (module.training, *map(len, hooks))
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
    for tensor in (*model.parameters(), *model.buffers()):
        if (wanted := wide(tensor, kind)) != tensor.dtype:
            tensor.data, changed = tensor.data.to(wanted), True
    return changed


def kinds_of(model: nn.Module) -> set[torch.dtype]:
    """The types of a network's parameters that are floats."""
    return {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
