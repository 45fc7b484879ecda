"""What a forward pass computes, and which weights it computes it with."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from pai_bench.graph.operands import Operands, operands
from pai_bench.graph.tracing import Operation, Trace, trace
from pai_bench.networks.wrappers import seen_through, unwrapped
from pai_bench.support.torch_internals import OpOverload, schema_of


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one forward pass, a multiplication and its addition counted as two.

    Those of matrix products, convolutions and attention, by torch's own formulas (`torch.utils.flop_counter`);
    element-wise operations, normalisations and biases are not counted, as is usual.
    """

    total: int
    by_weight: Mapping[str, int]
    """Parameter name -> those of the products with it; each is a multiplication with one of its elements."""


def flops(model: nn.Module, example: Tensor) -> Flops:
    """The operations of `model`, in evaluation mode, on one `example` (1, ...)."""
    model = unwrapped(model)
    modes = {module: module.training for module in model.modules()}
    try:
        with seen_through():
            found = trace(model.eval(), example)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return flops_of(found, operands(found, dict(model.named_parameters())))


def flops_of(found: Trace, done: Operands, examples: int = 1) -> Flops:
    """The operations in a trace for each of so many `examples`, with what its parameters do in it."""
    total, by_weight = 0, Counter[str]()
    for place, operation in enumerate(found.operations):
        if count := counted(operation) // examples:
            total += count
            by_weight.update(dict.fromkeys(done.products.get(place, ()), count))
    return Flops(total, dict(by_weight))


def counted(operation: Operation) -> int:
    """What one operation computes; 0 for what is not counted."""
    function = operation.function
    if not isinstance(function, OpOverload) or (formula := flop_registry.get(function.overloadpacket)) is None:
        return 0
    places = [argument for argument in schema_of(function).arguments if not argument.kwarg_only]
    values = [operation.arguments[argument.name] for argument in places]
    return int(formula(*values, out_val=operation.results[0]))
