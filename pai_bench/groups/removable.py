"""Trying whether groups can be removed: the smaller network, beside the masked one, with random weights."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pai_bench.graph.tracing import tensors
from pai_bench.groups.groups import GroupMask, Groups
from pai_bench.groups.shrink import shrink
from pai_bench.networks.dropout import ScoringMode
from pai_bench.networks.private_copy import copied
from pai_bench.networks.wrappers import unwrapped
from pai_bench.support.randomness import random_state
from pai_bench.support.torch_internals import NormBase

TOLERANCE = {torch.float64: 1e-10}
"""How far outputs of a smaller network may be from those of the masked one, as a share of the largest."""

SINGLE = 1e-5
"""The same of other types."""

SAMPLE = 3
"""How many families of a kind are tried one by one, where all at once fail, before the others are taken for alike."""

DRAWS = 2
"""How often groups at random are removed, beside the last of each sort and the first half."""


class Family(NamedTuple):
    """Groups that have slices of the same axes: if one can be removed, so can the others."""

    members: Tensor
    kind: int
    """The same for families in layers that are called alike but for numbers, as in the blocks of a network."""


def families(groups: Groups) -> list[Family]:
    """The families of all groups, those of a kind one after the other."""
    generator = np.random.default_rng(0)
    signatures, kinds = np.zeros((2, groups.count), dtype=np.uint64)
    of_kind: dict[tuple[str, int], np.uint64] = {}
    for (name, dim), of in groups.by_axis.items():
        members = of[of >= 0].unique().numpy()
        signatures[members] += generator.integers(2**63, dtype=np.uint64)
        kind = re.sub(r"[0-9]+", "", name), dim
        kinds[members] += of_kind.setdefault(kind, generator.integers(2**63, dtype=np.uint64))
    order = np.lexsort((signatures, kinds))
    ends = np.flatnonzero(np.diff(signatures[order])) + 1
    return [Family(torch.from_numpy(part), int(kinds[part[0]])) for part in np.split(order, ends) if len(part)]


def cannot_be_removed(
    model: nn.Module, groups: Groups, example_input: Tensor, *, unseen: bool = False
) -> list[tuple[Family, str]]:
    """Families whose groups cannot be removed, and why. The last unit of a layer is not tried.

    Where some of the network's parameters are `unseen` in evaluation mode, it is tried in training mode, too.
    """
    generator = torch.Generator().manual_seed(0)
    network, example = prepared(model, example_input, generator)
    trained = unseen and trains(network, example)

    def search(chosen: Sequence[Family]) -> list[tuple[Family, str]]:
        """All at once; where that fails, those of some kinds, or the halves; where these do not, all of them.

        Of a kind of which the first, the last and the one between fail, all are taken to do so.
        """
        if not chosen or (reason := failure(chosen)) is None:
            return []
        half = len(chosen) // 2
        starts = [place for place in range(1, len(chosen)) if chosen[place].kind != chosen[place - 1].kind]
        if len(chosen) == 1 or (
            not starts and len(chosen) > SAMPLE and all(failure([chosen[place]]) for place in (0, half, -1))
        ):
            return [(family, reason) for family in chosen]
        half = min(starts, key=lambda place: abs(place - half), default=half)
        return search(chosen[:half]) + search(chosen[half:]) or [(family, reason) for family in chosen]

    def failure(chosen: Sequence[Family]) -> str | None:
        """Why the last group of each cannot be removed, or the first half, or as many as chance says of each."""
        ways: list[Callable[[Tensor], Tensor]] = [lambda family: family[-1:], lambda family: family[: len(family) // 2]]
        masks: list[GroupMask] = []
        for way in (*ways, *[at_random] * DRAWS):
            kept = torch.ones(groups.count, dtype=torch.bool)
            for family in chosen:
                kept[way(family.members)] = False
            restore_last(groups, kept)
            masks.append(GroupMask(groups, kept))
            if (reason := difference(network, masks[-1], example)) is not None:
                return reason
        # code may count units, of which random numbers may be right ones
        if trained and not all(trains(shrink(network, mask), example) for mask in (masks[0], masks[-1])):
            return "without some of them, the network fails in training mode, in which it uses further layers"
        return None

    def at_random(family: Tensor) -> Tensor:
        count = int(torch.randint(1, max(2, len(family)), (), generator=generator))
        return family[torch.randperm(len(family), generator=generator)[:count]]

    found: list[tuple[Family, str]] = []
    rest = families(groups)
    while rest:
        left = {axis: len(groups.by_axis[axis].unique()) for axis in groups.roots if axis in groups.by_axis}
        now: list[Family] = []
        later: list[Family] = []
        for family in rest:
            axes = [axis for axis in left if bool((groups.by_axis[axis] == family.members[-1]).any())]
            room = all(left[axis] > 1 for axis in axes)
            (now if room else later).append(family)
            left |= {axis: left[axis] - 1 for axis in axes if room}
        if not now:
            break
        found += search(now)
        rest = later
    return found


def prepared(model: nn.Module, example_input: Tensor, generator: torch.Generator) -> tuple[nn.Module, Tensor]:
    """A copy with random weights, and random values to run it on; the given ones where it does not take these."""
    network, example = copied(unwrapped(model)).eval(), example_input
    if example.is_floating_point():
        example = torch.randn(example.shape, generator=generator).to(example)
    fill(network, generator)
    if takes(network, example):
        return network, example
    network = copied(unwrapped(model)).eval()  # values have to be in a range, say, or are tokens
    fill(network, generator)
    return (network if takes(network, example_input) else copied(unwrapped(model)).eval()), example_input


@torch.no_grad()
def fill(network: nn.Module, generator: torch.Generator) -> None:
    """Random weights and statistics: with those of its own, such as zeros, a network may not show what it computes."""

    def drawn(tensor: Tensor) -> Tensor:
        inputs = tensor.numel() / max(1, len(tensor)) if tensor.dim() else 1.0
        return torch.randn(tensor.shape, generator=generator).to(tensor) * float(max(1.0, inputs) ** -0.5)

    for parameter in network.parameters():
        if parameter.is_floating_point():
            parameter.copy_(drawn(parameter) if parameter.dim() > 1 else drawn(parameter).abs() + 0.5)
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand(buffer.shape, generator=generator).to(buffer) + 0.5)


@torch.no_grad()
def scale_statistics(network: nn.Module, example: Tensor) -> list[Tensor]:
    """Let the statistics of batch norm fit what an example gives, where they are all of size 1, as by `fill`.

    Otherwise values grow from layer to layer of a deep network, and rounding errors with them. Returned is what the
    network gives meanwhile.
    """

    def scale(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        handles.pop(module).remove()  # the first call counts
        size = inputs[0].square().mean().sqrt()
        if bool(size > 0) and bool(size.isfinite()):
            module.get_buffer("running_mean").sub_(1).mul_(size)
            module.get_buffer("running_var").mul_(size.square())

    norms = [module for module in network.modules() if isinstance(module, NormBase) and module.running_var is not None]
    handles: dict[nn.Module, RemovableHandle] = {module: module.register_forward_pre_hook(scale) for module in norms}
    try:
        with random_state(0), ScoringMode():
            return list(tensors(network(example)))
    finally:
        for handle in handles.values():
            handle.remove()


def takes(network: nn.Module, example: Tensor) -> bool:
    """Whether a network, which `scale_statistics` changes, runs on an example and gives numbers."""
    try:
        return not any(bool(found.isnan().any()) for found in scale_statistics(network, example))
    except Exception:  # whatever a network's code raises
        return False


@torch.no_grad()
def trains(network: nn.Module, example: Tensor) -> bool:
    """Whether a network runs in training mode. Its copy does, since the statistics of batch norm change."""
    try:
        with random_state(0):
            copied(network).train()(torch.cat([example, example]))  # batch norm takes no single example
    except Exception:  # whatever a network's code raises
        return False
    return True


def restore_last(groups: Groups, kept: Tensor) -> None:
    """Keep a group of every layer of which none is left."""
    for axis in groups.roots:
        of = groups.by_axis.get(axis)
        if of is not None and bool((of >= 0).all()) and not bool(kept[of].any()):
            kept[of[0]] = True


@torch.no_grad()
def difference(network: nn.Module, mask: GroupMask, example: Tensor) -> str | None:
    """Why `network` without some groups is not what it is with zeros in their places; None if it is, as it should be.

    In evaluation mode: up to 1e-10 of the largest output in float64, and 1e-5 in other types.
    """
    try:
        with random_state(0), ScoringMode():
            found = list(tensors(shrink(network, mask)(example)))
        with random_state(0), ScoringMode():
            expected = list(tensors(mask.apply_(copied(network))(example)))
    except Exception as error:  # whatever a network's code raises
        return f"the network fails without some of them ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
    for first, second in zip(expected, found, strict=True):
        if first.shape == second.shape and not (first.is_floating_point() or first.is_complex()):
            continue  # of two nearly equal numbers, either may be the larger
        limit = TOLERANCE.get(first.dtype, SINGLE) * float(first.abs().max()) if first.numel() else 0.0
        if first.shape != second.shape or not bool(((first - second).abs() <= limit).all()):
            return "without some of them, the network computes something else than with zeros in their places"
    return None
