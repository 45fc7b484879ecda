"""What a network does inside its forward pass that scoring must not let it: drop, and round.

Dropout that it calls as a function, which no switch of a module turns off; and casts to a lower precision than it is
scored in.
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
"""Place and name of an argument, and the value at which a function draws nothing."""

DROPOUTS = (
    *("dropout", "dropout_", "native_dropout", "feature_dropout", "feature_dropout_"),
    *("alpha_dropout", "alpha_dropout_", "feature_alpha_dropout", "feature_alpha_dropout_"),
)
"""What torch itself calls them."""


def operators(*names: str) -> list[Callable[..., Any]]:
    """Functions of torch, as such and as operators."""
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
"""Functions that draw at random while a network is trained."""


LOWER: Mapping[torch.dtype, tuple[torch.dtype, ...]] = {
    torch.float32: (torch.float16, torch.bfloat16),
    torch.float64: (torch.float16, torch.bfloat16, torch.float32),
}
"""Type that a network is scored in -> types that it may not cast to."""

CASTS: Mapping[Callable[..., Any], torch.dtype] = {
    Tensor.half: torch.float16,
    Tensor.bfloat16: torch.bfloat16,
    Tensor.float: torch.float32,
}
"""Functions that cast -> the type that they cast to."""


class Steady(TorchFunctionMode):
    """A block in which functions of `OFF` draw nothing, whatever they are told, but inside of a scripted function.

    With `kind`, nothing is cast to a type that is lower, and new tensors are of that type where none is named.
    """

    def __init__(self, kind: torch.dtype | None = None) -> None:
        super().__init__()
        self.kind, self._before = kind, torch.get_default_dtype()

    def __enter__(self) -> "Steady":
        self._before = torch.get_default_dtype()
        if self.kind is not None:
            torch.set_default_dtype(self.kind)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        if self.kind is not None:
            torch.set_default_dtype(self._before)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self.kind is not None:
            lower = LOWER.get(self.kind, ())
            if CASTS.get(func) in lower:
                return args[0].to(self.kind)
            args = [self._raised(one, lower) for one in args]
            kwargs = {name: self._raised(one, lower) for name, one in (kwargs or {}).items()}
        if (switch := OFF.get(func)) is None:
            return func(*args, **(kwargs or {}))
        place, name, value = switch
        if len(args) > place:
            return func(*args[:place], value, *args[place + 1 :], **(kwargs or {}))
        return func(*args, **{**(kwargs or {}), name: value})

    def _raised(self, value: Any, lower: tuple[torch.dtype, ...]) -> Any:
        return self.kind if type(value) is torch.dtype and value in lower else value


def steady(model: nn.Module, kind: torch.dtype | None = None) -> None:
    """Let every call of `model` itself run in a `Steady` block; copies of it are as they would be without.

    Not a network of torch's own layers alone: they do as their modules are switched, and have one type throughout.
    """
    if kind is None and all(map(is_plain, model.modules())):
        return
    intercept_calls(model, functools.partial(Steady, kind))


def is_plain(module: nn.Module) -> bool:
    """Whether a module runs torch's own code only."""
    hooked = any(forward_hooks(module))
    own = type(module).__module__.startswith("torch.nn.modules") and not hooked
    return own and not any(map(callable, vars(module).values()))  # an activation or a forward of a user's, say
