"""Gradients with respect to the (masked) weights, and the scores made of them while they are produced.

The loss L is the mean cross-entropy of the network's logits over the batch, or what the criterion's option ``loss``
says, or the batch's own ``loss``.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pai_bench.pruning.criterion import SCORING, Batch, BatchLike, Scores, Scoring, Spare, as_batch
from pai_bench.pruning.replica import BATCH_NORMS
from pai_bench.pruning.transfers import read_scalars
from pai_bench.pruning.twice import TwiceDifferentiable
from pai_bench.support.arrays import listed
from pai_bench.support.errors import CriterionError, UserError

Elementwise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``f(w, g, L)``: a score from a weight, a derivative and the value that was differentiated, element by element.

It is given pieces of tensors, and may work in place on the derivative.
"""

Objective = Callable[[nn.Module, Batch], Tensor]
"""A scalar function of a network and a batch, the mean over the examples where it depends on them."""

RECOMPUTATION = "the network computes activations again (torch.utils.checkpoint)"

BLOCK = 2**18
"""Elements that a processor's cache holds, for each of a few tensors."""


def loss(model: nn.Module, batch: Batch, *, temperature: float = 1.0) -> Tensor:
    """L, the mean over `batch` of the loss of the logits divided by `temperature`."""
    # read while little is queued on the device, not between the passes
    limits = read_scalars(batch.targets.aminmax()) if batch.loss is None else []
    output = forward(model, batch.inputs)
    if not isinstance(output, Tensor):
        kind = type(output).__name__
        if batch.loss is None:
            raise UserError(f"{type(model).__name__} returns {kind}, not logits: give loss=, a function of its output")
        if temperature != 1:
            raise UserError(f"a temperature of {temperature:g} divides logits, but {type(model).__name__} gives {kind}")
    elif temperature != 1:
        output = output / temperature
    known = SCORING.get(model)
    if known is not None:
        known.loss_taken = True
    nll = known is not None and known.criterion.loss == "nll"
    if batch.loss is None:
        return (F.nll_loss if nll else F.cross_entropy)(checked_logits(output, batch, *limits), batch.targets)
    if nll:
        raise UserError("loss=nll is a loss of logits, but the batch brings a loss of its own")
    value = batch.loss(output, batch.targets)
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        raise UserError("the loss given must be a differentiable scalar: the mean over the examples")
    return value.reshape(())


def forward(model: nn.Module, inputs: Tensor) -> Any:
    """The network's output, or an error that says that the inputs do not fit."""
    try:
        return model(inputs)
    except (torch.OutOfMemoryError, UserError):
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        shape = f"{tuple(inputs.shape)}, {inputs.dtype} on {inputs.device}"
        where = failing_layer(model, inputs)
        if RECOMPUTATION in str(error):
            raise RecomputationError(f"{RECOMPUTATION}, in {where}: switch that off while scoring") from error
        raise UserError(f"the batch, inputs of shape {shape}, does not fit the model in {where}: {error}") from error


class RecomputationError(UserError):
    """A network that computes a part of itself again during backpropagation."""


@contextmanager
def no_recomputation() -> Iterator[None]:
    """A block in which checkpointing is an error: what is computed again is computed outside the block's rules."""
    with ExitStack() as stack:
        try:
            stack.enter_context(torch.autograd.graph.disable_saved_tensors_hooks(RECOMPUTATION))
        except RuntimeError as error:  # the caller's own hooks are at work, such as those of save_on_cpu
            raise RecomputationError(f"{RECOMPUTATION}, or saves them elsewhere: score outside of that") from error
        yield


def _enter(entered: list[str], label: str, _module: nn.Module, _inputs: Any) -> None:
    entered.append(label)


def _leave(entered: list[str], _module: nn.Module, _inputs: Any, _output: Any) -> None:
    entered.pop()


@torch.no_grad()
def failing_layer(model: nn.Module, inputs: Tensor) -> str:
    """The innermost module that a forward pass enters and does not leave."""
    entered: list[str] = []
    handles = []
    for name, module in model.named_modules():
        label = f"{name or 'its own forward'!r}, a {type(module).__name__},"
        handles.append(module.register_forward_pre_hook(functools.partial(_enter, entered, label)))
        handles.append(module.register_forward_hook(functools.partial(_leave, entered)))
    with suppress(Exception):
        model(inputs)
    for handle in handles:
        handle.remove()
    return entered[-1] if entered else type(model).__name__


def checked_logits(logits: Tensor, batch: Batch, lowest: int, highest: int) -> Tensor:
    """`logits`, if they and the targets of `batch`, which lie in `lowest` to `highest`, fit together."""
    size = len(batch.inputs)
    if logits.dim() != 2 or len(logits) != size:
        raise UserError(
            f"the model gives {tuple(logits.shape)} for {size} examples, not logits ({size}, classes): give loss=, "
            "a function of output and targets"
        )
    if lowest < 0 or highest >= logits.shape[1]:
        classes = f"targets must lie in 0..{logits.shape[1] - 1}, the model's classes, but are {listed(batch.targets)}"
        raise UserError(f"{classes}: number the labels of all data 0, 1, 2, ... without gaps")
    return logits


def saliencies(model: nn.Module, batch: BatchLike, formula: Elementwise, *, of: Objective = loss) -> Scores:
    """``formula(w, g, L)`` for every prunable weight, with ``g = dL/dw`` and L the loss, or another objective `of`.

    w is the dense weight (at removed positions zero, if they are not to return); g is taken at the masked network, at
    every position, removed ones included. A gradient is
    turned into scores, in its own memory, as soon as backpropagation has it. Score batches and micro-batches are
    taken into account as the criterion's options say.
    """
    scoring = scoring_of(model)
    return _accumulated(model, as_batch(batch), formula, lambda _group: lambda piece: of(model, piece), scoring)


def hessian_saliencies(
    model: nn.Module, batch: BatchLike, formula: Elementwise, *, temperature: float = 1.0, kept_only: bool = False
) -> Scores:
    """``formula(w, H g, g.g)`` for every prunable weight, with g and the Hessian H of L at `temperature`.

    ``H g`` is the gradient of ``g . stop_gradient(g)``, so that one graph serves both derivatives: three forward and
    backward passes in all. With several micro-batches, g takes a pass of its own. With `kept_only`, g is zero at
    connections that the current mask removes.
    """
    scoring = scoring_of(model)
    parameters = list(scoring.parameters.values())
    kept = None if scoring.mask is None or not kept_only else [scoring.mask[name] for name in scoring.parameters]

    def energy(group: Batch) -> Callable[[Batch], Tensor]:
        whole = None
        if len(_pieces(model, group, scoring)) > 1:
            found: dict[str, Tensor] = {}
            value = _scalar_loss(model, temperature)
            _differentiate(model, group, value, lambda name, g, _: found.update({name: g}), scoring)
            whole = [found[name] for name in scoring.parameters]

        def of(piece: Batch) -> Tensor:
            try:
                with differentiable(model, twice=True), no_recomputation():
                    value = loss(model, piece, temperature=temperature)
            except (RecomputationError, RuntimeError) as error:  # then torch's own functions have to do
                if RECOMPUTATION not in str(error):
                    raise
                value = loss(model, piece, temperature=temperature)
            own = torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)
            against = [g.detach() for g in own] if whole is None else whole
            if kept is not None:
                against = [g * keep for g, keep in zip(against, kept, strict=True)]
            return torch.stack([(g * v).sum() for g, v in zip(own, against, strict=True)]).sum()

        return of

    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        return _accumulated(model, as_batch(batch), formula, energy, scoring)


def loss_and_gradients(model: nn.Module, batch: BatchLike) -> tuple[Tensor, dict[str, Tensor]]:
    """L, and ``g = dL/dw`` of every prunable weight at every position, removed ones included."""
    scoring, batch, found = scoring_of(model), as_batch(batch), dict[str, Tensor]()
    if scoring.criterion.accumulate == "score" and batch.batches > 1:
        raise CriterionError(
            f"{scoring.criterion} takes gradients of all score batches together; accumulate=score needs saliencies()"
        )
    value = _differentiate(model, batch, _scalar_loss(model), lambda name, g, _: found.update({name: g}), scoring)
    return value, {name: found[name] for name in scoring.parameters}


def gradients(model: nn.Module, batch: BatchLike) -> dict[str, Tensor]:
    """``g = dL/dw`` of every prunable weight at every position, removed ones included."""
    return loss_and_gradients(model, batch)[1]


def hessian_gradient_product(model: nn.Module, batch: BatchLike, *, temperature: float = 1.0) -> dict[str, Tensor]:
    """``H g`` of every prunable weight, with g and the Hessian H of the loss at `temperature`."""
    return hessian_saliencies(model, batch, lambda _w, hg, _value: hg, temperature=temperature)


def scoring_of(model: nn.Module) -> Scoring:
    """What is known of the network that a formula was given."""
    if not isinstance(model, nn.Module) or (scoring := SCORING.get(model)) is None:
        given = type(model).__name__
        raise UserError(
            f"gradients are taken inside a criterion's score, on the network it is given, not on another {given}"
        )
    return scoring


def spare(model: nn.Module) -> Spare:
    """Memory of an earlier cut's scores that gradients may be written into."""
    return Spare() if (scoring := SCORING.get(model)) is None else scoring.spare


def _scalar_loss(model: nn.Module, temperature: float = 1.0) -> Callable[[Batch], Tensor]:
    return lambda piece: loss(model, piece, temperature=temperature)


def _accumulated(
    model: nn.Module,
    batch: Batch,
    formula: Elementwise,
    objective: Callable[[Batch], Callable[[Batch], Tensor]],
    scoring: Scoring,
) -> Scores:
    """Scores of the whole batch, or the sum of the scores of each score batch, as ``accumulate`` says."""
    scores: Scores = {}

    def finish(name: str, derivative: Tensor, value: Tensor) -> None:
        weight = scoring.dense[name] if scoring.returns else scoring.parameters[name].detach()
        score = _by_blocks(formula, weight, derivative, value)
        scores[name] = score if name not in scores else scores[name].add_(score)

    groups = batch.split() if scoring.criterion.accumulate == "score" else [batch]
    for group in groups:
        _differentiate(model, group, objective(group), finish, scoring)
    return {name: scores[name] for name in scoring.parameters}


def _differentiate(
    model: nn.Module,
    batch: Batch,
    objective: Callable[[Batch], Tensor],
    finish: Callable[[str, Tensor, Tensor], None],
    scoring: Scoring,
) -> Tensor:
    """The mean of `objective` over the pieces of `batch`; `finish` gets each derivative when it is complete."""
    pieces = _pieces(model, batch, scoring)
    names = {id(parameter): name for name, parameter in scoring.parameters.items()}
    value = torch.zeros((), device=batch.inputs.device)
    handles = []

    def ready(parameter: Tensor) -> None:
        derivative, parameter.grad = parameter.grad, None
        assert derivative is not None
        finish(names.pop(id(parameter)), derivative, value)

    try:
        for i, piece in enumerate(pieces):
            with differentiable(model):
                part = objective(piece) * (len(piece.inputs) / len(batch.inputs))
                value = value + part.detach()
                if i == len(pieces) - 1:
                    handles = [p.register_post_accumulate_grad_hook(ready) for p in scoring.parameters.values()]
                if part.requires_grad:
                    part.backward(inputs=list(scoring.parameters.values()))
        for parameter in scoring.parameters.values():
            if id(parameter) in names:  # the last piece did not reach it
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                ready(parameter)
    finally:
        for handle in handles:
            handle.remove()
        for parameter in scoring.parameters.values():
            parameter.grad = None
    return value


def _pieces(model: nn.Module, batch: Batch, scoring: Scoring) -> Sequence[Batch]:
    """The score batches of `batch`, in micro-batches where the criterion asks for them."""
    size, scoring.consulted = scoring.criterion.micro_batch, True
    if size is not None and size < len(batch.inputs) // batch.batches:
        for name, module in model.named_modules():
            if isinstance(module, BATCH_NORMS) and (module.training or module.running_mean is None):
                raise UserError(
                    f"micro_batch={size} would give {name!r} the statistics of {size} examples in place of the whole "
                    "batch's: use bn=eval with running statistics, or a smaller score batch"
                )
    return batch.split(size)


def _by_blocks(formula: Elementwise, weight: Tensor, derivative: Tensor, value: Tensor) -> Tensor:
    """``formula`` over tensors of any size, piece by piece where they lie in memory, so that a cache holds the work."""
    whole = weight.numel() <= BLOCK or weight.device.type != "cpu"
    if whole or not (weight.is_contiguous() and derivative.is_contiguous()):
        return formula(weight, derivative, value)
    for w, d in zip(weight.view(-1).split(BLOCK), derivative.view(-1).split(BLOCK), strict=True):
        if (piece := formula(w, d, value)) is not d:
            d.copy_(piece)
    return derivative


@contextmanager
def differentiable(model: nn.Module, *, twice: bool = False) -> Iterator[None]:
    """Keep to kernels with a derivative, of which cuDNN's recurrent ones have none in eval mode; or a second one."""
    with ExitStack() as stack:
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.enter_context(without_cudnn())
        if twice:
            stack.enter_context(TwiceDifferentiable())
        yield


@contextmanager
def without_cudnn() -> Iterator[None]:
    """A block in which torch's own kernels are used in place of cuDNN's."""
    enabled = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False  # torch.backends.cudnn.flags would also switch TF32 on
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = enabled
