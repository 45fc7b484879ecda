"""The prunable parameters: weights of the usual layers, or those that a caller names."""

from collections.abc import Callable, Iterable

from torch import nn
from torch.nn.parameter import is_lazy

from pai_bench.networks.wrappers import unwrapped
from pai_bench.support.errors import UserError, unknown
from pai_bench.support.torch_internals import own_parameters

_WHOLE_WEIGHT = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def usual_names(module: nn.Module, biases: bool) -> list[str]:
    """The names, inside `module` itself, of its prunable parameters; none of an unusual layer."""
    if isinstance(module, _WHOLE_WEIGHT):
        return ["weight", "bias"] if biases else ["weight"]
    if isinstance(module, nn.MultiheadAttention):
        return [*_PROJECTIONS, "in_proj_bias"] if biases else [*_PROJECTIONS]
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        prefixes = ("weight", "bias") if biases else ("weight",)
        return [name for name, _ in module.named_parameters(recurse=False) if name.startswith(prefixes)]
    return []


Prunable = Iterable[str] | Callable[[str, nn.Parameter], bool]
"""The parameters to prune in place of the usual ones: their names, or a predicate of name and parameter."""


def prunable_parameters(
    model: nn.Module, *, biases: bool = False, only: Prunable | None = None
) -> dict[str, nn.Parameter]:
    """The prunable parameters of `model` by name, in its order.

    These are the weights, and with `biases` the biases, of linear layers, convolutions, recurrent layers and attention
    projections, also frozen ones; not those of normalisation or embeddings. A weight that several modules share counts
    once; one that a linear layer shares with an embedding counts. Parameters of custom layers that multiply the data
    are found by a forward pass (`pai_bench.scoring.prunable`). `only`, names or a predicate of name and parameter,
    replaces all of this.

    Raises `UserError` for a name that the model does not have, and if there are no prunable parameters, or some that
    are not of a floating-point type or have no shape yet.
    """
    model = unwrapped(model)
    parameters = dict(model.named_parameters())
    if callable(only):
        chosen = {name: parameter for name, parameter in parameters.items() if only(name, parameter)}
    elif only is not None:
        names = [only] if isinstance(only, str) else list(only) if isinstance(only, Iterable) else [only]
        if wrong := [name for name in names if not isinstance(name, str)]:
            raise UserError(f"prunable is names of parameters, or a predicate of name and parameter, not {wrong[0]!r}")
        for name in names:
            if name not in parameters:
                raise unknown(f"parameter of {type(model).__name__}", name, parameters)
        chosen = {name: parameter for name, parameter in parameters.items() if name in names}
    else:
        prunable: set[int] = set()
        for module in model.modules():
            prunable.update(id(own_parameters(module).get(name)) for name in usual_names(module, biases))
        chosen = {name: parameter for name, parameter in parameters.items() if id(parameter) in prunable}
    chosen = {name: parameter for name, parameter in chosen.items() if is_lazy(parameter) or parameter.numel()}
    if not chosen:
        raise UserError(f"{type(model).__name__} has no prunable weight (Linear, Conv, RNN, attention)")
    for name, parameter in chosen.items():
        if is_lazy(parameter):
            raise UserError(f"{name!r} has no shape yet: pass one batch through {type(model).__name__} first")
        if not parameter.is_floating_point():
            raise UserError(f"{name!r} has dtype {parameter.dtype}; only floating-point weights can be pruned")
    return chosen
