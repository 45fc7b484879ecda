"""What a training step is done to: one network, or several of one kind at once, their parameters stacked in lanes."""

import copy
import pickle
import random
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from pai_bench.errors import UserError

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
        with Decomposed():
            found: Tensor = torch.vmap(one, in_dims=(0, 0, dim))(self.state, self.buffers, inputs)
        return found

    @torch.no_grad()
    def finish(self) -> None:
        for stacked, of in ((self.state, nn.Module.named_parameters), (self.buffers, nn.Module.named_buffers)):
            for lane, model in enumerate(self.models):
                for name, tensor in of(model):
                    tensor.copy_(stacked[name][lane])


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


def refuse_chance(model: nn.Module) -> None:
    """Refuse lanes to a network that draws at random: what a lane draws would depend on those beside it."""
    for name, module in model.named_modules():
        if (isinstance(module, _DropoutNd) and module.p) or (isinstance(module, nn.RNNBase) and module.dropout):
            raise UserError(f"{name!r} draws at random in training, so that each network has to be trained alone")


def refuse_ties(model: nn.Module) -> None:
    """Refuse lanes to a network in which a tensor has two names, of which only one would be stacked."""
    for named in (model.named_parameters, model.named_buffers):
        once = dict(named())
        if two := [name for name, _ in named(remove_duplicate=False) if name not in once]:
            raise UserError(f"{two[0]!r} is another name of a tensor that has one")


def refuse_hooks(model: nn.Module) -> None:
    """Refuse lanes to a network whose parameters have hooks, which see no gradient of a lane."""
    for name, weight in model.named_parameters():
        if weight._backward_hooks or weight._post_accumulate_grad_hooks:
            raise UserError(f"{name!r} has a hook on its gradient")


def difference(
    apart: Sequence[nn.Module], together: Sequence[nn.Module], inputs: Tensor, targets: Tensor
) -> str | None:
    """What tells networks that are trained in lanes from equal ones that are trained `apart`, after two steps.

    None if nothing does. Raises what torch does where it cannot make lanes of them.
    """
    refuse_chance(apart[0])
    refuse_ties(apart[0])
    refuse_hooks(apart[0])
    start = [{name: value.clone() for name, value in tensors(model).items()} for model in apart]
    lanes, count = Lanes(together, [None] * len(together)), len(together)
    before = beside_tensors(lanes.module)
    losses = [steps(lanes, torch.stack([inputs] * count), torch.stack([targets] * count))]
    logits = lanes.logits(inputs)
    if beside_tensors(lanes.module) != before:
        return "it draws at random in training, or keeps a state of its own"
    lanes.finish()
    alone = [Alone(model) for model in apart]
    losses.append(torch.cat([steps(program, inputs[None], targets[None]) for program in alone], 1))
    pairs = {"losses": (losses[0], losses[1]), "outputs": (logits, torch.cat([one.logits(inputs) for one in alone]))}
    for name, (lane, alike) in pairs.items():
        if not torch.allclose(lane, alike, rtol=1e-3, atol=1e-3, equal_nan=True):
            return f"in lanes, its {name} would differ"
    for one, other, begun in zip(together, apart, start, strict=True):
        found = tensors(one)
        for name, value in tensors(other).items():
            if not changed_alike(begun[name], found[name], value):
                return f"in lanes, its {name} would differ"
    return None


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, also those that are not saved."""
    return {name: value.detach() for of in (model.named_parameters(), model.named_buffers()) for name, value in of}


def changed_alike(start: Tensor, one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have changed from `start` by the same, up to rounding: a hundredth of the largest change."""
    start, one, other = start.double(), one.double(), other.double()
    if not start.numel():
        return True
    largest = max(float((one - start).abs().max()), float((other - start).abs().max()))
    rounding = 1e-6 * float(start.abs().max())
    return bool(torch.allclose(one, other, rtol=0, atol=0.01 * largest + rounding, equal_nan=True))


def chance() -> bytes:
    """The states of all generators that a network may draw from without being asked."""
    return pickle.dumps((torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()))


def beside_tensors(module: nn.Module, *, attributes: bool = False) -> list[object]:
    """What a step may change of a network besides the content of its tensors, to be compared with the same later.

    Numbers, texts and containers, states of generators, and which tensors are its parameters and buffers; with
    `attributes`, also which tensors are its other attributes. What cannot be compared is never the same.
    """
    found: list[object] = [chance()]
    for part in module.modules():
        for name, value in vars(part).items():
            if name != "training" and (attributes or not isinstance(value, Tensor)):
                found.append((name, content(value, tensors=attributes)))
    return found


def content(value: object, *, tensors: bool = True) -> object:
    """Something that is equal to what it was before if `value` is; without `tensors`, whichever those may be."""
    if isinstance(value, weakref.ref):
        return content(value(), tensors=tensors)
    if isinstance(value, Tensor) and not tensors:
        return "a tensor"  # recurrent layers keep lists of their weights, which differ in every functional call
    if isinstance(value, (Tensor, nn.Module)) or callable(value):
        return Same(value)
    if isinstance(value, torch.Generator):
        return bytes(value.get_state().tolist())
    if isinstance(value, Mapping):
        return [(content(key, tensors=tensors), content(one, tensors=tensors)) for key, one in value.items()]
    if isinstance(value, (list, tuple)):
        return [content(one, tensors=tensors) for one in value]
    try:
        return pickle.dumps(value)
    except Exception:  # whatever it is, it does not say what it holds
        return object()


@dataclass(frozen=True, eq=False)
class Same:
    """Stands for one object, and keeps it, so that no other comes to lie where it lay."""

    held: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.held is other.held

    def __hash__(self) -> int:
        return id(self.held)


def steps(program: Program, inputs: Tensor, targets: Tensor) -> Tensor:
    """The losses (2, lanes) of two steps of plain gradient descent."""
    found = []
    weights = [weight for weight in program.parameters if weight.requires_grad]
    for _ in range(2):
        losses = program.losses(inputs, targets)
        gradients = torch.autograd.grad(losses.sum(), weights, materialize_grads=True)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.sub_(gradient, alpha=0.01)
        found.append(losses.detach())
    return torch.stack(found)


@torch.no_grad()
def prepare_layout(model: nn.Module, examples: Tensor) -> None:
    """Lay out convolution weights channels-last, in which both oneDNN and cuDNN are fastest on small networks.

    A network that cannot be run on `examples` like this, as one that calls ``view`` on a feature map, stays as it was.
    A copy is tried, since a network may change its buffers when it runs.
    """
    if any(isinstance(module, nn.Conv2d) for module in model.modules()):
        try:
            lay_out(copy.deepcopy(model).eval())(examples)
        except Exception:  # whatever keeps it from being copied or run
            return
        lay_out(model)


def lay_out(model: nn.Module) -> nn.Module:
    """The same network, its weights of two-dimensional convolutions channels-last."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    return model
