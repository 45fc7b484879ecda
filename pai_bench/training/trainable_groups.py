"""Networks that a training step changes: one, or several of the same architecture at once, one in each lane."""

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F

from pai_bench.masks.application import MaskEnforcer
from pai_bench.support.torch_internals import foreach_mul_, foreach_norm, set_vmap_fallback_warning
from pai_bench.training.layout import channels_last_weights, stacked_channels_last
from pai_bench.training.stacked_layers import StackedLayers

CLIPPED = 1e-6
"""Added to a norm before dividing by it, as in torch."""

Masks = Sequence[Mapping[str, Tensor] | None]
"""A mask for each network, or None."""


class TrainableGroup(ABC):
    """Networks that are trained together. A dimension of lanes has one entry for each network."""

    lanes: int
    parameters: Sequence[Tensor]
    """The tensors that the optimiser changes."""
    module: nn.Module
    """The module that computes the outputs."""
    enforcer: MaskEnforcer
    """Sets removed weights to zero."""
    names: Sequence[str]
    """Parameters that masks cover, in the order of `enforcer`."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The parameters and buffers, which training changes in place, by name."""
        return {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}

    def keeps(self, masks: "Masks") -> list[Tensor]:
        """The masks of the parameters that `enforcer` covers, in its order; `masks` are those of the networks."""
        for mask in masks:
            for name, keep in (mask or {}).items():
                if name not in self.names:
                    raise ValueError(f"no mask covered {name!r} when training began")
                if keep.shape != (shape := self.shape(name)):
                    raise ValueError(f"a mask of {name!r} has shape {tuple(keep.shape)}, not {tuple(shape)}")
        return self._keeps(masks)

    @abstractmethod
    def shape(self, name: str) -> torch.Size:
        """The shape of a parameter in one network."""

    def resume(self) -> None:  # noqa: B027  # most set the mode in each step
        """Continue after an event, which may have changed the mode of the networks."""

    @abstractmethod
    def _keeps(self, masks: "Masks") -> list[Tensor]:
        """`keeps` without checks."""

    def masks(self) -> list[Mapping[str, Tensor]]:
        """The present mask of each network."""
        return [dict(zip(self.names, keeps, strict=True)) for keeps in self._by_network(self.enforcer.keeps())]

    def _by_network(self, keeps: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        """The inverse of `_keeps`: the masks of each network, in the order of `names`."""
        return [keeps]

    @abstractmethod
    def by_network(self, tensors: Sequence[Tensor | None]) -> list[dict[str, Tensor]]:
        """Tensors that are like `parameters`, or missing, for each network by the names of its parameters."""

    @abstractmethod
    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy (lanes,) in training mode, of inputs (lanes, batch, ...) and targets (lanes, batch)."""

    @abstractmethod
    def logits(self, inputs: Tensor, *, by_lane: bool = False) -> Tensor:
        """Logits (lanes, batch, classes) in eval mode, of inputs (batch, ...), or `by_lane` (lanes, batch, ...)."""

    def join(self) -> None:  # noqa: B027  # most use the current stream only
        """Make the current stream of the device wait for the other streams of the group."""

    @torch.no_grad()
    def clip(self, gradients: Mapping[int, Tensor], limit: float) -> None:
        """Scale the gradient of each network down to the norm `limit`, in place; keys are indices of weights."""
        _shorten(list(gradients.values()), limit)

    def finish(self) -> None:  # noqa: B027  # most change the networks themselves
        """Copy the trained weights into the networks."""


class SingleModel(TrainableGroup):
    """A single network."""

    def __init__(self, model: nn.Module, mask: Mapping[str, Tensor] | None = None) -> None:
        self.module, self.lanes, self.parameters = model, 1, list(model.parameters())
        for weight in self.parameters:  # the optimiser's kernel is fastest in order of memory
            if weight.layout is torch.strided and torch.empty_like(weight).stride() != weight.stride():
                weight.data = weight.data.contiguous()
        self._training: bool | None = None
        self.names = list(mask or ())
        self.enforcer = MaskEnforcer([model.get_parameter(name) for name in self.names], self._keeps([mask]))

    def shape(self, name: str) -> torch.Size:
        return self.module.get_parameter(name).shape

    def resume(self) -> None:
        self._training = None

    def _keeps(self, masks: Masks) -> list[Tensor]:
        (mask,) = masks
        return [kept_of(mask, name, self.module.get_parameter(name)) for name in self.names]

    def by_network(self, tensors: Sequence[Tensor | None]) -> list[dict[str, Tensor]]:
        pairs = zip(self.module.named_parameters(), tensors, strict=True)
        return [{name: tensor for (name, _), tensor in pairs if tensor is not None}]

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        self._be(training=True)
        return F.cross_entropy(self.module(inputs[0]), targets[0]).unsqueeze(0)

    def logits(self, inputs: Tensor, *, by_lane: bool = False) -> Tensor:
        self._be(training=False)
        logits: Tensor = self.module(inputs[0] if by_lane else inputs)
        return logits[None]

    def _be(self, *, training: bool) -> None:
        if self._training is not training:  # setting all modules in each step takes measurable time
            self._training = training
            self.module.train(training)


class StackedModels(TrainableGroup):
    """Several networks of the same architecture, with stacked parameters and buffers, in one pass by `torch.vmap`.

    Each lane computes the same as its network alone, with its own mask and batch statistics, up to the order of sums.
    """

    def __init__(self, models: Sequence[nn.Module], masks: Masks) -> None:
        self.models, self.lanes = models, len(models)
        if any(isinstance(module, nn.RNNBase) for module in models[0].modules()):
            # in float32, oneDNN's layer is called lane by lane, which is faster: no reason to warn
            set_vmap_fallback_warning(False)
        for model in models:
            model.train()
        self.module = copy.deepcopy(models[0]).to("meta")
        self.state, self.buffers = stack_module_state(list(models))
        for name in channels_last_weights(models[0]):
            self.state[name].data = stacked_channels_last(self.state[name].data)
        self.parameters = list(self.state.values())
        self.names = [name for name in self.state if any(mask is not None and name in mask for mask in masks)]
        self.enforcer = MaskEnforcer([self.state[name] for name in self.names], self._keeps(masks))

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {**self.state, **self.buffers}

    def shape(self, name: str) -> torch.Size:
        return torch.Size(self.state[name].shape[1:])

    def _keeps(self, masks: Masks) -> list[Tensor]:
        return [torch.stack([kept_of(mask, name, self.state[name][0]) for mask in masks]) for name in self.names]

    def _by_network(self, keeps: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        return [[keep[lane] for keep in keeps] for lane in range(self.lanes)]

    def by_network(self, tensors: Sequence[Tensor | None]) -> list[dict[str, Tensor]]:
        pairs = [(name, tensor) for name, tensor in zip(self.state, tensors, strict=True) if tensor is not None]
        return [{name: tensor[lane] for name, tensor in pairs} for lane in range(self.lanes)]

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        logits = self._run(inputs, 0, training=True)
        lanes, batch = targets.shape
        flat = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return flat.view(lanes, batch).mean(1)

    def logits(self, inputs: Tensor, *, by_lane: bool = False) -> Tensor:
        return self._run(inputs, 0 if by_lane else None, training=False)

    @torch.no_grad()
    def clip(self, gradients: Mapping[int, Tensor], limit: float) -> None:
        squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients.values()])
        factors = (limit / (squares.sum(0).sqrt() + CLIPPED)).clamp(max=1.0)
        for gradient in gradients.values():
            gradient.mul_(factors.view(-1, *(1,) * (gradient.dim() - 1)))

    def _run(self, inputs: Tensor, dim: int | None, *, training: bool) -> Tensor:
        def single(state: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Any:
            return functional_call(self.module, (state, buffers), (x,))

        self.module.train(training)
        with StackedLayers():
            logits: Tensor = torch.vmap(single, in_dims=(0, 0, dim))(self.state, self.buffers, inputs)
        return logits

    @torch.no_grad()
    def finish(self) -> None:
        for stacked, of in ((self.state, nn.Module.named_parameters), (self.buffers, nn.Module.named_buffers)):
            for lane, model in enumerate(self.models):
                for name, tensor in of(model):
                    tensor.copy_(stacked[name][lane])


class Branches(TrainableGroup):
    """Several separate networks, on a CUDA device each in its own stream.

    Each computes bit for bit the same as alone, with the same kernels. Recorded as one graph, they share the device
    without waiting for the processor, which is faster than stacked models where their kernels are slow, as those of
    grouped convolutions are.
    """

    def __init__(self, models: Sequence[nn.Module], masks: Masks) -> None:
        self.lanes, self.names = len(models), list(dict.fromkeys(name for mask in masks for name in mask or ()))
        self.branches = [SingleModel(model) for model in models]
        self.module = nn.ModuleList(models)
        self.parameters = [weight for branch in self.branches for weight in branch.parameters]
        if len({id(weight) for weight in self.parameters}) < len(self.parameters):
            raise ValueError("branches share a parameter, so that each would train the others")
        weights = [model.get_parameter(name) for model in models for name in self.names]
        self.enforcer = MaskEnforcer(weights, self._keeps(masks), all_at_once=True)
        device = self.parameters[0].device
        self._streams = branch_streams(device, len(models)) if device.type == "cuda" else None

    def shape(self, name: str) -> torch.Size:
        return self.branches[0].shape(name)

    def resume(self) -> None:
        for branch in self.branches:
            branch.resume()

    def _keeps(self, masks: Masks) -> list[Tensor]:
        pairs = [(mask, branch.module) for mask, branch in zip(masks, self.branches, strict=True)]
        return [kept_of(mask, name, model.get_parameter(name)) for mask, model in pairs for name in self.names]

    def _by_network(self, keeps: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        return [keeps[i : i + len(self.names)] for i in range(0, len(keeps), max(1, len(self.names)))]

    def by_network(self, tensors: Sequence[Tensor | None]) -> list[dict[str, Tensor]]:
        each = len(tensors) // self.lanes
        parts = [tensors[lane * each : (lane + 1) * each] for lane in range(self.lanes)]
        return [branch.by_network(part)[0] for branch, part in zip(self.branches, parts, strict=True)]

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return torch.cat(self._each(lambda i, branch: branch.losses(inputs[i : i + 1], targets[i : i + 1])))

    def logits(self, inputs: Tensor, *, by_lane: bool = False) -> Tensor:
        return torch.cat(self._each(lambda i, branch: branch.logits(inputs[i] if by_lane else inputs)))

    def _each(self, work: Callable[[int, SingleModel], Tensor]) -> list[Tensor]:
        """The results of `work` for all branches, for use on the current stream."""
        if self._streams is None:
            return [work(i, branch) for i, branch in enumerate(self.branches)]
        results, current = [], torch.cuda.current_stream(self.parameters[0].device)
        for i, (branch, stream) in enumerate(zip(self.branches, self._streams, strict=True)):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                results.append(work(i, branch))
        self.join()
        return results

    def clip(self, gradients: Mapping[int, Tensor], limit: float) -> None:
        first = 0
        for branch in self.branches:
            last = first + sum(weight.requires_grad for weight in branch.parameters)
            branch.clip({i: gradient for i, gradient in gradients.items() if first <= i < last}, limit)
            first = last

    def join(self) -> None:
        for stream in self._streams or ():
            torch.cuda.current_stream(self.parameters[0].device).wait_stream(stream)


MOST_STREAMS = 31
"""Of the 32 streams that torch has for a device, one is for recordings."""


@functools.cache
def _streams(device: torch.device) -> list["torch.cuda.Stream"]:
    return [torch.cuda.Stream(device) for _ in range(MOST_STREAMS)]


def branch_streams(device: torch.device, count: int) -> list["torch.cuda.Stream"]:
    """Streams for `count` branches, the same for all groups, since libraries keep a workspace for each stream."""
    streams = _streams(device)
    return [streams[i % MOST_STREAMS] for i in range(count)]


def _shorten(gradients: list[Tensor], limit: float) -> None:
    """Scale a gradient, given in parts, down to the norm `limit`, as `torch.nn.utils.clip_grad_norm_` does."""
    if gradients:
        norm = torch.linalg.vector_norm(torch.stack(foreach_norm(gradients)))
        foreach_mul_(gradients, (limit / (norm + CLIPPED)).clamp(max=1.0))


def kept_of(mask: Mapping[str, Tensor] | None, name: str, weight: Tensor) -> Tensor:
    """The mask of a weight; all ``True`` if `mask` does not name it."""
    if mask is None or name not in mask:
        return torch.ones_like(weight, dtype=torch.bool)
    return mask[name]
