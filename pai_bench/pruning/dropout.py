"""Dropout that a network calls as a function, which no switch of a module turns off."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Switch = tuple[int, str, object]
"""Place and name of an argument, and the value at which a function draws nothing."""

OFF: Mapping[Callable[..., Any], Switch] = {
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d), (2, "training", False)),
    **dict.fromkeys((F.alpha_dropout, F.feature_alpha_dropout), (2, "training", False)),
    **dict.fromkeys((torch.dropout, torch.dropout_, torch.native_dropout), (2, "train", False)),
    **dict.fromkeys((torch.feature_dropout, torch.feature_dropout_), (2, "train", False)),
    **dict.fromkeys((torch.alpha_dropout, torch.alpha_dropout_), (2, "train", False)),
    **dict.fromkeys((torch.feature_alpha_dropout, torch.feature_alpha_dropout_), (2, "train", False)),
    **dict.fromkeys((F.rrelu, torch.rrelu, torch.rrelu_), (3, "training", False)),
    F.multi_head_attention_forward: (13, "training", False),
    F.scaled_dot_product_attention: (4, "dropout_p", 0.0),
}
"""Functions that draw at random while a network is trained."""


class NoDropout(TorchFunctionMode):
    """A block in which these functions draw nothing, whatever they are told."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if (switch := OFF.get(func)) is None:
            return func(*args, **(kwargs or {}))
        place, name, value = switch
        if len(args) > place:
            return func(*args[:place], value, *args[place + 1 :], **(kwargs or {}))
        return func(*args, **{**(kwargs or {}), name: value})


def without_dropout(model: nn.Module) -> None:
    """Let every call of `model` itself run in such a block; copies of it are as they would be without."""
    own = weakref.ref(model)  # a cycle would keep the network alive

    def call(*args: Any, **kwargs: Any) -> Any:
        with NoDropout():
            return own()._call_impl(*args, **kwargs)  # type: ignore[union-attr]

    # what torch calls in place of a module that it has compiled; a wrapped `forward` would be seen as one of its own
    model._compiled_call_impl = call
