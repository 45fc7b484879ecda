"""Floating-point operations of a forward pass, in total and by weight."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from pai_bench.graph.operands import Operands, operands
from pai_bench.graph.tracing import Operation, Trace, trace
from pai_bench.networks.wrappers import unwrapped, without_compilation
from pai_bench.support.torch_internals import OpOverload, schema_of


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one forward pass of one example: 2 for each multiplication and addition.

    Counted are matrix products, convolutions and attention, by the formulas of `torch.utils.flop_counter`; as is usual,
    not element-wise operations, normalisation and biases.
    """

    total: int
    by_weight: Mapping[str, int]
    """Parameter name -> operations of the products with it. Each multiplies one of its elements."""
    shares: Mapping[str, float]
    """The same, but operations with a weight that is computed from several parameters are divided between them."""


def flops(model: nn.Module, example: Tensor) -> Flops:
    """The floating-point operations of `model`, in evaluation mode, for one `example` of shape (1, ...).

    Raises `UserError` for a network that does different operations for different data.
    """
    model = unwrapped(model)
    modes = {module: module.training for module in model.modules()}
    try:
        with without_compilation():
            traced = trace(model.eval(), example)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return flops_of(traced, operands(traced, dict(model.named_parameters())))


def flops_of(traced: Trace, done: Operands, examples: int = 1) -> Flops:
    """The floating-point operations in a trace, per example; `done` is the role of its parameters in it."""
    total, by_weight, shares = 0, Counter[str](), defaultdict[str, float](float)
    for place, operation in enumerate(traced.operations):
        if count := counted(operation) // examples:
            total += count
            names = done.products.get(place, ())
            for name in names:
                by_weight[name] += count
                shares[name] += count / len(names)
    return Flops(total, dict(by_weight), dict(shares))


def counted(operation: Operation) -> int:
    """The floating-point operations of one operation; 0 for one that is not counted."""
    function = operation.function
    if not isinstance(function, OpOverload) or (formula := flop_registry.get(function.overloadpacket)) is None:
        return 0
    places = [argument for argument in schema_of(function).arguments if not argument.kwarg_only]
    values = [operation.arguments[argument.name] for argument in places]
    return int(formula(*values, out_val=operation.results[0]))
