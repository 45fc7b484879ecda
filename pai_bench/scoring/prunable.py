"""Which parameters are scored: those of the usual layers, what else multiplies the data, and what a user chooses."""

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


class Found(NamedTuple):
    """Names of parameters outside of the usual layers."""

    weights: tuple[str, ...] = ()
    unclear: tuple[str, ...] = ()
    """Those from which weights may be computed, so that nobody can know but the user whether they are to be pruned."""


def further(model: nn.Module, example: Tensor, *, told: bool = True) -> Found:
    """What else multiplies, in one forward pass of `example`, the data, outside of the usual layers.

    Such are the parameters of layers of one's own that are operands of a matrix product or a convolution, also
    transposed or scaled (`pai_bench.graph.operands`): a parameter that ``F.conv2d`` takes, a weight of shape
    (in, out), those of ``nn.Bilinear``, what ``torch.nn.utils.prune`` masks. Where that is not clear, a warning names
    the parameters; nor is it where a weight is scaled by a norm of itself, as by ``weight_norm`` and ``spectral_norm``,
    since a unit of which nothing is kept is then 0 / 0. A network of the usual layers alone is not run; one that has
    others is run once, its result kept as long as the network. Without `told`, nothing is said: to a user who chose.
    """
    model = innermost(model)
    others = candidates(model)
    if not others:
        return Found()
    refuse_scripted(model, with_weights=True)
    state = tuple((name, id(parameter)) for name, parameter in others.items())
    if (known := _FOUND.get(model)) is not None and known[0] == state:
        return known[1]
    try:
        links = Connections(model, example)
        done = operands(links.trace, {name: links.parameters[name] for name in others})
    except (UserError, NotImplementedError) as error:  # the latter of what has no memory of its own, as sparse tensors
        why = f"may be weights, but the network cannot be followed ({error})"
        return Found((), names_of(matrices(model, others), why if told else None))
    weights = tuple(name for name in others if name in done.weights and others[name].is_floating_point())
    unclear = (done.unclear | done.weights) - {*weights}
    sizes = {name: size for name, size in matrices(model, others).items() if name in unclear}
    why = "are not scored, though the network may compute weights from them, or multiply by them"
    found = Found(weights, names_of(sizes, why if told else None))
    _FOUND[model] = (state, found)
    return found


_FOUND: "weakref.WeakKeyDictionary[nn.Module, tuple[object, Found]]" = weakref.WeakKeyDictionary()


def chosen(
    model: nn.Module,
    traced: Sequence[str],
    *,
    biases: bool = False,
    patterns: str | None = None,
    keep_first: bool = False,
    keep_last: bool = False,
) -> list[str]:
    """The names of what is to be pruned, in the model's order: the usual parameters and those `traced` (`further`).

    Of these, those whose names fit one of the `patterns`, as a shell has them, with commas between; a name without
    ``*``, ``?`` or ``[`` may be any parameter. Without what the first layer of them has, or the last.
    """
    model = unwrapped(model)
    every = dict(model.named_parameters())
    usual = _usual(model, biases=biases)
    names = [name for name in every if name in usual or name in traced]
    if patterns is not None:
        fitting: set[str] = set()
        for pattern in (part.strip() for part in patterns.split(",")):
            among = names if set(pattern) & set("*?[") else every
            if not (found := fnmatch.filter(among, pattern) if among is names else [n for n in among if n == pattern]):
                raise unknown(f"prunable parameter of {type(model).__name__}", pattern, names)
            fitting.update(found)
        names = [name for name in every if name in fitting]
    layer = {name: owner(name) if name in usual else name for name in names}  # weight and bias of one, say
    for wanted, place in ((keep_first, 0), (keep_last, -1)):
        if wanted and names:
            whole = layer[names[place]]
            names = [name for name in names if layer[name] != whole]
    if not names:
        prunable_parameters(model)  # which says so, if there are none at all
        raise UserError(f"nothing of {type(model).__name__} is left to prune but the layers that are kept whole")
    return names


def scored(model: nn.Module, example: Tensor, *, biases: bool = False) -> list[str] | None:
    """The names of what is scored where nobody chooses; None for the usual parameters alone."""
    traced = further(model, example).weights
    return chosen(model, traced, biases=biases) if traced else None


def candidates(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of which only a forward pass tells whether they are weights."""
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
    """The sizes of those parameters that may be weights: no tables, and no scales, of shape (units, 1, 1) say."""
    tables = {f"{name}.weight".lstrip(".") for name, module in model.named_modules() if isinstance(module, TABLES)}
    return {n: one.numel() for n, one in others.items() if one.squeeze().dim() > 1 and n not in tables}


def names_of(sizes: Mapping[str, int], what: str | None) -> tuple[str, ...]:
    """The names of parameters; a warning says with their size `what` there is to say about them."""
    named = tuple(sorted(sizes))
    if named and what is not None:
        cure = "to score them, name them in prunable= (--prunable)"
        logger.warning("%s (%s elements) %s; %s", ", ".join(named), f"{sum(sizes.values()):,}", what, cure)
    return named
