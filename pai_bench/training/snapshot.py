"""The state of a network beside the values of its tensors, which a training step may change."""

import pickle
import random
import types
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pai_bench.support.torch_internals import REGISTERED_TENSORS, RNN_WEIGHT_LISTS, changes_in_place


def random_states(device: torch.device | None = None) -> bytes:
    """The states of all default random generators, also of a CUDA `device`."""
    of_device = torch.cuda.get_rng_state(device).tolist() if device is not None and device.type == "cuda" else []
    return pickle.dumps((torch.get_rng_state().tolist(), of_device, random.getstate(), np.random.get_state()))


def non_tensor_state(module: nn.Module, *, attributes: bool = False) -> list[object]:
    """The state of a network beside the values of its tensors, to be compared with a later one.

    Numbers, texts and containers, states of generators, and the identities of its parameters and buffers; with
    `attributes`, also of tensors in other attributes. Objects that cannot be compared differ from themselves.
    """
    return [random_states(), *attributes_of(module, tensors=attributes)]


def attributes_of(module: nn.Module, *, tensors: bool = False) -> list[object]:
    """`non_tensor_state` without the states of generators; with `tensors`, also tensors in attributes."""
    state: list[object] = []
    for part in module.modules():
        for name, value in vars(part).items():
            if isinstance(part, nn.RNNBase) and name in RNN_WEIGHT_LISTS:
                continue
            if name != "training" and (tensors or not isinstance(value, Tensor)):
                state.append((name, comparable(value, tensors=tensors)))
    return state


REGISTERED = (*REGISTERED_TENSORS, "training", *RNN_WEIGHT_LISTS)
"""Attributes of a module whose content a training state holds, or that do not matter."""

FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, type)


def own_state(module: nn.Module) -> list[object]:
    """What a network has beside its parameters, its buffers and the states of generators, to be compared with later.

    Also what it keeps in containers, in modules that are not registered, and in callable objects.
    """
    seen = {id(part) for part in module.modules()}
    attributes = [(name, value) for part in module.modules() for name, value in vars(part).items()]
    return [(name, state_of(value, seen)) for name, value in attributes if name not in REGISTERED]


def state_of(value: object, seen: set[int]) -> object:
    """An object that is equal as long as a value is the same and unchanged; those `seen` are the same."""
    value = value() if isinstance(value, weakref.ref) else value
    if isinstance(value, Tensor):
        return SameObject(value), changes_in_place(value)
    if isinstance(value, torch.Generator):
        return bytes(value.get_state().tolist())
    if isinstance(value, FUNCTIONS) or id(value) in seen:
        return SameObject(value)
    if isinstance(value, Mapping):
        return [(state_of(key, seen), state_of(part, seen)) for key, part in value.items()]
    if isinstance(value, (list, tuple, deque)):
        return [state_of(part, seen) for part in value]
    if isinstance(value, nn.Module) or callable(value):
        return SameObject(value), state_of(getattr(value, "__dict__", {}), {*seen, id(value)})
    try:
        return pickle.dumps(value)
    except Exception:  # its class may raise anything
        return object()


def comparable(value: object, *, tensors: bool) -> object:
    """An object that is equal for equal values; without `tensors`, all tensors are equal."""
    if isinstance(value, weakref.ref):
        return comparable(value(), tensors=tensors)
    if isinstance(value, Tensor) and not tensors:
        return "a tensor"  # recurrent layers keep lists of their weights, which differ in every functional call
    if isinstance(value, (Tensor, nn.Module)) or callable(value):
        return SameObject(value)
    if isinstance(value, torch.Generator):
        return bytes(value.get_state().tolist())
    if isinstance(value, Mapping):
        return [comparable(pair, tensors=tensors) for pair in value.items()]
    if isinstance(value, (list, tuple)):
        return [comparable(part, tensors=tensors) for part in value]
    try:
        return pickle.dumps(value)
    except Exception:  # its class may raise anything
        return object()


@dataclass(frozen=True, eq=False)
class SameObject:
    """Equal for one object only, which it keeps alive, so that no other object gets its address."""

    held: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SameObject) and self.held is other.held

    def __hash__(self) -> int:
        return id(self.held)
