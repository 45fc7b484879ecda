"""SynFlow: synaptic flow."""

import functools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pai_bench.pruning import (
    Batch,
    Criterion,
    CriterionError,
    Exponential,
    Schedule,
    Scores,
    prunable_parameters,
    weights,
)
from pai_bench.registry import criterion


@criterion("synflow", source="Tanaka et al. 2020, arXiv:2006.05467, eq. 4")
@dataclass(frozen=True)
class SynFlow(Criterion):
    """score = |w * dR/dw|, with R the sum of the outputs for one all-ones input.

    Every parameter and buffer is replaced by its absolute value; float64 throughout. Layer normalisation, which
    subtracts a mean, is replaced by scaling with |gamma|.
    """

    uses_data: ClassVar[bool] = False
    schedule: ClassVar[Schedule] = Exponential(steps=100)

    def score(self, model: nn.Module, batch: Batch) -> Scores:
        make_positive(model)
        parameters = prunable_parameters(model)
        ones = torch.ones_like(batch.inputs[:1], dtype=torch.float64)
        flow = model(ones).sum()
        if not flow.isfinite():
            raise CriterionError(f"synflow: the flow overflows float64 in {overflowing_layer(model, ones)!r}")
        found = torch.autograd.grad(flow, list(parameters.values()), materialize_grads=True)
        dense = weights(model)
        return {name: (dense[name] * g).abs_() for name, g in zip(parameters, found, strict=True)}


@torch.no_grad()
def make_positive(model: nn.Module) -> None:
    """Replace parameters and buffers by their absolute values in float64, and layer norms by scaling."""
    model.double()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.abs_()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.forward = functools.partial(_scale, module)  # type: ignore[method-assign]


def _scale(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Layer normalisation without its statistics."""
    return x if norm.weight is None else x * norm.weight


@torch.no_grad()
def overflowing_layer(model: nn.Module, inputs: Tensor) -> str:
    """The first module, in order of execution, whose output is not finite."""
    found: list[str] = []

    def watch(name: str) -> RemovableHandle:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and not bool(output.isfinite().all()):
                found.append(name)

        return model.get_submodule(name).register_forward_hook(hook)

    handles = [watch(name) for name, _ in model.named_modules() if name]
    model(inputs)
    for handle in handles:
        handle.remove()
    return found[0] if found else "the output"
