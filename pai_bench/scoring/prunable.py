"""Which parameters are scored: those of the usual layers, others that multiply the data, and those a user names."""

import fnmatch
import logging
import weakref
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from pai_bench.graph.connectivity import TABLES, Connections, owner
from pai_bench.graph.operands import operands
from pai_bench.networks.layers import prunable_parameters, usual_names
from pai_bench.networks.wrappers import innermost, refuse_scripted, unwrapped
from pai_bench.support.errors import UserError, unknown
from pai_bench.support.torch_internals import NormBase, own_parameters

logger = logging.getLogger(__name__)

NORMS = (NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
STANDARD = ("weight", "bias", "in_proj_bias", "bias_k", "bias_v")
"""Parameters of torch's own layers that are no weights, or those of the usual layers."""


class TracedParameters(NamedTuple):
    """Names of parameters outside of the usual layers."""

    weights: tuple[str, ...] = ()
    unclear: tuple[str, ...] = ()
    """Parameters from which weights may be computed. Only the user can say whether they are to be pruned."""


def traced_parameters(model: nn.Module, example: Tensor, *, warn: bool = True) -> TracedParameters:
    """The parameters outside of the usual layers that multiply the data in a forward pass of `example`.

    These are parameters of custom layers that are operands of a matrix product or a convolution, also transposed or
    scaled (`pai_bench.graph.operands`): a parameter passed to ``F.conv2d``, a weight of shape (in, out), those of
    ``nn.Bilinear``, those masked by ``torch.nn.utils.prune``. Where this is not clear, they are `unclear`, and with
    `warn` a warning names them. A weight that is scaled by a norm of itself, as by ``weight_norm``, is unclear too,
    since a unit of which nothing is kept would be 0 / 0. A network that has only the usual layers is not run; any
    other is run once, and the result is kept as long as the network.
    """
    model = innermost(model)
    others = candidates(model)
    if not others:
        return TracedParameters()
    refuse_scripted(model, with_weights=True)
    state = tuple((name, id(parameter)) for name, parameter in others.items())
    if (known := _TRACED.get(model)) is not None and known[0] == state:
        return known[1]
    try:
        connections = Connections(model, example)
        done = operands(connections.trace, {name: connections.parameters[name] for name in others})
    except (UserError, NotImplementedError) as error:  # the latter of what has no memory of its own, as sparse tensors
        why = f"may be weights, but the network cannot be followed ({error})"
        return TracedParameters((), names_of(matrices(model, others), why if warn else None))
    weights = tuple(name for name in others if name in done.weights and others[name].is_floating_point())
    unclear = (done.unclear | done.weights) - {*weights}
    sizes = {name: size for name, size in matrices(model, others).items() if name in unclear}
    why = "are not scored, though the network may compute weights from them, or multiply by them"
    result = TracedParameters(weights, names_of(sizes, why if warn else None))
    _TRACED[model] = (state, result)
    return result


_TRACED: "weakref.WeakKeyDictionary[nn.Module, tuple[object, TracedParameters]]" = weakref.WeakKeyDictionary()


def prunable_names(
    model: nn.Module,
    traced: Sequence[str],
    *,
    biases: bool = False,
    patterns: str | None = None,
    keep_first: bool = False,
    keep_last: bool = False,
) -> list[str]:
    """The names of the parameters to prune, in the model's order: the usual ones and those `traced`.

    With `patterns`, shell patterns separated by commas, only names that match one; a name without ``*``, ``?`` or
    ``[`` may be any parameter. `keep_first` and `keep_last` leave out the parameters of the first or last layer.
    """
    model = unwrapped(model)
    parameters = dict(model.named_parameters())
    usual = _usual(model, biases=biases)
    names = [name for name in parameters if name in usual or name in traced]
    if patterns is not None:
        fitting: set[str] = set()
        for pattern in (part.strip() for part in patterns.split(",")):
            is_pattern = set(pattern) & set("*?[")
            matches = fnmatch.filter(names, pattern) if is_pattern else [n for n in parameters if n == pattern]
            if not matches:
                raise unknown(f"prunable parameter of {type(model).__name__}", pattern, names)
            fitting.update(matches)
        names = [name for name in parameters if name in fitting]
    layer = {name: owner(name) if name in usual else name for name in names}  # its weight and its bias
    for kept_whole, position in ((keep_first, 0), (keep_last, -1)):
        if kept_whole and names:
            names = [name for name in names if layer[name] != layer[names[position]]]
    if not names:
        prunable_parameters(model)  # which says so, if there are none at all
        raise UserError(f"nothing of {type(model).__name__} is left to prune but the layers that are kept whole")
    return names


def default_names(model: nn.Module, example: Tensor, *, biases: bool = False) -> list[str] | None:
    """The names of the scored parameters by default; None for the usual parameters alone."""
    traced = traced_parameters(model, example).weights
    return prunable_names(model, traced, biases=biases) if traced else None


def candidates(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of which only a forward pass shows whether they are weights."""
    clear: set[int] = set()
    others: set[int] = set()
    for module in model.modules():
        if own := {name: parameter for name, parameter in own_parameters(module).items() if parameter is not None}:
            home = type(module).__module__
            of_torch = home.startswith("torch.nn.modules") and not isinstance(module, (*TABLES, nn.Bilinear))
            holds_others = type(module) is nn.Module or home == "torch.nn.modules.container"
            plain = (of_torch and not holds_others) or isinstance(module, NORMS)
            known = {*usual_names(module, biases=True), *(STANDARD if plain else ())}
            for name, parameter in own.items():
                (clear if name in known else others).add(id(parameter))
    others -= clear
    return {
        name: parameter
        for name, parameter in (model.named_parameters() if others else ())
        if id(parameter) in others and (parameter.is_floating_point() or parameter.is_complex()) and parameter.numel()
    }


def _usual(model: nn.Module, *, biases: bool) -> dict[str, nn.Parameter]:
    try:
        return prunable_parameters(model, biases=biases)
    except UserError:  # there are none
        return {}


def matrices(model: nn.Module, others: Mapping[str, nn.Parameter]) -> dict[str, int]:
    """Sizes of the parameters that may be weights: not of tables, and not of scales, of shape (units, 1, 1) say."""
    tables = {f"{name}.weight".lstrip(".") for name, module in model.named_modules() if isinstance(module, TABLES)}
    return {n: p.numel() for n, p in others.items() if p.squeeze().dim() > 1 and n not in tables}


def names_of(sizes: Mapping[str, int], message: str | None) -> tuple[str, ...]:
    """The names of parameters, sorted; with a `message`, a warning gives it with the names and their total size."""
    names = tuple(sorted(sizes))
    if names and message is not None:
        cure = "to score them, name them in prunable= (--prunable)"
        logger.warning("%s (%s elements) %s; %s", ", ".join(names), f"{sum(sizes.values()):,}", message, cure)
    return names
