"""Checks whether networks that are trained together get the same weights as each alone."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pai_bench.support.errors import UserError
from pai_bench.support.precision import arithmetic
from pai_bench.support.torch_internals import DropoutBase, gradient_hooks
from pai_bench.training.snapshot import non_tensor_state, random_states
from pai_bench.training.trainable_groups import Branches, SingleModel, StackedModels, TrainableGroup


def refuse_random_layers(model: nn.Module) -> None:
    """Raise if the model uses random layers, which cannot be batched reproducibly."""
    for name, module in model.named_modules():
        if (isinstance(module, DropoutBase) and module.p) or (isinstance(module, nn.RNNBase) and module.dropout):
            raise UserError(f"{name!r} draws at random in training, so that each network has to be trained alone")


def refuse_tied_tensors(model: nn.Module) -> None:
    """Raise if a tensor of the model has two names, of which only one would be stacked."""
    for named in (model.named_parameters, model.named_buffers):
        first_names = dict(named())
        if further := [name for name, _ in named(remove_duplicate=False) if name not in first_names]:
            raise UserError(f"{further[0]!r} is another name of a tensor that has one")


def refuse_hooks(model: nn.Module) -> None:
    """Raise if parameters of the model have hooks, which would not be called for stacked gradients."""
    for name, weight in model.named_parameters():
        if any(gradient_hooks(weight)):
            raise UserError(f"{name!r} has a hook on its gradient")


def draws_at_random(models: Sequence[nn.Module], inputs: Tensor, targets: Tensor) -> str | None:
    """Why networks cannot be branches of one group, because they draw random numbers in a step; None if they can."""
    refuse_random_layers(models[0])
    program, count = Branches(models, [None] * len(models)), len(models)
    before = random_states(inputs.device)
    steps(program, torch.stack([inputs] * count), torch.stack([targets] * count))
    return None if random_states(inputs.device) == before else "it draws at random in training"


def difference(
    apart: Sequence[nn.Module], together: Sequence[nn.Module], inputs: Tensor, targets: Tensor
) -> str | None:
    """The difference between networks trained `together` in lanes and equal ones trained `apart`, after two steps.

    None if there is none. The networks are changed. The steps are taken in float64 if the networks can be run in it,
    since rounding errors of float32 and TF32 can exceed the tolerance. Raises whatever torch raises for networks that
    cannot be stacked.
    """
    refuse_random_layers(apart[0])
    refuse_tied_tensors(apart[0])
    refuse_hooks(apart[0])
    with arithmetic("fp32", inputs.device):
        in_double = inputs.double() if inputs.is_floating_point() else inputs
        if runs_in_double(apart[0], in_double):
            inputs = in_double
            for model in (*apart, *together):
                model.double()
        return _difference(apart, together, inputs, targets)


def runs_in_double(model: nn.Module, in_double: Tensor) -> bool:
    """Whether `model` can be copied and run in float64; one that has its own float32 tensors may not."""
    try:
        with torch.no_grad():
            copy.deepcopy(model).double().eval()(in_double[:1])
    except Exception:  # a network may raise anything
        return False
    return True


def _difference(
    apart: Sequence[nn.Module], together: Sequence[nn.Module], inputs: Tensor, targets: Tensor
) -> str | None:
    start = [{name: value.clone() for name, value in tensors(model).items()} for model in apart]
    lanes, count = StackedModels(together, [None] * len(together)), len(together)
    before = non_tensor_state(lanes.module)
    losses = [steps(lanes, torch.stack([inputs] * count), torch.stack([targets] * count))]
    logits = lanes.logits(inputs)
    if non_tensor_state(lanes.module) != before:
        return "it draws at random in training, or keeps a state of its own"
    lanes.finish()
    alone = [SingleModel(model) for model in apart]
    losses.append(torch.cat([steps(program, inputs[None], targets[None]) for program in alone], 1))
    pairs = {
        "losses": (losses[0], losses[1]),
        "outputs": (logits, torch.cat([p.logits(inputs) for p in alone])),
    }
    for name, (stacked, single) in pairs.items():
        if not torch.allclose(stacked, single, rtol=1e-3, atol=1e-3, equal_nan=True):
            return f"in lanes, its {name} would differ"
    for stacked_model, single_model, before_steps in zip(together, apart, start, strict=True):
        values = tensors(stacked_model)
        for name, value in tensors(single_model).items():
            if not changed_alike(before_steps[name], values[name], value):
                return f"in lanes, its {name} would differ"
    return None


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, also those that are not saved."""
    return {name: value.detach() for of in (model.named_parameters(), model.named_buffers()) for name, value in of}


def changed_alike(start: Tensor, first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have changed equally from `start`, up to 1 % of the largest change."""
    start, first, second = start.double(), first.double(), second.double()
    if not start.numel():
        return True
    largest, size = (
        float(values.abs().nan_to_num(0.0, 0.0).max()) for values in (torch.stack([first, second]) - start, start)
    )
    return bool(torch.allclose(first, second, rtol=0, atol=0.01 * largest + 1e-6 * size, equal_nan=True))


def steps(program: TrainableGroup, inputs: Tensor, targets: Tensor) -> Tensor:
    """The losses (2, lanes) of two steps of plain gradient descent."""
    results = []
    weights = [weight for weight in program.parameters if weight.requires_grad]
    for _ in range(2):
        losses = program.losses(inputs, targets)
        gradients = torch.autograd.grad(losses.sum(), weights, materialize_grads=True)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.sub_(gradient, alpha=0.01)
        results.append(losses.detach())
    return torch.stack(results)
