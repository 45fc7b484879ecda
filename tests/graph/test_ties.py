"""Numbers of slices, by hand: what views of parameters run along, and what is tied to what."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pai_bench.graph.ties import NONE, Axis, Ties, broadcast_over, coordinates, differ, without_repeats
from pai_bench.graph.tracing import trace

ROWS = torch.tensor([[1, 1], [2, 2]])


def test_where_numbers_differ() -> None:
    assert [differ(ROWS, dim) for dim in (0, 1, -1, -2, -3)] == [True, False, False, True, False]
    assert not differ(torch.tensor([[1], [2]]), 1)
    assert differ(torch.tensor([1, NONE]), 0)


def test_only_dimensions_that_change_are_left() -> None:
    first, second = without_repeats(ROWS, torch.tensor([[3, 3], [3, 3]]))
    assert (first.tolist(), second.tolist()) == ([[1], [2]], [[3], [3]])
    first, second = without_repeats(ROWS.T, ROWS)
    assert (first.tolist(), second.tolist()) == ([[1, 2], [1, 2]], [[1, 1], [2, 2]])


@pytest.mark.parametrize(
    ("few", "many", "broadcast", "copied"),
    [
        ([[5]], [[5]], False, False),
        ([[5]], [[1, 2]], True, True),
        ([[1, 2]], [[5]], False, False),
        ([[5, 6]], [[1, 2]], False, False),
        ([[5, 5]], [[1, 2]], False, True),
        ([[5], [6]], [[1, 2]], True, True),
        ([[5], [6]], [[1, 2], [1, 2]], False, False),
        ([[5], [5]], [[1, 2], [1, 2]], True, True),
        ([[5], [5]], [[1, 2], [3, 4]], False, True),
        ([5, 5, 5], [[1, 2, 3], [4, 5, 6]], False, True),
        ([[[5]], [[6]]], [[1, 2], [3, 4]], True, True),
    ],
)
def test_whether_a_unit_meets_several(few: list[Any], many: list[Any], broadcast: bool, copied: bool) -> None:
    first, second = torch.tensor(few), torch.tensor(many)
    assert (broadcast_over(first, second), broadcast_over(first, second, copied=True)) == (broadcast, copied)


def test_a_unit_that_is_expanded_has_one_place() -> None:
    one, two = torch.tensor([[5]]).expand(1, 2), torch.tensor([[1, 2]])
    assert (broadcast_over(one, two), broadcast_over(one.contiguous(), two)) == (True, False)


@pytest.mark.parametrize("order", [lambda w: w, lambda w: w.transpose(0, 2).contiguous().transpose(0, 2)])
def test_places_in_memory(order: Callable[[Tensor], Tensor]) -> None:
    parameter = order(torch.zeros(2, 1, 3))
    indices = torch.cartesian_prod(torch.arange(2), torch.arange(1), torch.arange(3))
    offsets = (indices * torch.tensor(parameter.stride())).sum(1)
    assert torch.equal(torch.stack(coordinates(parameter, offsets), 1), indices)


@pytest.fixture
def made() -> tuple[nn.Sequential, Ties]:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    network.register_buffer("one", torch.ones(1).expand(2))
    return network, Ties(trace(network.eval(), torch.zeros(1, 3)), dict(network.named_modules()))


VIEWS: dict[str, tuple[Callable[[Tensor], Tensor], list[tuple[int, list[int]] | None] | None]] = {
    "itself": (lambda w: w, [(0, [0, 1]), (1, [0, 1, 2])]),
    "turned": (lambda w: w.T, [(1, [0, 1, 2]), (0, [0, 1])]),
    "a row": (lambda w: w[1:], [None, (1, [0, 1, 2])]),
    "a row without its dimension": (lambda w: w[1], [(1, [0, 1, 2])]),
    "columns": (lambda w: w[:, 1:], [(0, [0, 1]), (1, [1, 2])]),
    "every second": (lambda w: w[:, ::2], [(0, [0, 1]), (1, [0, 2])]),
    "expanded": (lambda w: w[:1].expand(4, 3), [None, (1, [0, 1, 2])]),
    "a dimension more": (lambda w: w.unsqueeze(0), [None, (0, [0, 1]), (1, [0, 1, 2])]),
    "all in a row": (lambda w: w.flatten(), None),
    "another": (lambda w: w + 1, None),
}


@pytest.mark.parametrize("name", VIEWS)
def test_what_a_view_runs_along(name: str, made: tuple[nn.Sequential, Ties]) -> None:
    network, ties = made
    view, expected = VIEWS[name]
    found = ties.runs(view(network.get_parameter("0.weight")))
    along = None if found is None else [None if run is None else (run.dim, run.places.tolist()) for run in found]
    assert along == expected


def test_what_has_numbers(made: tuple[nn.Sequential, Ties]) -> None:
    network, ties = made
    bias = network.get_parameter("0.bias")
    numbers = ties.numbers(bias)
    assert numbers is not None
    assert numbers.tolist() == ties.numbered(Axis("0.bias", 0), 2).tolist()
    part = ties.numbers(bias[1:])
    assert part is not None
    assert part.tolist() == numbers[1:].tolist()
    assert ties.numbers(torch.zeros(2)) is None
    assert ties.numbers(2.0) is None
    assert ties.numbers(network.get_buffer("1.num_batches_tracked")) is None
    assert [ties.concerns(t) for t in (bias, torch.zeros(2), network.get_buffer("1.num_batches_tracked"))] == [
        True,
        False,
        False,
    ]
    assert ties.stored(network.get_buffer("one")) is None  # a constant
    value = torch.zeros(2)
    ties.carry(value, numbers)
    assert ties.depends(value)
    assert ties.concerns(value)
    carried = ties.numbers(value)
    assert carried is not None
    assert carried.tolist() == numbers.tolist()


def test_a_weight_that_is_taken_as_a_value_stays_whole(made: tuple[nn.Sequential, Ties]) -> None:
    network, ties = made
    numbers = ties.numbers(network.get_parameter("0.weight"))
    assert numbers is not None
    assert numbers.shape == (2, 3)
    assert ties.kept_whole == {Axis("0.weight", 0)}
    labels = ties.labels()
    assert list(ties.reasons(labels).values()) == [
        ["'0.weight' is used element by element, or weights are computed from it"]
    ]
    rows, columns = (ties.labels_of_axes(labels)[Axis("0.weight", dim)] for dim in (0, 1))
    assert {*rows.tolist(), *columns.tolist()} == set(ties.reasons(labels))


def test_what_is_written_into_a_parameter_is_fixed(made: tuple[nn.Sequential, Ties]) -> None:
    network, ties = made
    numbers = ties.numbered(Axis("other", 0), 2)
    ties.carry(network.get_parameter("0.bias"), numbers[:1])
    labels = ties.labels()
    (label,) = ties.reasons(labels)
    assert ties.reasons(labels)[label] == ["'0.bias' is written to"]
    assert (ties.labels_of_axes(labels)[Axis("other", 0)] == label).tolist() == [True, False]


def test_ties(made: tuple[nn.Sequential, Ties]) -> None:
    _, ties = made
    first, second = ties.numbered(Axis("a", 0), 3), ties.numbered(Axis("b", 0), 3)
    assert ties.numbered(Axis("a", 0), 3).tolist() == first.tolist() == [0, 1, 2]
    assert second.tolist() == [3, 4, 5]
    ties.tie(first, None)
    ties.tie(first[:2], torch.tensor([3, NONE], dtype=torch.int32))
    assert ties.tie_along(torch.tensor([[1, 4], [NONE, NONE]], dtype=torch.int32), 1).tolist() == [4, NONE]
    assert ties.tie_along(second).tolist() == [3, 4, 5]
    labels = ties.labels().tolist()
    groups = {tuple(i for i, other in enumerate(labels) if other == label) for label in labels}
    assert groups == {(0, 3), (1, 4), (2,), (5,)}


def test_reasons_of_one_slice_are_all_named(made: tuple[nn.Sequential, Ties]) -> None:
    _, ties = made
    numbers = ties.numbered(Axis("a", 0), 3)
    for places, reason in ((numbers[:2], "why"), (numbers[1:], "why not"), (None, "nothing")):
        ties.fix(places, reason)
    labels = ties.labels()
    of = ties.labels_of_axes(labels)[Axis("a", 0)].tolist()
    assert of[0] == of[1] == of[2]
    assert ties.reasons(labels)[of[0]] == ["why", "why not"]


def test_parameters_that_lie_in_one_memory_with_others() -> None:
    """Their places are counted from where they begin."""
    memory = torch.zeros(20)
    network = nn.Sequential(nn.Linear(3, 2))
    network[0].weight, network[0].bias = nn.Parameter(memory[4:10].view(2, 3)), nn.Parameter(torch.zeros(5)[3:])
    ties = Ties(trace(network, torch.zeros(1, 3)), {"": network})
    found = ties.runs(network[0].weight[1:, 1:])
    assert found is not None
    assert [run and (run.dim, run.places.tolist()) for run in found] == [None, (1, [1, 2])]
    numbers, part = ties.numbers(network[0].bias), ties.numbers(network[0].bias[1:])
    assert numbers is not None
    assert part is not None
    assert part.tolist() == numbers[1:].tolist() == ties.numbered(Axis("0.bias", 0), 2)[1:].tolist()
