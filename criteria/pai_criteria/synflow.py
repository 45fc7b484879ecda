"""SynFlow: synaptic flow."""

import dataclasses
import functools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from pai_bench import criterion
from pai_bench.masks import Exponential, Schedule
from pai_bench.scoring import (
    AuthorsChoice,
    Batch,
    Criterion,
    CriterionError,
    MaskedModel,
    Scores,
    added_later,
    convolve_single_example,
    forward,
    no_recomputation,
    read_scalars,
    tensors,
)

logger = logging.getLogger(__name__)


@criterion("synflow", source="Tanaka et al. 2020, arXiv:2006.05467, eq. 4")
@dataclass(frozen=True)
class SynFlow(Criterion):
    """score = |w * dR/dw|, with R the sum of the outputs for one all-ones input. The batch is not used.

    Every parameter and buffer is replaced by its absolute value, in float64. Normalisation by statistics of the example
    itself, which would remove the flow, is replaced by scaling with |gamma|. A softmax at the end, whose outputs sum to
    one, is left out. The output of an embedding is replaced by ones.

    Flow is conserved: w * dR/dw is at least 0, and its sum over a layer is R, or the part of R that passes through the
    layer. The first scores of a network are checked for this; a warning names the layers that fail.

    * ``output``: which of several outputs is summed, by its index or its name.

    On chains of homogeneous layers, a flow outside of the range of float64 is rescaled, which multiplies all scores by
    one power of two; on other networks it raises a `CriterionError` that names the layer. The same error is raised for
    a network with several outputs and no ``output``.

    Tanaka et al. 2020, arXiv:2006.05467, eq. 4.
    """

    output: str | None = added_later(None)

    uses_data: ClassVar[bool] = False
    schedule: ClassVar[Schedule] = Exponential(steps=100)
    properties: ClassVar[tuple[str, ...]] = ("conserves-flow",)
    figure_style: ClassVar[tuple[str, str, str]] = ("#009E73", "^", "-")
    authors_choices: ClassVar[tuple[AuthorsChoice, ...]] = (
        AuthorsChoice("ties", "removes all equal scores at the threshold", ("remove",)),
    )

    @torch.no_grad()
    def prepare(self, model: nn.Module) -> None:
        model.double()
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.abs_()

    def score(self, model: MaskedModel, batch: Batch) -> Scores:
        dtype = torch.float64 if batch.inputs.is_floating_point() else batch.inputs.dtype
        ones = dataclasses.replace(
            batch, inputs=torch.ones_like(batch.inputs[:1], dtype=dtype), targets=batch.targets[:1], batches=1
        )
        if "flow is checked" in model.state:
            return model.saliencies(ones, lambda w, g, _flow: g.mul_(w).abs_(), of=self.flow)
        totals: list[Tensor] = []

        def recorded_flow(network: MaskedModel, batch: Batch) -> Tensor:
            totals.append(self.flow(network, batch))
            return totals[0]

        flows = model.saliencies(ones, lambda w, g, _flow: g.mul_(w), of=recorded_flow)
        check_conservation(flows, totals[0].detach(), model.network)
        model.state["flow is checked"] = True
        return {name: flow.abs_() for name, flow in flows.items()}

    def flow(self, model: MaskedModel, ones: Batch) -> Tensor:
        """R, the sum of the outputs for all-ones inputs: a scalar, on a chain up to a power of two."""
        return flow(model, ones, self.output)


ROUNDING = 1e-6
"""Relative error of a sum of many terms, at most."""


def check_conservation(flows: Mapping[str, Tensor], whole: Tensor, model: nn.Module) -> None:
    """Warn of layers whose flow, w * dR/dw, is somewhere negative, or in sum more than R or zero; `whole` is R."""
    parts = [whole, *(flow.min() for flow in flows.values()), *(flow.sum() for flow in flows.values())]
    total, *read = read_scalars(part.double() for part in parts)  # waits for the device once
    lowest, sums = read[: len(flows)], read[len(flows) :]
    signed = [name for name, low in zip(flows, lowest, strict=True) if low < -ROUNDING * total / flows[name].numel()]
    above = [name for name, sum_ in zip(flows, sums, strict=True) if sum_ > (1 + ROUNDING) * total]
    lost = [n for n, sum_ in zip(flows, sums, strict=True) if sum_ < ROUNDING**2 * total and n not in signed]
    problems = {
        "negative": (signed, "behind them a normalisation or the like takes the flow away that its inputs bring"),
        "more than R": (above, "products of activations bring more to the outputs than goes in"),
        "nothing of R": (lost, "no path lies behind them, or a saturated function"),
    }
    for problem, (names, reason) in problems.items():
        if names:
            shown = ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)
            warn(
                f"synflow: flow is not conserved in {type(model).__name__}: {problem} in {shown}; {reason}", form(model)
            )


@functools.cache
def warn(message: str, _form: object) -> None:
    """Log a warning once for all networks of one form, such as those of a sweep."""
    logger.warning(message)


def form(model: nn.Module) -> object:
    """The names and shapes of a network's parameters, which identify its architecture."""
    return tuple((name, tuple(parameter.shape)) for name, parameter in model.named_parameters())


def flow(model: MaskedModel, ones: Batch, which: str | None = None) -> Tensor:
    """R, the sum of the outputs, or of the output called `which`, on a chain up to a power of two."""
    layers, network = chain(model.network, ""), type(model.network).__name__
    # the fused kernel of attention loses the gradient of such large flows
    with Linearised() as linear, no_recomputation(), sdpa_kernel(SDPBackend.MATH):
        if layers is None:
            output = counted(forward(model, ones.inputs), which, network)
            if (before := linear.before_softmax(output)) is not None:
                warn(f"synflow: the softmax at the end of {network} is left out: its outputs sum to one", form(model))
                output = before
            total = output.sum()
        else:
            try:
                return flow_along(layers, ones.inputs)
            except RuntimeError:
                forward(model, ones.inputs)  # its error names the layer that the inputs do not fit
                raise
        if not total.isfinite():
            where = overflowing_layer(model, ones.inputs)
            raise CriterionError(f"synflow: the flow overflows float64 in {where!r}")
    return total


SOFTMAXES = (F.softmax, F.log_softmax, torch.softmax, torch.log_softmax, Tensor.softmax, Tensor.log_softmax)


class Linearised(TorchFunctionMode):
    """Replaces normalisation by an example's own statistics by scaling with its weight, and embeddings by ones.

    Convolutions use a faster function. The inputs of softmaxes are recorded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.softmaxes: dict[int, tuple[Tensor, Tensor]] = {}
        """By `id` of the result of a softmax: its input and its result, kept alive so that no other gets its `id`."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (F.layer_norm, F.rms_norm, F.group_norm):
            return self.scaled(func, *args, **(kwargs or {}))
        if func is F.instance_norm or (func is F.batch_norm and not has_statistics(*args, **(kwargs or {}))):
            return self.scaled(func, args[0], None, (kwargs or {}).get("weight"))  # torch gives it by its name
        if func is F.conv2d:
            return convolve_single_example(*args, **(kwargs or {}))
        output = func(*args, **(kwargs or {}))
        if func in SOFTMAXES:
            self.softmaxes[id(output)] = (args[0] if args else (kwargs or {})["input"], output)
        return torch.ones_like(output) if func is F.embedding else output

    def before_softmax(self, output: Tensor) -> Tensor | None:
        """The input of the softmax that gave `output`, or of which `output` is a view; None without a softmax."""
        whole = output if output._base is None else output._base
        softmax_input, _ = self.softmaxes.get(id(whole), (None, None))
        if softmax_input is None or whole is output:
            return softmax_input
        if not whole.is_contiguous():
            return None
        softmax_input = softmax_input.contiguous()  # it may begin in the middle of its memory, unlike the result
        offset = softmax_input.storage_offset() + output.storage_offset()
        return softmax_input.as_strided(output.shape, output.stride(), offset)

    @staticmethod
    def scaled(
        func: Any, input: Tensor, _shape_or_groups: Any, weight: Tensor | None = None, *_rest: Any, **_options: Any
    ) -> Tensor:
        """``input`` times ``weight``, along the last dimensions, or along the channels."""
        if weight is None:
            return input
        by_channel = func in (F.group_norm, F.instance_norm, F.batch_norm)
        return input * (weight.view(-1, *(1,) * (input.dim() - 2)) if by_channel else weight)


def has_statistics(
    _input: Tensor,
    mean: Tensor | None = None,
    variance: Tensor | None = None,
    _weight: Tensor | None = None,
    _bias: Tensor | None = None,
    training: bool = False,
    *_rest: Any,
    **running: Any,
) -> bool:
    """Whether a call of batch norm uses running statistics, not those of the example."""
    mean, variance = running.get("running_mean", mean), running.get("running_var", variance)
    return mean is not None and variance is not None and not training


def counted(output: Any, which: str | None, network: str) -> Tensor:
    """The tensor in the output of a network whose sum is R: the only one, or the one called `which`."""
    outputs = floating(output)
    if not outputs:
        raise CriterionError(f"synflow: {network} returns nothing that flow could be measured by")
    if which is None:
        if len(outputs) > 1:
            names = ", ".join(names_of(output))
            raise CriterionError(
                f"synflow: {network} gives {len(outputs)} outputs ({names}): say which counts, as in synflow:output="
                f"{names_of(output)[0]}"
            )
        return outputs[0]
    if which not in (known := names_of(output)):
        raise CriterionError(f"synflow: {network} has no output {which!r}, but {', '.join(known)}")
    parts = floating(part(output, which))
    if len(parts) != 1:
        raise CriterionError(f"synflow: the output {which!r} of {network} is not one tensor of floats")
    return parts[0]


def floating(output: Any) -> list[Tensor]:
    """The floating-point tensors in the output of a network."""
    return [tensor for tensor in tensors(output) if tensor.is_floating_point()]


def names_of(output: Any) -> list[str]:
    """The names of a network's outputs: fields, keys, or indices."""
    if isinstance(output, Mapping):
        return [str(key) for key in output]
    if hasattr(output, "_fields"):
        return list(output._fields)
    if dataclasses.is_dataclass(output):
        return [field.name for field in dataclasses.fields(output)]
    return [str(place) for place in range(len(output))] if isinstance(output, (tuple, list)) else ["0"]


def part(output: Any, name: str) -> Any:
    """The output called `name`."""
    if isinstance(output, Mapping):
        return next(value for key, value in output.items() if str(key) == name)
    if dataclasses.is_dataclass(output) or hasattr(output, "_fields"):
        return getattr(output, name)
    return output[int(name)] if isinstance(output, (tuple, list)) else output


HOMOGENEOUS = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm),
    *(nn.ReLU, nn.LeakyReLU, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.Flatten, nn.Unflatten),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool2d),
)
"""Layers whose output, without the terms that they add, scales with their input."""

LIMIT = 1000
"""A power of two that float64 can represent, and its inverse."""

LOW, HIGH = 2.0**-300, 2.0**300
"""The range of the flow along a chain, outside of which it is rescaled."""


def chain(model: nn.Module, name: str) -> list[tuple[str, nn.Module]] | None:
    """The layers of a network that is a sequence of homogeneous layers; None for others."""
    if model._forward_hooks or model._forward_pre_hooks or "forward" in vars(model):
        return None
    if type(model) is not nn.Sequential:
        return [(name, model)] if type(model) in HOMOGENEOUS else None
    parts = [chain(child, f"{name}.{key}".lstrip(".")) for key, child in model.named_children()]
    # named_children() gives a repeated module once only
    if None in parts or len(parts) < len(model):
        return None
    return [layer for part in parts if part for layer in part]


def flow_along(layers: Sequence[tuple[str, nn.Module]], x: Tensor) -> Tensor:
    """The summed output of a chain, times a power of two that keeps it in range; added terms are scaled too."""
    output, peaks = x, list[Tensor]()
    for _, layer in layers:
        output = layer(output)
        peaks.append(output.detach().max())
    if all(peak <= 0 or LOW < peak < HIGH for peak in read_scalars(peaks)):  # almost always; waits for the device once
        return output.sum()
    return rescaled_along(layers, x)


def rescaled_along(layers: Sequence[tuple[str, nn.Module]], x: Tensor) -> Tensor:
    """`flow_along` for a flow that leaves the range: rescaled after each layer, if necessary."""
    exponent = 0
    for name, layer in layers:
        added = added_terms(layer) if exponent else {}
        if added and exponent > LIMIT:  # so small a flow vanishes against the added terms
            x, exponent = x * math.ldexp(1.0, -exponent), 0
        if added and exponent:
            factor = math.ldexp(1.0, exponent)
            x = functional_call(layer, {key: value * factor for key, value in added.items()}, (x,))
        else:
            x = layer(x)
        peak = float(x.detach().max())
        if not math.isfinite(peak):
            raise CriterionError(f"synflow: the flow overflows float64 in {name!r}")
        if peak > 0 and not LOW < peak < HIGH:
            shift = min(LIMIT, -math.frexp(peak)[1])
            x, exponent = x * math.ldexp(1.0, shift), exponent + shift
    return x.sum()


def added_terms(layer: nn.Module) -> dict[str, Tensor]:
    """The tensors of a layer that do not multiply its input, if they are not all zero."""
    added = {key: getattr(layer, key, None) for key in ("bias", "running_mean")}
    return {key: value for key, value in added.items() if isinstance(value, Tensor) and bool(value.any())}


@torch.no_grad()
def overflowing_layer(model: nn.Module, inputs: Tensor) -> str:
    """The first module, in order of execution, whose output is not finite."""
    names: list[str] = []

    def check(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if not all(bool(tensor.isfinite().all()) for tensor in floating(output)):
            names.append(name)

    modules = [(name, module) for name, module in model.named_modules() if name]
    handles = [module.register_forward_hook(functools.partial(check, name)) for name, module in modules]
    model(inputs)
    for handle in handles:
        handle.remove()
    return names[0] if names else "the output"
