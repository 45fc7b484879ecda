"""Layers as `torch.vmap` can batch them over the networks of a stack."""

from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class Decomposed(TorchFunctionMode):
    """Layers as the simpler operations that they are made of, since `torch.vmap` knows only those.

    Recurrent ones; and embeddings with a padding token, whose place vmap loses in all lanes but the first, so that
    the token would be trained in them.
    """

    LAYERS = ("lstm", "gru", "rnn_tanh", "rnn_relu")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.embedding:
            given = dict(zip(("input", "weight", "padding_idx"), args, strict=False)) | (kwargs or {})
            if (padding := given.get("padding_idx")) is not None:
                rest = {key: value for key, value in given.items() if key != "padding_idx"}
                found = func(**rest, **dict(zip(EMBEDDING[3:], args[3:], strict=False)))
                is_padding = (given["input"] == padding % given["weight"].shape[0]).unsqueeze(-1)
                return torch.where(is_padding, found.detach(), found)
        name = getattr(func, "__name__", "")
        if name in self.LAYERS and func is getattr(torch._C._VariableFunctions, name):
            operation = getattr(torch.ops.aten, name).input
            func = torch._decomp.get_decompositions([operation])[operation]
        return func(*args, **(kwargs or {}))


EMBEDDING = ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
"""The parameters of `torch.nn.functional.embedding`."""
