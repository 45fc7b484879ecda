"""Which elements of a function's result depend on which of its four arguments: by masks, and by torch's gradients."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import pai_bench as pb
from tests.graph.kinds import Net

Function = Callable[[Tensor], Tensor]
"""From (1, 4) to (1, ...)."""


def by_masks(function: Function) -> list[list[bool]]:
    """For each element of the result, which arguments reach it; no operation of `function` may be unknown."""
    size = function(torch.ones(1, 4)).numel()
    model = Net(
        lambda net, x: net.b(function(net.a(x)).flatten()),
        a=nn.Linear(4, 4, bias=False),
        b=nn.Linear(size, 1, bias=False),
    )
    columns = []
    for argument in range(4):
        mask = {"a.weight": torch.zeros(4, 4, dtype=torch.bool), "b.weight": torch.ones(1, size, dtype=torch.bool)}
        mask["a.weight"][argument] = True
        found = pb.connectivity(model, mask, torch.zeros(1, 4))
        assert not found.unknown
        effective = found.effective_mask["b.weight"][0]
        assert bool(found.effective_mask["a.weight"].any()) == bool(effective.any())
        columns.append(effective)
    return [[bool(one) for one in row] for row in torch.stack(columns, 1)]


def by_gradients(function: Function) -> list[list[bool]]:
    """The same, where a derivative is not zero for one of some arguments at least."""
    found = torch.zeros(())
    for seed in range(16):
        x = torch.randn(1, 4, generator=torch.Generator().manual_seed(seed))
        jacobian = torch.autograd.functional.jacobian(lambda v: function(v + 0).flatten(), x)
        found = found + (jacobian[:, 0] != 0)
    return [[bool(one) for one in row] for row in found]
