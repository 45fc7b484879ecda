"""What a training step is done to: one network, or several of one kind at once, their parameters stacked in lanes."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F

from pai_bench.training.stacked_layers import StackedLayers

Masks = Sequence[Mapping[str, Tensor] | None]


class Program(ABC):
    """Networks that are trained together. Whatever has a first dimension of lanes has one entry for each of them."""

    lanes: int
    parameters: Sequence[Tensor]
    """What the optimiser changes."""
    module: nn.Module
    """What computes the outputs."""
    exact: "Exact"
    """Makes zeros of what the masks remove."""

    @abstractmethod
    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of every lane, in training mode, on inputs (lanes, batch, ...), targets (lanes, batch)."""

    @abstractmethod
    def logits(self, inputs: Tensor, *, by_lane: bool = False) -> Tensor:
        """(lanes, batch, classes), in evaluation mode, of inputs (batch, ...), or `by_lane` (lanes, batch, ...)."""

    @abstractmethod
    def finish(self) -> None:
        """Put what was learnt into the networks that the program was made of."""


class Alone(Program):
    """One network, as it is."""

    def __init__(self, model: nn.Module, mask: Mapping[str, Tensor] | None = None) -> None:
        self.module, self.lanes, self.parameters = model, 1, list(model.parameters())
        for weight in self.parameters:  # the optimiser's kernel goes through memory in order
            if weight.layout is torch.strided and torch.empty_like(weight).stride() != weight.stride():
                weight.data = weight.data.contiguous()
        self._training: bool | None = None
        self.exact = Exact([model.get_parameter(name) for name in mask or ()], list((mask or {}).values()))

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        self._be(training=True)
        return F.cross_entropy(self.module(inputs[0]), targets[0]).unsqueeze(0)

    def logits(self, inputs: Tensor, *, by_lane: bool = False) -> Tensor:
        self._be(training=False)
        found: Tensor = self.module(inputs[0] if by_lane else inputs)
        return found[None]

    def _be(self, *, training: bool) -> None:
        if self._training is not training:  # going through all modules at every step would be seen
            self._training = training
            self.module.train(training)

    def finish(self) -> None:
        pass


class Lanes(Program):
    """Several networks of one kind: parameters and buffers stacked, one batched pass for all of them (`torch.vmap`).

    Every lane computes what its network would compute alone, with its own mask and its own batch statistics; only sums
    may be taken in another order.
    """

    def __init__(self, models: Sequence[nn.Module], masks: Masks) -> None:
        self.models, self.lanes = models, len(models)
        if any(isinstance(module, nn.RNNBase) for module in models[0].modules()):
            # in single precision they take oneDNN's layer, lane by lane, which is faster still: no reason to warn
            torch._C._functorch._set_vmap_fallback_warning_enabled(False)  # type: ignore[attr-defined]
        for model in models:
            model.train()
        self.module = copy.deepcopy(models[0]).to("meta")
        self.state, self.buffers = stack_module_state(list(models))
        self.parameters = list(self.state.values())
        names = [name for name in self.state if any(mask is not None and name in mask for mask in masks)]
        whole = {name: torch.ones_like(self.state[name][0], dtype=torch.bool) for name in names}
        keeps = [torch.stack([whole[n] if m is None or n not in m else m[n] for m in masks]) for n in names]
        self.exact = Exact([self.state[name] for name in names], keeps)

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        logits = self._run(inputs, 0, training=True)
        lanes, batch = targets.shape
        flat = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return flat.view(lanes, batch).mean(1)

    def logits(self, inputs: Tensor, *, by_lane: bool = False) -> Tensor:
        return self._run(inputs, 0 if by_lane else None, training=False)

    def _run(self, inputs: Tensor, dim: int | None, *, training: bool) -> Tensor:
        def one(state: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Any:
            return functional_call(self.module, (state, buffers), (x,))

        self.module.train(training)
        with StackedLayers():
            found: Tensor = torch.vmap(one, in_dims=(0, 0, dim))(self.state, self.buffers, inputs)
        return found

    @torch.no_grad()
    def finish(self) -> None:
        for stacked, of in ((self.state, nn.Module.named_parameters), (self.buffers, nn.Module.named_buffers)):
            for lane, model in enumerate(self.models):
                for name, tensor in of(model):
                    tensor.copy_(stacked[name][lane])


class Exact:
    """Sets removed weights to zero, all layers in one call."""

    def __init__(self, weights: Sequence[Tensor], keeps: Sequence[Tensor]) -> None:
        self.weights = list(weights)
        self.factors = [
            torch.empty_like(weight, requires_grad=False).copy_(keep)
            for weight, keep in zip(weights, keeps, strict=True)
        ]

    @torch.no_grad()
    def __call__(self) -> None:
        if self.weights:
            torch._foreach_mul_(self.weights, self.factors)
