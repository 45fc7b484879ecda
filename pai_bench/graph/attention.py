"""Fused attention, as the products and the softmax that it computes."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pai_bench.support import torch_internals
from pai_bench.support.torch_internals import OpOverload

FUSED = "_scaled_dot_product_"
"""How the names of torch's fused kernels begin: which one is taken depends on the device and on the user."""


def is_fused_attention(function: OpOverload) -> bool:
    """Whether an operation is the forward pass of attention in one kernel."""
    name = function.overloadpacket.__name__
    return name.startswith(FUSED) and not name.endswith("_backward")


def plain_attention(arguments: Mapping[str, Any]) -> Tensor:
    """softmax(q k' scale + mask) v, by simpler operations, from the arguments of a fused one by their names."""
    output, _ = torch_internals.plain_attention(
        arguments["query"],
        arguments["key"],
        arguments["value"],
        arguments.get("attn_mask", arguments.get("attn_bias")),
        arguments["dropout_p"],
        arguments["is_causal"],
        scale=arguments.get("scale"),
        enable_gqa=True,  # changes nothing where each head has keys of its own
    )
    return output
