"""A training step: losses, gradients, the optimiser's kernel, and the masks, without waiting for the device."""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from pai_bench.support.errors import UserError
from pai_bench.training.protocol import Protocol
from pai_bench.training.trainable_groups import TrainableGroup


class Step:
    """A step of torch's SGD or Adam on the parameters of a group, in one fused kernel.

    With `compile`, the losses are compiled by `torch.compile`. Raises `UserError` if no parameter requires a gradient.
    """

    def __init__(self, program: TrainableGroup, protocol: Protocol, *, compile: bool = False) -> None:
        self.program, self.enforcer, self.protocol = program, program.enforcer, protocol
        self.weights = [weight for weight in program.parameters if weight.requires_grad]
        if not self.weights:
            raise UserError("no parameter of the network takes a gradient: there is nothing to train")
        self._losses: Callable[[Tensor, Tensor], Tensor] = program.losses
        if compile:
            torch.compiler.reset()  # else only the first few networks of a process would be compiled
            self._losses = torch.compile(program.losses, dynamic=False)
        self._ones = torch.ones(program.lanes, device=self.weights[0].device, dtype=self.weights[0].dtype)
        names: tuple[str, ...] = ("momentum",) if protocol.momentum else ()  # from zero, the first is the gradient
        if protocol.optimizer == "adam":
            names = "average", "square"
        self._memory = {name: [torch.zeros_like(weight) for weight in self.weights] for name in names}
        if protocol.optimizer == "adam":
            self._memory["count"] = [torch.zeros((), device=weight.device) for weight in self.weights]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What the optimiser keeps from step to step, by name."""
        return {f"{name}.{i}": tensor for name, tensors in self._memory.items() for i, tensor in enumerate(tensors)}

    @property
    def plain(self) -> "Step":
        """The step itself; of a recorded one, that which was recorded."""
        return self

    def __call__(self, inputs: Tensor, targets: Tensor, rate: float | Tensor) -> Tensor:
        """The losses (lanes,) before the step, at the learning rate `rate`."""
        losses, gradients = self.gradients(inputs, targets)
        self.take(gradients, rate)
        return losses

    def gradients(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """The losses (lanes,), and their gradients by index of the weight, for those that have one."""
        losses = self._losses(inputs, targets)
        gradients = torch.autograd.grad(losses, self.weights, self._ones, allow_unused=True)
        self.program.join()
        with torch.no_grad():
            # as in torch's own optimisers, a weight without a gradient has no decay and no momentum
            pairs = {i: (self.weights[i], g) for i, g in enumerate(gradients) if g is not None}
            return losses.detach(), {i: laid_out_like(gradient, weight) for i, (weight, gradient) in pairs.items()}

    @torch.no_grad()
    def take(self, gradients: dict[int, Tensor], rate: float | Tensor) -> None:
        """The step itself, by the given gradients, which may be changed."""
        if self.protocol.clip_norm is not None:
            self.program.clip(gradients, self.protocol.clip_norm)
        self._change(gradients, rate)
        self.enforcer()

    def by_network(self, gradients: Mapping[int, Tensor]) -> list[dict[str, Tensor]]:
        """Gradients by parameter, of each network."""
        by_weight = {id(self.weights[i]): gradient for i, gradient in gradients.items()}
        return self.program.by_network([by_weight.get(id(weight)) for weight in self.program.parameters])

    @torch.no_grad()
    def forget(self, kept: Mapping[int, Tensor], *, everything: bool = False) -> None:
        """Set to zero what the optimiser keeps of removed weights: `kept` has a mask by the id of a weight tensor."""
        if everything:
            for tensor in self.tensors.values():
                tensor.zero_()
            return
        for name, tensors in self._memory.items():
            if name != "count":
                for weight, memory in zip(self.weights, tensors, strict=True):
                    if (keep := kept.get(id(weight))) is not None:
                        memory.mul_(keep)

    def sliced(self, model: nn.Module, shrink: Callable[[nn.Module], nn.Module]) -> dict[str, Tensor]:
        """What the optimiser keeps, of the network that `shrink` makes of `model`, the only one; as `tensors`."""
        names = [name for name, weight in model.named_parameters() if weight.requires_grad]
        found = dict[str, Tensor]()
        for part, tensors in self._memory.items():
            sliced: Sequence[Tensor] = tensors
            if part != "count":
                carrier = copy.deepcopy(model)
                for name, memory in zip(names, tensors, strict=True):
                    carrier.get_parameter(name).data = memory.clone()
                smaller = shrink(carrier)
                sliced = [smaller.get_parameter(name).detach() for name in names]
            found |= {f"{part}.{i}": tensor for i, tensor in enumerate(sliced)}
        return found

    def _change(self, gradients: dict[int, Tensor], rate: float | Tensor) -> None:
        """Update the weights at the indices of `gradients`."""
        protocol, weights = self.protocol, [self.weights[i] for i in gradients]
        memory = {name: [tensors[i] for i in gradients] for name, tensors in self._memory.items()}
        if protocol.optimizer == "adam":
            adam(
                weights,
                list(gradients.values()),
                memory["average"],
                memory["square"],
                [],
                memory["count"],
                fused=True,
                capturable=isinstance(rate, Tensor),
                amsgrad=False,
                beta1=protocol.momentum,
                beta2=0.999,
                lr=rate,
                weight_decay=protocol.weight_decay,
                eps=1e-8,
                maximize=False,
            )
            return
        sgd(
            weights,
            list(gradients.values()),
            [*memory["momentum"]] if memory else [None] * len(weights),
            fused=True,
            weight_decay=protocol.weight_decay,
            momentum=protocol.momentum,
            lr=rate,
            dampening=0.0,
            nesterov=protocol.nesterov,
            maximize=False,
        )


def laid_out_like(gradient: Tensor, weight: Tensor) -> Tensor:
    """A gradient in the memory layout of its weight, as the optimiser's kernel needs it."""
    if gradient.layout is not torch.strided:  # of an embedding with sparse gradients
        gradient = gradient.to_dense()
    return gradient if gradient.stride() == weight.stride() else torch.empty_like(weight).copy_(gradient)
