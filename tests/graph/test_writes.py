"""What is written into a part of a tensor, in all the ways in which torch does it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from tests.graph.dependence import by_gradients, by_masks
from tests.graph.kinds import Net

CHOSEN = torch.tensor([True, False, True, False, False, True])
PLACES = torch.tensor([1, 2])
UNTYPED: Any = torch  # its annotations say that some functions return nothing


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


@pytest.mark.filterwarnings("ignore:index_reduce.. is in beta:UserWarning")
@pytest.mark.parametrize(
    "write",
    [
        lambda room, x: torch.ops.aten._unsafe_index_put(room, [torch.tensor([0, 0]), PLACES], torch.ones(2)),
        lambda room, x: torch.ops.aten._index_put_impl_(room, [torch.tensor([0, 0]), PLACES], x[0, 2:]),
        lambda room, x: room.index_put((torch.tensor([0, 0]), PLACES), x[0, 2:], accumulate=True),
        lambda room, x: room.put_(PLACES, torch.ones(2)),
        lambda room, x: room.put(torch.tensor([0, 2]), x[0, 2:], accumulate=True),
        lambda room, x: room.masked_scatter_(CHOSEN, x),
        lambda room, x: room.masked_select(CHOSEN),
        lambda room, x: room.scatter_(1, PLACES[None], 5.0),
        lambda room, x: room.scatter_add_(1, PLACES[None], x[:, 2:]),
        lambda room, x: room.scatter_reduce_(1, PLACES[None], x[:, 2:], "sum"),
        lambda room, x: room.scatter_reduce(1, PLACES[None], x[:, 2:], "prod"),
        lambda room, x: room.scatter_reduce(1, PLACES[None], x[:, 2:], "amax", include_self=False),
        lambda room, x: room.index_reduce_(1, PLACES, x[:, 2:], "amax"),
        lambda room, x: room.index_reduce(1, PLACES, x[:, 2:], "mean", include_self=False),
        lambda room, x: room.slice_scatter(x[:, 2:], 1, 1, 3),
        lambda room, x: room.select_scatter(torch.ones(1), 1, 3),
        lambda room, x: torch.slice_copy(room, 1, 1, 3),
        lambda room, x: torch.select_copy(room, 1, 3),
        lambda room, x: torch.permute_copy(room, (1, 0)),
        lambda room, x: torch.expand_copy(room, (2, 6)),
        lambda room, x: UNTYPED.split_copy(room, 2, 1)[1],
        lambda room, x: UNTYPED.split_with_sizes_copy(room, [2, 4], 1)[1],
        lambda room, x: UNTYPED.unbind_copy(room, 1)[3],
        lambda room, x: torch.diagonal_copy(room.view(2, 3)),
        lambda room, x: torch.as_strided_copy(room, (1, 2), (1, 1), 2),
        lambda room, x: torch.ops.aten._reshape_copy(room, (2, 3)),
        lambda room, x: torch.ops.aten.lift_fresh_copy(room),
    ],
)
def test_elements_that_are_put_elsewhere(write: Callable[[Tensor, Tensor], Tensor]) -> None:
    function = in_room(write)
    assert by_masks(function) == by_gradients(function)


@pytest.mark.filterwarnings("ignore:The reduce argument of torch.scatter:UserWarning")
def test_a_part_multiplied_in_place_by_constants_depends_on_what_it_did() -> None:
    index = torch.tensor([[1, 2]])
    found = by_masks(lambda x: (x + 0).scatter_(1, index, torch.full((1, 2), 2.0), reduce="multiply"))
    assert found == torch.eye(4, dtype=torch.bool).tolist()


def test_several_tensors_written_at_once_are_taken_to_pass_everything() -> None:
    """Such functions of torch return nothing: what they write is their result."""

    def run(net: Any, x: Tensor) -> Tensor:
        y = torch.zeros(1, 3)
        torch._foreach_copy_([y], [net.a(x)])
        output: Tensor = net.b(y)
        return output

    model = Net(run, a=nn.Linear(3, 3), b=nn.Linear(3, 1))
    mask = {"a.weight": torch.eye(3, dtype=torch.bool), "b.weight": torch.ones(1, 3, dtype=torch.bool)}
    found = pb.connectivity(model, mask, torch.zeros(1, 3))
    assert found.effective_sparsity == pytest.approx(1 - 6 / 12)
    assert any("_foreach_copy" in name for name in found.unknown)


def cloned(write: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    """A copy of a weight, into which something is written."""

    def function(weight: Tensor) -> Tensor:
        copied = weight.clone()
        write(copied)
        return copied

    return function


def assembled(weight: Tensor) -> Tensor:
    room = torch.zeros(3, 3)
    room[1] = weight[0]
    return room


def masked(weight: Tensor) -> Tensor:
    """As in autoregressive networks, the weight of the layer itself."""
    weight.data *= FIRST_TWO
    return weight


FIRST_TWO = torch.tensor([1.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("write", "effective", "features"),
    [
        (cloned(lambda w: w[1].fill_(1.0)), [[1, 1, 1], [0, 0, 0], [0, 1, 0]], [1, 1, 1]),
        (cloned(lambda w: w[0].zero_()), [[0, 0, 0], [0, 0, 0], [0, 1, 0]], [0, 0, 1]),
        (cloned(lambda w: w[1].copy_(w[0])), [[1, 1, 1], [0, 0, 0], [0, 1, 0]], [1, 1, 1]),
        (cloned(lambda w: w[0].mul_(FIRST_TWO)), [[1, 1, 0], [0, 0, 0], [0, 1, 0]], [1, 0, 1]),
        (cloned(lambda w: w.mul_(FIRST_TWO)), [[1, 1, 0], [0, 0, 0], [0, 1, 0]], [1, 0, 1]),
        (assembled, [[1, 1, 1], [0, 0, 0], [0, 0, 0]], [0, 1, 0]),
        (masked, [[1, 1, 0], [0, 0, 0], [0, 1, 0]], [1, 0, 1]),
    ],
)
def test_weights_that_are_written_into(
    write: Callable[[Tensor], Tensor], effective: list[list[int]], features: list[int]
) -> None:
    """Of the first weight, the first row and one element of the last are kept."""
    model = Net(lambda net, x: net.b(F.linear(x, write(net.a.weight))), a=nn.Linear(3, 3), b=nn.Linear(3, 1))
    kept = torch.tensor([[True, True, True], [False, False, False], [False, True, False]])
    mask = {"a.weight": kept, "b.weight": torch.ones(1, 3, dtype=torch.bool)}
    found = pb.connectivity(model, mask, torch.zeros(1, 3))
    assert not found.unknown
    assert found.effective_mask["a.weight"].int().tolist() == effective
    assert found.effective_mask["b.weight"].int().tolist() == [features]
