"""Dropout and casts inside a forward pass, which scoring has to turn off.

Dropout that a network calls as a function does not depend on the mode of a module. Casts would lower the precision
in which the network is scored.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pai_bench.support.torch_internals import forward_hooks, intercept_calls

Switch = tuple[int, str, object]
"""Position and name of an argument, and its value without random draws."""

DROPOUTS = (
    *("dropout", "dropout_", "native_dropout", "feature_dropout", "feature_dropout_"),
    *("alpha_dropout", "alpha_dropout_", "feature_alpha_dropout", "feature_alpha_dropout_"),
)
"""Names of torch's dropout functions."""


def operators(*names: str) -> list[Callable[..., Any]]:
    """Functions of torch, and the operators of the same names."""
    packets = [getattr(torch.ops.aten, name) for name in names]
    return [*(getattr(torch, name) for name in names), *packets, *(packet.default for packet in packets)]


OFF: Mapping[Callable[..., Any], Switch] = {
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d), (2, "training", False)),
    **dict.fromkeys((F.alpha_dropout, F.feature_alpha_dropout), (2, "training", False)),
    **dict.fromkeys(operators(*DROPOUTS), (2, "train", False)),
    **dict.fromkeys((F.rrelu, *operators("rrelu", "rrelu_")), (3, "training", False)),
    F.multi_head_attention_forward: (13, "training", False),
    F.scaled_dot_product_attention: (4, "dropout_p", 0.0),
}
"""Functions that draw random numbers in training."""


LOWER: Mapping[torch.dtype, tuple[torch.dtype, ...]] = {
    torch.float32: (torch.float16, torch.bfloat16),
    torch.float64: (torch.float16, torch.bfloat16, torch.float32),
}
"""Data type of scoring -> data types that the network must not cast to."""

CASTS: Mapping[Callable[..., Any], torch.dtype] = {
    Tensor.half: torch.float16,
    Tensor.bfloat16: torch.bfloat16,
    Tensor.float: torch.float32,
}
"""Functions that cast -> their data type."""


class ScoringMode(TorchFunctionMode):
    """A block in which the functions of `OFF` draw nothing, whatever their arguments; scripted functions excepted.

    With `dtype`, nothing is cast to a lower type, and it is the default type of new tensors.
    """

    _before: torch.dtype
    """The default type outside of the block."""

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.dtype = dtype

    def __enter__(self) -> "ScoringMode":
        self._before = torch.get_default_dtype()
        if self.dtype is not None:
            torch.set_default_dtype(self.dtype)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        if self.dtype is not None:
            torch.set_default_dtype(self._before)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self.dtype is not None:
            lower = LOWER.get(self.dtype, ())
            if CASTS.get(func) in lower:
                return args[0].to(self.dtype)
            args = [self._raised(value, lower) for value in args]
            kwargs = {name: self._raised(value, lower) for name, value in (kwargs or {}).items()}
        if (switch := OFF.get(func)) is None:
            return func(*args, **(kwargs or {}))
        position, name, value = switch
        if len(args) > position:
            return func(*args[:position], value, *args[position + 1 :], **(kwargs or {}))
        return func(*args, **{**(kwargs or {}), name: value})

    def _raised(self, value: Any, lower: tuple[torch.dtype, ...]) -> Any:
        return self.dtype if type(value) is torch.dtype and value in lower else value


def run_in_scoring_mode(model: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Let each call of `model` itself run in a `ScoringMode` block. Copies of it do not.

    Networks of torch's own layers alone need no such block, since their dropout depends on the mode of the modules.
    """
    if dtype is None and all(map(is_plain, model.modules())):
        return
    intercept_calls(model, functools.partial(ScoringMode, dtype))


def is_plain(module: nn.Module) -> bool:
    """Whether a module runs torch's own code only."""
    hooked = any(forward_hooks(module))
    own = type(module).__module__.startswith("torch.nn.modules") and not hooked
    return own and not any(map(callable, vars(module).values()))  # an activation or a forward of a user's, say
