"""What is written into a part of a tensor, in all the ways in which torch does it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from tests.pruning.dependence import by_gradients, by_masks
from tests.pruning.kinds import Net

CHOSEN = torch.tensor([True, False, True, False, False, True])
PLACES = torch.tensor([1, 2])


def in_room(write: Callable[[Tensor, Tensor], Tensor | None]) -> Callable[[Tensor], Tensor]:
    """A function of x that puts it into the middle of zeros (1, 6), and then does `write` with these and x."""

    def function(x: Tensor) -> Tensor:
        room = torch.zeros(1, 6)
        room[:, 1:5] = x
        found = write(room, x)
        return room if found is None else found

    return function


def assign(index: Any, value: Any) -> Callable[[Tensor, Tensor], None]:
    """``room[index] = value``, or what `value` makes of x."""

    def write(room: Tensor, x: Tensor) -> None:
        room[index] = value(x) if callable(value) else value

    return write


@pytest.mark.parametrize(
    "write",
    [
        assign((slice(None), 3), 5.0),
        assign((slice(None), 3), torch.tensor(5.0)),
        assign((slice(None), slice(3, 5)), 5),
        assign((..., 3), 0.0),
        assign((0, 3), 5.0),
        assign(0, 5.0),
        assign(slice(None), torch.tensor(5.0)),
        assign((0, slice(3, None)), torch.tensor([1.0, 0.0, 3.0])),
        assign((slice(None), PLACES), 5.0),
        assign((slice(None), PLACES), torch.tensor([5.0, 0.0])),
        assign((slice(None), CHOSEN), 5.0),
        assign(CHOSEN[None], torch.tensor(5.0)),
        assign((slice(None), 0), lambda x: x[:, 3]),
        assign((slice(None), 0), lambda x: x[0, 3]),
        assign((slice(None), PLACES), lambda x: x[:, 2:]),
        assign((slice(None), PLACES), lambda x: x[0, 3]),
        assign(CHOSEN[None], lambda x: x[0, 1:]),
        lambda room, x: room[:, 3].fill_(5.0),
        lambda room, x: room[:, 3].fill_(torch.tensor(5.0)),
        lambda room, x: room[:, 3].fill_(x[0, 1]),
        lambda room, x: room[:, 3].zero_(),
        lambda room, x: room[:, 3:].copy_(torch.tensor(7.0)),
        lambda room, x: room.index_fill_(1, PLACES, 5.0),
        lambda room, x: room.index_fill_(1, PLACES, torch.tensor(5.0)),
        lambda room, x: room.index_fill(1, PLACES, x[0, 3]),
        lambda room, x: room.masked_fill_(CHOSEN, 5.0),
        lambda room, x: room.masked_fill(CHOSEN, torch.tensor(5.0)),
        lambda room, x: room.masked_fill(CHOSEN, x[0, 3]),
        lambda room, x: torch.fill(room, torch.tensor(5.0)),
    ],
)
def test_a_value_that_is_written(write: Callable[[Tensor, Tensor], Tensor | None]) -> None:
    def returning_room(room: Tensor, x: Tensor) -> Tensor:
        found = write(room, x)
        return room if found is None or found.numel() < 6 else found

    function = in_room(returning_room)
    assert by_masks(function) == by_gradients(function)


@pytest.mark.parametrize(
    "write",
    [
        lambda w: w.index_fill(0, torch.tensor([1]), 1.0),
        lambda w: w.masked_fill(torch.tensor([[False], [True], [False]]), 1.0),
        lambda w: w.masked_fill(torch.tensor([[False], [True], [False]]), torch.tensor(1.0)),
        lambda w: F.pad(w[:2], (0, 0, 1, 0), value=1.0)[[1, 0, 2]],
    ],
)
def test_ones_that_are_written_into_removed_weights(write: Callable[[Tensor], Tensor]) -> None:
    model = Net(lambda net, x: net.b(F.linear(x, write(net.a.weight))), a=nn.Linear(3, 3), b=nn.Linear(3, 1))
    mask = {"a.weight": torch.zeros(3, 3, dtype=torch.bool), "b.weight": torch.ones(1, 3, dtype=torch.bool)}
    found = pb.connectivity(model, mask, torch.zeros(1, 3)).effective_mask["b.weight"]
    assert found.tolist() == [[False, True, False]]
