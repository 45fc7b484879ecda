"""What is known of the values of a tensor for all data: where it is zero, and where it is minus infinity.

Weights that are not kept are zero, and so is what masks forbid; what they multiply passes nothing there.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pai_bench.pruning.operations import CHANNEL_NORMS, CONSTANTS, POOLS, REDUCTIONS, ZERO_PRESERVING
from pai_bench.pruning.rules import RULES, Settled, added, move, moves, total
from pai_bench.pruning.tracing import Operation, tensors

if TYPE_CHECKING:
    from pai_bench.pruning.reachability import Reach


def makes_zeros(operation: Operation) -> bool:
    """Whether an operation can make zeros that hold for all data."""
    given = operation.arguments
    if operation.name == "mul":
        factors = [given["self"], given.get("other")]
        return any(isinstance(one, Tensor) and one.numel() > 1 and bool((one == 0).any()) for one in factors)
    return operation.name in ("tril", "triu") or (operation.name == "masked_fill" and given["value"] == 0)


def forbidden(state: "Reach", operation: Operation) -> Tensor | None:
    """Where a result is minus infinity for all data: by a constant that is added, or filled in where one says."""
    name, given = operation.name, operation.arguments
    if not operation.results or not operation.results[0].is_floating_point():
        return None
    known = [tensor for tensor in operation.given if state.key(tensor) in state.forbidden]
    if name in ("masked_fill", "where", "add", "sub", "baddbmm", "addmm"):
        parts = [state.forbidden[state.key(tensor)] for tensor in known]
        constant = [t for t in operation.given if state.fixed(t) and state.support(t) is None]
        if name == "masked_fill" and state.fixed(given["mask"]) and minus_infinity(state, given["value"]):
            parts.append(given["mask"])
        elif name == "where" and state.fixed(given["condition"]):
            parts.append((operation.results[0] == -math.inf) & chosen_constant(state, given))
        elif name in ("add", "sub", "baddbmm", "addmm"):
            # of a product, what it is added to
            added_to_it = constant if name in ("add", "sub") else [t for t in constant if t is given["self"]]
            parts += [tensor == -math.inf for tensor in added_to_it if tensor.is_floating_point()]
        if not (parts := [part for part in parts if part.any()]):
            return None
        found = torch.zeros(operation.results[0].shape, dtype=torch.bool)
        for part in parts:
            found = found | part
        return found
    if known and (moves(operation) or name in ("_to_copy", "clone", "mul", "div")) and len(operation.results) == 1:
        if name in ("mul", "div"):
            return state.forbidden[state.key(known[0])].expand(operation.results[0].shape)
        moved_along = move(
            operation,
            lambda t: state.forbidden.get(state.key(t), torch.zeros(t.shape, dtype=torch.bool)),
            lambda number: number == -math.inf,
        )
        return moved_along if isinstance(moved_along, Tensor) else None
    return None


def minus_infinity(state: "Reach", value: Any) -> bool:
    """Whether a number, or a tensor of one, is minus infinity for all data."""
    return (not isinstance(value, Tensor) or state.fixed(value)) and float(value) == -math.inf


def chosen_constant(state: "Reach", given: Any) -> Tensor:
    """Where ``where`` takes a value that does not depend on the data."""
    first, second = (state.reach(given[name]) is None for name in ("self", "other"))
    return torch.where(given["condition"], torch.tensor(first), torch.tensor(second))


def supports(state: "Reach", operation: Operation, *, reached: bool) -> Any:
    """Where an operation's results may differ from zero, when that is known of one of its arguments at least."""
    return known_supports(state, operation, reached=reached)


def everywhere(state: "Reach", operation: Operation) -> list[Tensor]:
    """Supports from which nothing is missing, and in which every connection is used."""
    known = [state.factor(tensor) for tensor in operation.given]
    ones = [added(result, known if operation.pointwise else [total(known)]) for result in operation.results]
    return [part + (1 - part).detach() for part in ones]


def known_supports(state: "Reach", operation: Operation, *, reached: bool) -> Any:
    """The supports of an operation that is known."""
    name = operation.name
    if name in CONSTANTS or name in ("_pack_padded_sequence", "_pad_packed_sequence"):
        return None
    chance = [operation.arguments.get(which) for which in ("mask", "condition")]
    if any(isinstance(tensor, Tensor) and state.drawn(tensor) for tensor in chance):
        # chance, not the data, says which of the two values
        values = [operation.arguments.get(which) for which in ("self", "other", "value")]
        parts = [state.factor(tensor) for tensor in values if isinstance(tensor, Tensor)]
        constant = name == "masked_fill" and not isinstance(values[2], Tensor) and values[2]
        return everywhere(state, operation) if constant else Settled.apply(added(operation.results[0], parts))
    if moves(operation) and name not in RULES:
        return move(operation, state.factor, lambda number: float(number != 0))
    given = operation.given
    if name in ZERO_PRESERVING or (name == "mul" and len(given) == 1):
        first = given[0]
        return None if state.support(first) is None else state.factor(first).expand(operation.results[0].shape).clone()
    if name == "mul" and len(given) == 2:
        return Settled.apply(state.factor(given[0]) * state.factor(given[1]))
    if name in REDUCTIONS and not isinstance(operation.arguments.get("other"), Tensor) and not reached:
        return reduced(operation, state.factor(given[0]))
    if reached:  # nothing is known any more
        return None
    known = [state.factor(tensor) for tensor in given]
    if name in ("mm", "bmm", "matmul"):
        return Settled.apply(torch.matmul(*known))
    if name in ("linear", "convolution", "_convolution"):
        return of_layer(state, operation)
    if name in CHANNEL_NORMS and operation.arguments.get("running_mean") is None:
        return centred(state, operation)
    if name in ("addmm", "baddbmm", "addmv"):
        return Settled.apply(known[0] + torch.matmul(*known[1:]))
    if name in ("normalisation", "_weight_norm_interface", "_weight_norm"):  # zero stays zero
        return Settled.apply(known[0] * known[1]) if len(known) > 1 else known[0]
    if name in ("add", "sub") and len(given) == 2:
        return Settled.apply(added(operation.results[0], known))
    if not operation.pointwise and name not in REDUCTIONS and any(kept.requires_grad for kept in known):
        state.unknown.setdefault(name, operation.module)
    return everywhere(state, operation)  # what is zero need not stay so


def reduced(operation: Operation, factor: Tensor) -> list[Tensor]:
    """A sum, mean, largest, ... of zeros is zero; one result or several, all of one shape."""
    dims = operation.arguments.get("dim")
    every = list(range(factor.dim())) if dims is None or dims == [] else dims
    total_ = Settled.apply(factor.sum(every) if factor.dim() else factor)
    return [total_.reshape(result.shape) for result in operation.results]


def centred(state: "Reach", operation: Operation) -> Tensor:
    """What is left of a channel whose mean is taken away: zero where all of it is zero, but for a bias."""
    x, shape = operation.given[0], [1, -1, *[1] * (operation.given[0].dim() - 2)]
    factor = state.factor(x)
    found = factor.sum([i for i in range(x.dim()) if i != 1], keepdim=True).expand(x.shape)
    weight, bias = operation.arguments.get("weight"), operation.arguments.get("bias")
    if isinstance(weight, Tensor):
        found = found * state.factor(weight).view(shape)
    if isinstance(bias, Tensor):
        found = found + state.factor(bias).view(shape)
    return Settled.apply(found)  # type: ignore[no-any-return]


def of_dependent(state: "Reach", operation: Operation) -> Any:
    """Where the results of an operation on what depends on the input may differ from zero; None where they all may.

    So a product knows of a factor that is zero for all data: a gate without connections, values without any.
    """
    found = known_of_dependent(state, operation)
    return None if found is None or all(bool(one.all()) for one in tensors(found)) else found


def known_of_dependent(state: "Reach", operation: Operation) -> Any:
    """The same, not yet looked at."""
    name, arguments, given = operation.name, operation.arguments, operation.given
    if name in ("mm", "bmm", "matmul", "mv", "dot"):
        return Settled.apply(torch.matmul(*map(state.factor, given)))
    if name in ("addmm", "baddbmm", "addmv"):
        base, a, b = map(state.factor, given)
        return Settled.apply(added(operation.results[0], [base, torch.matmul(a, b)]))
    if name in ("addcmul", "addcdiv"):
        base, a, b = map(state.factor, given)
        return Settled.apply(added(operation.results[0], [base, a * b if name == "addcmul" else a]))
    if name in ("linear", "convolution", "_convolution"):
        return of_layer(state, operation)
    if name in ("add", "sub") and len(given) == 2:
        return Settled.apply(added(operation.results[0], [state.factor(tensor) for tensor in given]))
    if name in ("_fused_rms_norm", "normalisation"):
        weight = arguments.get("weight")
        x = state.factor(given[0])
        return x if weight is None else Settled.apply(x * state.factor(weight))
    if name in REDUCTIONS and not isinstance(arguments.get("other"), Tensor):
        return reduced(operation, state.factor(given[0]))
    if name in POOLS:
        pooled = operation.function(**{**arguments, "self": state.factor(given[0])})
        return (next(tensors(pooled)) > 0).float()
    if name == "glu":
        return state.factor(given[0]).chunk(2, arguments["dim"])[0].clone()
    return None


def of_layer(state: "Reach", operation: Operation) -> Tensor:
    """Where the outputs of a linear or convolutional layer may differ from zero: by a connection, or by a bias."""
    given = operation.arguments
    x, weight, bias = state.factor(given["input"]), state.factor(given["weight"]), given["bias"]
    if operation.name == "linear":
        found, bias_shape = F.linear(x, weight), [-1]
    else:
        names = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
        found = torch.convolution(x, weight, None, *(given[name] for name in names))
        bias_shape = [-1, *[1] * (found.dim() - 2)]
    return Settled.apply(found if bias is None else found + state.factor(bias).view(bias_shape))  # type: ignore[no-any-return]
