"""What a training step may change of a network besides the content of its tensors."""

import pickle
import random
import weakref
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pai_bench.support.torch_internals import RNN_WEIGHT_LISTS


def chance(device: torch.device | None = None) -> bytes:
    """The states of all generators that a network may draw from without being asked, on a CUDA `device` too."""
    of_device = torch.cuda.get_rng_state(device).tolist() if device is not None and device.type == "cuda" else []
    return pickle.dumps((torch.get_rng_state().tolist(), of_device, random.getstate(), np.random.get_state()))


def beside_tensors(module: nn.Module, *, attributes: bool = False) -> list[object]:
    """What a step may change of a network besides the content of its tensors, to be compared with the same later.

    Numbers, texts and containers, states of generators, and which tensors are its parameters and buffers; with
    `attributes`, also which tensors are its other attributes. What cannot be compared is never the same.
    """
    found: list[object] = [chance()]
    for part in module.modules():
        for name, value in vars(part).items():
            if isinstance(part, nn.RNNBase) and name in RNN_WEIGHT_LISTS:
                continue
            if name != "training" and (attributes or not isinstance(value, Tensor)):
                found.append((name, content(value, tensors=attributes)))
    return found


def content(value: object, *, tensors: bool = True) -> object:
    """Something that is equal to what it was before if `value` is; without `tensors`, whichever those may be."""
    if isinstance(value, weakref.ref):
        return content(value(), tensors=tensors)
    if isinstance(value, Tensor) and not tensors:
        return "a tensor"  # recurrent layers keep lists of their weights, which differ in every functional call
    if isinstance(value, (Tensor, nn.Module)) or callable(value):
        return Same(value)
    if isinstance(value, torch.Generator):
        return bytes(value.get_state().tolist())
    if isinstance(value, Mapping):
        return [(content(key, tensors=tensors), content(one, tensors=tensors)) for key, one in value.items()]
    if isinstance(value, (list, tuple)):
        return [content(one, tensors=tensors) for one in value]
    try:
        return pickle.dumps(value)
    except Exception:  # whatever it is, it does not say what it holds
        return object()


@dataclass(frozen=True, eq=False)
class Same:
    """Stands for one object, and keeps it, so that no other comes to lie where it lay."""

    held: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.held is other.held

    def __hash__(self) -> int:
        return id(self.held)
