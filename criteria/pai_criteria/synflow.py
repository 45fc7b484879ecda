"""SynFlow: synaptic flow."""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

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
    """score = |w * dR/dw|, with R the sum of the outputs for one all-ones input.

    Every parameter and buffer is replaced by its absolute value; float64 throughout. Normalisation by statistics of
    the example itself, which would take the flow away again, is replaced by scaling with |gamma|, and a softmax at the
    end, whose outputs sum to one, is left out. Token indices become ones behind the embedding. On chains of
    homogeneous layers, a flow that would leave the range of float64 is rescaled, by a common factor of all scores; on
    other networks an overflow is an error that names the layer.

    What is flow is conserved: w * dR/dw is nowhere negative, and its sum over a layer is R, or what of R passes
    through the layer. The first scores of a network are held to that, and a warning names the layers that fail.

    Option ``output``: which of several outputs counts, by its place or its name.
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
        kind = torch.float64 if batch.inputs.is_floating_point() else batch.inputs.dtype
        ones = dataclasses.replace(
            batch, inputs=torch.ones_like(batch.inputs[:1], dtype=kind), targets=batch.targets[:1], batches=1
        )
        if "flow is checked" in model.state:
            return model.saliencies(ones, lambda w, g, _flow: g.mul_(w).abs_(), of=self.flow)
        flows: list[Tensor] = []

        def kept(network: MaskedModel, batch: Batch) -> Tensor:
            flows.append(self.flow(network, batch))
            return flows[0]

        found = model.saliencies(ones, lambda w, g, _flow: g.mul_(w), of=kept)
        check_conservation(found, flows[0].detach(), model.network)
        model.state["flow is checked"] = True
        return {name: score.abs_() for name, score in found.items()}

    def flow(self, model: MaskedModel, ones: Batch) -> Tensor:
        """R, the sum of the outputs, up to a power of two on a chain."""
        return flow(model, ones, self.output)


ROUNDING = 1e-6
"""Share of the flow that a sum of many terms may be off by."""


def check_conservation(flows: Mapping[str, Tensor], whole: Tensor, model: nn.Module) -> None:
    """Warn of the layers whose flow, w * dR/dw with its sign, does not do what flow does.

    That is nowhere negative, and in sum neither more than R nor nothing.
    """
    parts = [whole, *(flow.min() for flow in flows.values()), *(flow.sum() for flow in flows.values())]
    total, *read = read_scalars(part.double() for part in parts)  # a device is waited for once
    lowest, sums = read[: len(flows)], read[len(flows) :]
    signed = [name for name, low in zip(flows, lowest, strict=True) if low < -ROUNDING * total / flows[name].numel()]
    above = [name for name, found in zip(flows, sums, strict=True) if found > (1 + ROUNDING) * total]
    lost = [n for n, found in zip(flows, sums, strict=True) if found < ROUNDING**2 * total and n not in signed]
    why = {
        "negative": (signed, "behind them a normalisation or the like takes the flow away that its inputs bring"),
        "more than R": (above, "products of activations bring more to the outputs than goes in"),
        "nothing of R": (lost, "no path lies behind them, or a saturated function"),
    }
    for what, (names, reason) in why.items():
        if names:
            shown = ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)
            warn(f"synflow: flow is not conserved in {type(model).__name__}: {what} in {shown}; {reason}", form(model))


@functools.cache
def warn(message: str, _form: object) -> None:
    """Say something once of networks of one form: those of all trials of a sweep, say."""
    logger.warning(message)


def form(model: nn.Module) -> object:
    """What tells two kinds of networks apart: the names and shapes of their parameters."""
    return tuple((name, tuple(parameter.shape)) for name, parameter in model.named_parameters())


def flow(model: MaskedModel, ones: Batch, which: str | None = None) -> Tensor:
    """R, the sum of the outputs, or of `which` of them, up to a power of two on a chain."""
    layers, network = chain(model.network, ""), type(model.network).__name__
    # the fused kernel of attention loses the gradient of flows as large as these
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
                forward(model, ones.inputs)  # says which layer the inputs do not fit
                raise
        if not total.isfinite():
            where = overflowing_layer(model, ones.inputs)
            raise CriterionError(f"synflow: the flow overflows float64 in {where!r}")
    return total


SOFTMAXES = (F.softmax, F.log_softmax, torch.softmax, torch.log_softmax, Tensor.softmax, Tensor.log_softmax)


class Linearised(TorchFunctionMode):
    """Normalisation by an example's own statistics becomes scaling with its weight, an embedding gives ones.

    Convolutions are quick. Softmaxes are noted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.softmaxes: dict[int, tuple[Tensor, Tensor]] = {}
        """By the `id` of the result: what a softmax was taken of, and the result, which keeps the `id` its own."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (F.layer_norm, F.rms_norm, F.group_norm):
            return self.scaled(func, *args, **(kwargs or {}))
        if func is F.batch_norm and not has_statistics(*args, **(kwargs or {})):
            return self.scaled(func, args[0], None, (kwargs or {}).get("weight", args[3] if len(args) > 3 else None))
        if func is F.instance_norm:
            return self.scaled(func, args[0], None, (kwargs or {}).get("weight", args[3] if len(args) > 3 else None))
        if func is F.conv2d:
            return convolve_single_example(*args, **(kwargs or {}))
        output = func(*args, **(kwargs or {}))
        if func in SOFTMAXES:
            self.softmaxes[id(output)] = (args[0] if args else (kwargs or {})["input"], output)
        return torch.ones_like(output) if func is F.embedding else output

    def before_softmax(self, output: Tensor) -> Tensor | None:
        """What a softmax was taken of to give `output`, or that of which `output` is a view; None without one."""
        whole = output if output._base is None else output._base
        if (found := self.softmaxes.get(id(whole))) is None:
            return None
        if whole is output:
            return found[0]
        if not whole.is_contiguous():
            return None
        taken = found[0].contiguous()  # which may begin in the middle of its memory, where the result does not
        place = taken.storage_offset() + output.storage_offset() - whole.storage_offset()
        return taken.as_strided(output.shape, output.stride(), place)

    @staticmethod
    def scaled(
        func: Any, input: Tensor, _shape_or_groups: Any, weight: Tensor | None = None, *_rest: Any, **_options: Any
    ) -> Tensor:
        """``input`` times ``weight``, which runs along the last dimensions, or those of the channels."""
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
    """Whether a batch norm, called so, uses running statistics, not those of the example."""
    mean, variance = running.get("running_mean", mean), running.get("running_var", variance)
    return mean is not None and variance is not None and not training


def counted(output: Any, which: str | None, network: str) -> Tensor:
    """The tensor in what a network returns that flow is measured by: the only one, or `which` says."""
    found = floating(output)
    if not found:
        raise CriterionError(f"synflow: {network} returns nothing that flow could be measured by")
    if which is None:
        if len(found) > 1:
            names = ", ".join(names_of(output))
            raise CriterionError(
                f"synflow: {network} gives {len(found)} outputs ({names}): say which counts, as in synflow:output="
                f"{names_of(output)[0]}"
            )
        return found[0]
    if which not in (known := names_of(output)):
        raise CriterionError(f"synflow: {network} has no output {which!r}, but {', '.join(known)}")
    parts = floating(part(output, which))
    if len(parts) != 1:
        raise CriterionError(f"synflow: the output {which!r} of {network} is not one tensor of floats")
    return parts[0]


def floating(output: Any) -> list[Tensor]:
    """The floating-point tensors in what a network returns."""
    return [tensor for tensor in tensors(output) if tensor.is_floating_point()]


def names_of(output: Any) -> list[str]:
    """What the outputs of a network are called: names of fields, keys, or places."""
    if isinstance(output, Mapping):
        return [str(key) for key in output]
    if hasattr(output, "_fields"):
        return list(output._fields)
    if dataclasses.is_dataclass(output):
        return [field.name for field in dataclasses.fields(output)]
    return [str(place) for place in range(len(output))] if isinstance(output, (tuple, list)) else ["0"]


def part(output: Any, name: str) -> Any:
    """The output of this name."""
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
"""Layers that, apart from what they add, scale their output with their input."""

LIMIT = 1000
"""Powers of two that float64 has room for."""

LOW, HIGH = 2.0**-300, 2.0**300
"""The range that the flow along a chain is kept in."""


def chain(model: nn.Module, name: str) -> list[tuple[str, nn.Module]] | None:
    """The layers of a network that passes its input through homogeneous layers, one after the other; else None."""
    if model._forward_hooks or model._forward_pre_hooks or "forward" in vars(model):
        return None
    if type(model) is not nn.Sequential:
        return [(name, model)] if type(model) in HOMOGENEOUS else None
    parts = [chain(child, f"{name}.{key}".lstrip(".")) for key, child in model.named_children()]
    # a module that stands twice in a network is named once
    if None in parts or len(parts) < len(model):
        return None
    return [layer for part in parts if part for layer in part]


def flow_along(layers: Sequence[tuple[str, nn.Module]], x: Tensor) -> Tensor:
    """The summed output of a chain, times a power of two that keeps it in range; what layers add is scaled alike."""
    output, peaks = x, list[Tensor]()
    for _, layer in layers:
        output = layer(output)
        peaks.append(output.detach().max())
    if all(
        peak <= 0 or LOW < peak < HIGH for peak in read_scalars(peaks)
    ):  # almost always; a device is waited for once
        return output.sum()
    return rescaled_along(layers, x)


def rescaled_along(layers: Sequence[tuple[str, nn.Module]], x: Tensor) -> Tensor:
    """`flow_along` where the flow leaves its range: it is looked at, and brought back, behind every layer."""
    exponent = 0
    for name, layer in layers:
        given = what_is_added(layer) if exponent else {}
        if given and exponent > LIMIT:  # beside what is added, so small a flow is nothing
            x, exponent = x * math.ldexp(1.0, -exponent), 0
        if given and exponent:
            factor = math.ldexp(1.0, exponent)
            x = functional_call(layer, {key: value * factor for key, value in given.items()}, (x,))
        else:
            x = layer(x)
        peak = float(x.detach().max())
        if not math.isfinite(peak):
            raise CriterionError(f"synflow: the flow overflows float64 in {name!r}")
        if peak > 0 and not LOW < peak < HIGH:
            shift = min(LIMIT, -math.frexp(peak)[1])
            x, exponent = x * math.ldexp(1.0, shift), exponent + shift
    return x.sum()


def what_is_added(layer: nn.Module) -> dict[str, Tensor]:
    """The tensors of a layer that do not multiply its input, where they are not zero."""
    added = {key: getattr(layer, key, None) for key in ("bias", "running_mean")}
    return {key: value for key, value in added.items() if isinstance(value, Tensor) and bool(value.any())}


@torch.no_grad()
def overflowing_layer(model: nn.Module, inputs: Tensor) -> str:
    """The first module, in order of execution, whose output is not finite."""
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not all(bool(tensor.isfinite().all()) for tensor in floating(output)):
                found.append(name)

        return hook

    handles: list[RemovableHandle] = [
        module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name
    ]
    model(inputs)
    for handle in handles:
        handle.remove()
    return found[0] if found else "the output"
