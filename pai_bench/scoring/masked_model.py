"""The network that a formula sees: a private copy under the current mask, with methods for derivatives.

The loss L is the mean cross-entropy of the network's logits over the batch, or what the criterion's option ``loss``
says, or the batch's own ``loss``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pai_bench.groups.groups import Groups
from pai_bench.networks.forward import RECOMPUTATION, RecomputationError, no_recomputation
from pai_bench.networks.private_copy import BATCH_NORMS, copied, shared
from pai_bench.scoring.batch import Batch, BatchLike, Scores, as_batch
from pai_bench.scoring.double_backward import TwiceDifferentiable
from pai_bench.scoring.loss import loss_of
from pai_bench.scoring.options import CriterionOptions
from pai_bench.support.errors import CriterionError, UserError
from pai_bench.support.torch_internals import NON_PERSISTENT_BUFFERS, REGISTRIES

Elementwise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``f(w, g, L)``: a score from a weight, a derivative and the value that was differentiated, element by element.

It is called with pieces of tensors, and may write its result into the derivative.
"""

Objective = Callable[["MaskedModel", Batch], Tensor]
"""A scalar function of the network and a batch: the mean over the examples, if it depends on them."""

BLOCK = 2**15
"""Elements per piece of a tensor, so that a few pieces and their intermediate results fit into a processor's cache."""


SHARED = (*REGISTRIES, NON_PERSISTENT_BUFFERS, "training")
"""Attributes that a masked model shares with its network, so that a change of one is a change of the other."""


class MaskedModel(nn.Module):
    """A private copy of a network, which computes with the masked weights.

    It is called as the original is, and its parameters, buffers and modules have the same names. Anything else of the
    original, such as its class, is on `network`. All methods return tensors by parameter name, of the shapes and on the
    device of the parameters, for the scored parameters only.

    Methods with a batch raise `UserError` for a batch that does not fit the network, or outputs that are not logits
    without a loss.
    """

    network: nn.Module
    """The copy itself, of the class of the original."""
    options: CriterionOptions
    """The criterion that computes the scores."""
    prunable: Mapping[str, nn.Parameter]
    """The scored parameters by name, masked."""
    dense: Mapping[str, Tensor]
    """The same weights without the mask."""
    mask: Mapping[str, Tensor] | None
    """The current mask, by name; None before the first cut."""
    returns: bool
    """Whether a removed connection may be kept again, so that its score matters."""
    seed: int
    """The seed of the criterion's random numbers."""
    state: dict[str, Any]
    """What a criterion keeps from one cut to the next, under its own keys."""
    groups: Groups | None
    """What a structured criterion scores; None for others."""
    signed: bool
    """Whether saliencies get the sign of w * g, for sums over the weights of a unit."""
    honoured: set[str]
    """The options of the criterion that the formula has used, by calling methods."""

    def __init__(self, network: nn.Module, names: Sequence[str], options: CriterionOptions, seed: int) -> None:
        super().__init__()
        vars(self).update({name: vars(network)[name] for name in SHARED})
        self.network, self.options, self.seed, self.state = network, options, seed, {}
        self.prunable = {name: network.get_parameter(name) for name in names}
        self.dense, self.mask, self.returns, self.honoured = {}, None, True, set()
        self.groups, self.signed = None, False

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The output of the network."""
        return self.network(*inputs, **options)

    def named_modules(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, nn.Module]]:
        """All modules of the network, itself first."""
        modules: Iterator[tuple[str, nn.Module]] = self.network.named_modules(*arguments, **options)
        return modules

    def __getattr__(self, name: str) -> Any:
        if (network := vars(self).get("network")) is None:
            raise AttributeError(name)
        return getattr(network, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in MaskedModel.__annotations__:  # even if a part of the network has that name
            vars(self)[name] = value
        else:
            super().__setattr__(name, value)

    def get_submodule(self, target: str) -> nn.Module:
        """The module of that name."""
        return self.network.get_submodule(target)

    def get_parameter(self, target: str) -> nn.Parameter:
        """The parameter of that name."""
        return self.network.get_parameter(target)

    def get_buffer(self, target: str) -> Tensor:
        """The buffer of that name."""
        return self.network.get_buffer(target)

    def _get_name(self) -> str:
        return type(self.network).__name__

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        return copied(self.network, memo)

    def weights(self) -> dict[str, Tensor]:
        """The dense weights w, also at positions that the current mask removes."""
        return {name: shared(weight) for name, weight in self.dense.items()}

    def uniform(self) -> Scores:
        """Independent uniform scores in [0, 1) from the criterion's random state, the same on every device."""
        return {
            name: torch.rand(parameter.shape, dtype=torch.float64, device="cpu").to(parameter.device)
            for name, parameter in self.prunable.items()
        }

    def loss(self, batch: BatchLike, *, temperature: float = 1.0) -> Tensor:
        """L, the mean over `batch` of the loss of (logits / `temperature`): a scalar with a gradient."""
        self.honoured.add("loss")
        return loss_of(self, as_batch(batch), temperature=temperature, nll=self.options.loss == "nll")

    def saliencies(self, batch: BatchLike, formula: Elementwise, *, of: Objective | None = None) -> Scores:
        """``formula(w, g, L)`` for every scored weight, with ``g = dL/dw`` and L the loss, or the objective `of`.

        w is the dense weight, or zero at removed positions if they cannot return. g is that of the masked network, at
        every position, removed ones included. `formula` is applied element by element, as soon as backpropagation has
        computed a gradient, in its memory. Score batches and micro-batches follow the criterion's options.
        """
        of = MaskedModel.loss if of is None else of
        formula = with_sign(formula) if self.signed else formula
        return self._accumulated(as_batch(batch), formula, lambda _group: lambda piece: of(self, piece))

    def hessian_saliencies(
        self, batch: BatchLike, formula: Elementwise, *, temperature: float = 1.0, kept_only: bool = False
    ) -> Scores:
        """``formula(w, H g, g.g)`` for every scored weight, with g = dL/dw and the Hessian H of L at `temperature`.

        ``H g`` is the gradient of ``g . stop_gradient(g)``, so that both derivatives use one graph. With several
        micro-batches, g takes an additional pass. With `kept_only`, g is zero at connections that the mask removes.
        """
        parameters = list(self.prunable.values())
        kept = None if self.mask is None or not kept_only else [self.mask[name] for name in self.prunable]

        def energy(group: Batch) -> Callable[[Batch], Tensor]:
            whole = None
            if len(self._pieces(group)) > 1:
                gradients = self._gradients(group, temperature)[1]
                whole = [gradients[name] for name in self.prunable]

            def of(piece: Batch) -> Tensor:
                try:
                    with differentiable(self, twice=True), no_recomputation():
                        value = self.loss(piece, temperature=temperature)
                except (RecomputationError, RuntimeError) as error:  # torch's own functions work, more slowly
                    if RECOMPUTATION not in str(error):
                        raise
                    value = self.loss(piece, temperature=temperature)
                own = torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)
                against = [g.detach() for g in own] if whole is None else whole
                if kept is not None:
                    against = [g * keep for g, keep in zip(against, kept, strict=True)]
                return torch.stack([(g * v).sum() for g, v in zip(own, against, strict=True)]).sum()

            return of

        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            return self._accumulated(as_batch(batch), formula, energy)

    def loss_and_gradients(self, batch: BatchLike) -> tuple[Tensor, dict[str, Tensor]]:
        """L, a scalar without a gradient, and ``g = dL/dw`` at every position, removed ones included.

        Raises `CriterionError` with ``accumulate=score`` and several score batches, which need `saliencies`.
        """
        batch = as_batch(batch)
        if self.options.accumulate == "score" and batch.batches > 1:
            raise CriterionError(
                f"{self.options} takes gradients of all score batches together; accumulate=score needs saliencies()"
            )
        value, gradients = self._gradients(batch)
        return value, {name: gradients[name] for name in self.prunable}

    def gradients(self, batch: BatchLike) -> dict[str, Tensor]:
        """``g = dL/dw`` at every position, removed ones included: the second part of `loss_and_gradients`."""
        return self.loss_and_gradients(batch)[1]

    def hessian_gradient_product(self, batch: BatchLike, *, temperature: float = 1.0) -> dict[str, Tensor]:
        """``H g``, with g = dL/dw and the Hessian H of L, the loss of (logits / `temperature`)."""
        return self.hessian_saliencies(batch, lambda _w, hg, _value: hg, temperature=temperature)

    def _gradients(self, batch: Batch, temperature: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
        gradients: dict[str, Tensor] = {}

        def objective(piece: Batch) -> Tensor:
            return self.loss(piece, temperature=temperature)

        value = self._differentiate(batch, objective, lambda name, g, _value: gradients.update({name: g}))
        return value, gradients

    def _accumulated(
        self, batch: Batch, formula: Elementwise, objective: Callable[[Batch], Callable[[Batch], Tensor]]
    ) -> Scores:
        """Scores of the whole batch, or the sum of the scores of each score batch, by the option ``accumulate``."""
        scores: Scores = {}

        def finish(name: str, derivative: Tensor, value: Tensor) -> None:
            weight = self.dense[name] if self.returns else self.prunable[name].detach()
            score = by_blocks(formula, weight, derivative, value)
            scores[name] = score if name not in scores else scores[name].add_(score)

        groups = batch.split() if self.options.accumulate == "score" else [batch]
        for group in groups:
            self._differentiate(group, objective(group), finish)
        return {name: scores[name] for name in self.prunable}

    def _differentiate(
        self, batch: Batch, objective: Callable[[Batch], Tensor], finish: Callable[[str, Tensor, Tensor], None]
    ) -> Tensor:
        """The mean of `objective` over the pieces of `batch`; `finish` gets each derivative when it is complete."""
        pieces = self._pieces(batch)
        names = {id(parameter): name for name, parameter in self.prunable.items()}
        value = torch.zeros((), device=batch.inputs.device)
        handles = []

        def ready(parameter: Tensor) -> None:
            derivative, parameter.grad = parameter.grad, None
            assert derivative is not None
            finish(names.pop(id(parameter)), derivative, value)

        try:
            for i, piece in enumerate(pieces):
                with differentiable(self):
                    part = objective(piece) * (len(piece.inputs) / len(batch.inputs))
                    value = value + part.detach()
                    if i == len(pieces) - 1:
                        handles = [p.register_post_accumulate_grad_hook(ready) for p in self.prunable.values()]
                    if part.requires_grad:
                        part.backward(inputs=list(self.prunable.values()))
            for parameter in self.prunable.values():
                if id(parameter) in names:  # the last piece did not reach it
                    parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    ready(parameter)
        finally:
            for handle in handles:
                handle.remove()
            for parameter in self.prunable.values():
                parameter.grad = None
        return value

    def _pieces(self, batch: Batch) -> Sequence[Batch]:
        """The score batches of `batch`, divided into micro-batches by the criterion's option."""
        self.honoured |= {"micro_batch", "accumulate"}
        size = self.options.micro_batch
        if size is not None and size < len(batch.inputs) // batch.batches:
            for name, module in self.named_modules():
                if isinstance(module, BATCH_NORMS) and (module.training or module.running_mean is None):
                    raise UserError(
                        f"micro_batch={size} would give {name!r} the statistics of {size} examples in place of the "
                        "whole batch's: use bn=eval with running statistics, or a smaller score batch"
                    )
        return batch.split(size)


def by_blocks(formula: Elementwise, weight: Tensor, derivative: Tensor, value: Tensor) -> Tensor:
    """``formula`` of tensors of any size, piece by piece in order of memory, so that the work stays in the cache."""
    whole = weight.numel() <= BLOCK or weight.device.type != "cpu"
    if whole or not (weight.is_contiguous() and derivative.is_contiguous()):
        return formula(weight, derivative, value)
    for w, d in zip(weight.view(-1).split(BLOCK), derivative.view(-1).split(BLOCK), strict=True):
        if (piece := formula(w, d, value)) is not d:
            d.copy_(piece)
    return derivative


def with_sign(formula: Elementwise) -> Elementwise:
    r"""``formula`` with the sign of w * g: of \|w g\|, w g."""

    def signed(w: Tensor, g: Tensor, value: Tensor) -> Tensor:
        product = w * g  # before the formula, which may write into g
        return formula(w, g, value).copysign(product)

    return signed


@contextmanager
def differentiable(model: nn.Module, *, twice: bool = False) -> Iterator[None]:
    """A block with kernels that have a derivative, or with `twice` a second one; cuDNN's recurrent ones have none."""
    with ExitStack() as stack:
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.enter_context(without_cudnn())
        if twice:
            stack.enter_context(TwiceDifferentiable())
        yield


@contextmanager
def without_cudnn() -> Iterator[None]:
    """A block in which torch's own kernels replace those of cuDNN."""
    enabled = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False  # torch.backends.cudnn.flags would also switch TF32 on
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = enabled
