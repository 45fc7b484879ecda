"""Whether networks that are trained together come out as each would alone."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pai_bench.support.errors import UserError
from pai_bench.support.precision import arithmetic
from pai_bench.support.torch_internals import DropoutBase, gradient_hooks
from pai_bench.training.snapshot import beside_tensors, chance
from pai_bench.training.trainable_groups import Branches, SingleModel, StackedModels, TrainableGroup


def refuse_chance(model: nn.Module) -> None:
    """Refuse lanes to a network that draws at random: what a lane draws would depend on those beside it."""
    for name, module in model.named_modules():
        if (isinstance(module, DropoutBase) and module.p) or (isinstance(module, nn.RNNBase) and module.dropout):
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
        if any(gradient_hooks(weight)):
            raise UserError(f"{name!r} has a hook on its gradient")


def draws_at_random(models: Sequence[nn.Module], inputs: Tensor, targets: Tensor) -> str | None:
    """Why networks cannot be branches of one program: they draw at random in a step, so that the order would matter."""
    refuse_chance(models[0])
    program, count = Branches(models, [None] * len(models)), len(models)
    before = chance(inputs.device)
    steps(program, torch.stack([inputs] * count), torch.stack([targets] * count))
    return None if chance(inputs.device) == before else "it draws at random in training"


def difference(
    apart: Sequence[nn.Module], together: Sequence[nn.Module], inputs: Tensor, targets: Tensor
) -> str | None:
    """What tells networks that are trained in lanes from equal ones that are trained `apart`, after two steps.

    None if nothing does. The networks, which are changed, take the steps in double precision where they can: in single
    precision, and more so with factors rounded to TF32, rounding alone can exceed the tolerance. Raises what torch does
    where it cannot make lanes of them.
    """
    refuse_chance(apart[0])
    refuse_ties(apart[0])
    refuse_hooks(apart[0])
    with arithmetic("fp32", inputs.device):
        in_double = inputs.double() if inputs.is_floating_point() else inputs
        if runs_in_double(apart[0], in_double):
            inputs = in_double
            for model in (*apart, *together):
                model.double()
        return _difference(apart, together, inputs, targets)


def runs_in_double(model: nn.Module, in_double: Tensor) -> bool:
    """Whether `model` can be copied and run in double precision; one that holds single tensors may not."""
    try:
        with torch.no_grad():
            copy.deepcopy(model).double().eval()(in_double[:1])
    except Exception:  # whatever a network raises that cannot be copied or run so
        return False
    return True


def _difference(
    apart: Sequence[nn.Module], together: Sequence[nn.Module], inputs: Tensor, targets: Tensor
) -> str | None:
    start = [{name: value.clone() for name, value in tensors(model).items()} for model in apart]
    lanes, count = StackedModels(together, [None] * len(together)), len(together)
    before = beside_tensors(lanes.module)
    losses = [steps(lanes, torch.stack([inputs] * count), torch.stack([targets] * count))]
    logits = lanes.logits(inputs)
    if beside_tensors(lanes.module) != before:
        return "it draws at random in training, or keeps a state of its own"
    lanes.finish()
    alone = [SingleModel(model) for model in apart]
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


def steps(program: TrainableGroup, inputs: Tensor, targets: Tensor) -> Tensor:
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
