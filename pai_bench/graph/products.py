"""What passes through products and normalisations: a part of the rules (`pai_bench.graph.rules`)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pai_bench.graph.rules import added, pointwise, rule, with_biases
from pai_bench.graph.state import ReachState
from pai_bench.graph.tracing import Operation


@rule("mul")
def _mul(state: ReachState, operation: Operation) -> Any:
    a, b = operation.arguments["self"], operation.arguments["other"]
    if not isinstance(b, Tensor):
        return pointwise(state, operation) if b else torch.zeros(operation.results[0].shape)
    return state.product(torch.mul, a, b)


@rule("mm", "bmm", "mv", "dot", "vdot")
def _matrix_product(state: ReachState, operation: Operation) -> Any:
    a, b = operation.given
    return state.product(getattr(torch, operation.name), a, b)


@rule("_weight_norm_interface")
def _weight_norm(state: ReachState, operation: Operation) -> Any:
    """Directions times lengths: a statistic is no path."""
    return state.product(torch.mul, operation.arguments["v"], operation.arguments["g"])


@rule("_trilinear")
def _bilinear_layer(state: ReachState, operation: Operation) -> Any:
    *factors, dims = [operation.arguments[name] for name in ("i1", "i2", "i3", "sumdim")]
    expanded = [operation.arguments[name] for name in ("expand1", "expand2", "expand3")]
    return state.product(lambda *three: operation.function(*three, *expanded, dims), *factors)


TIMES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "addcmul": torch.mul,
    "addr": torch.outer,
    "addbmm": lambda a, b: torch.bmm(a, b).sum(0),
}
"""The product to which an operation adds; a matrix product where it is not named."""


@rule("addmm", "baddbmm", "addmv", "addcmul", "addbmm", "addr")
def _added_product(state: ReachState, operation: Operation) -> Any:
    (base, a, b), scales = operation.given, operation.arguments
    reached = any(state.reach(tensor) is not None for tensor in (a, b))
    parts = []
    if reached and scales.get("alpha") != 0 and scales.get("value") != 0:
        parts.append(state.product(TIMES.get(operation.name, torch.matmul), a, b))
    if (reach := state.reach(base)) is not None and scales.get("beta") != 0:
        parts.append(reach)
    sum_ = added(operation.results[0], parts)
    sum_ = sum_ if parts and sum_ is parts[0] else state.binarize(sum_)
    return with_biases(state, sum_, [base] if scales.get("beta") != 0 else [])


@rule("linear")
def _linear(state: ReachState, operation: Operation) -> Any:
    arguments = operation.arguments
    return with_biases(state, state.product(F.linear, arguments["input"], arguments["weight"]), [arguments["bias"]])


@rule("convolution", "_convolution")
def _convolution(state: ReachState, operation: Operation) -> Any:
    arguments = operation.arguments
    names = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
    options = [arguments[name] for name in names]
    reach = state.product(lambda x, w: torch.convolution(x, w, None, *options), arguments["input"], arguments["weight"])
    if (kept := state.bias(arguments["bias"])) is not None:
        reach = state.used_with(reach, kept.view(-1, *(1,) * (reach.dim() - 2)))
    return reach


# Normalisation: a statistic is no path


@rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")
@rule("native_group_norm", "_native_batch_norm_legit_functional", "_batch_norm_no_update", "_batch_norm_with_update")
def _channel_norm(state: ReachState, operation: Operation) -> Any:
    return scaled(state, operation, lambda weight, x: weight.view(-1, *(1,) * (x.dim() - 2)))


@rule("native_layer_norm", "_fused_rms_norm", "normalisation")
def _layer_norm(state: ReachState, operation: Operation) -> Any:
    return scaled(state, operation, lambda weight, _x: weight)


def scaled(state: ReachState, operation: Operation, shaped: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """The input's reach, element by element, times what is kept of the weight."""
    x, weight = operation.given[0], operation.arguments.get("weight")
    if (reach := state.normalised(operation)) is None:
        return ()
    if (kept := state.nonzero(weight)) is not None:
        reach = reach * shaped(kept, x)
    result, bias = state.binarize(reach), operation.arguments.get("bias")
    if isinstance(weight, Tensor):
        state.multiplied([weight], result)
    if (added_to_it := state.bias(bias)) is not None:
        result = state.used_with(result, shaped(added_to_it, x))
    return result
