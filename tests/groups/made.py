"""The networks of these tests with their groups, and masks that keep some of these."""

import torch
from torch import Tensor, nn

from pai_bench.groups import Groups, find_groups
from tests.groups.networks import NETWORKS, filled


def made(name: str, examples: int = 1) -> tuple[nn.Module, Groups, Tensor]:
    """A network of `NETWORKS` by its name, its groups, and inputs for it."""
    build, shape, _ = NETWORKS[name]
    network, generator = filled(build()), torch.Generator().manual_seed(5)
    inputs = torch.randn((examples, *shape[1:]), generator=generator, dtype=torch.float64)
    return network, find_groups(network, inputs[:1]), inputs


def groups_of(network: nn.Module, shape: tuple[int, ...]) -> tuple[Groups, Tensor]:
    """The groups of a network, and the input of that shape by which they were found."""
    example = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return find_groups(network, example), example


def some_kept(groups: Groups, share: float, seed: int) -> Tensor:
    """About a share of the groups, at least one of each layer."""
    kept = torch.rand(groups.count, generator=torch.Generator().manual_seed(seed)) < share
    for of in (groups.by_axis[axis] for axis in groups.roots if axis in groups.by_axis):
        if bool((of >= 0).all()) and not bool(kept[of].any()):
            kept[of[0]] = True
    return kept
