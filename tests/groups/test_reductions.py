"""From numbers of each weight to one of each group, by hand."""

import dataclasses

import pytest
import torch
from torch import nn

from pai_bench.groups import Groups, find_groups
from pai_bench.groups.reductions import consumer_sum, gate_sensitivity, root_sums
from tests.graph.kinds import Net

VALUES = {
    "a.weight": torch.tensor([[1.0, 2.0], [3.0, -4.0]]),
    "a.bias": torch.tensor([10.0, 20.0]),
    "b.weight": torch.tensor([[5.0, 6.0], [7.0, -8.0]]),
    "b.bias": torch.tensor([-40.0, 50.0]),
    "c.weight": torch.tensor([[-1.0, 0.5], [-2.0, 0.0]]),
}


@pytest.fixture(scope="module")
def groups() -> Groups:
    """Of two units, which are the sums of those of two layers."""
    network = Net(lambda m, x: m.c(m.a(x) + m.b(x)), a=nn.Linear(2, 2), b=nn.Linear(2, 2), c=nn.Linear(2, 2))
    return find_groups(network, torch.ones(1, 2))


def test_sums_over_rows_and_columns(groups: Groups) -> None:
    assert torch.stack(root_sums(groups, VALUES)).tolist() == [[13, 19], [-29, 49]]
    assert torch.stack(root_sums(groups, VALUES, bias=False)).tolist() == [[3, -1], [11, -1]]
    weights = {name: value for name, value in VALUES.items() if "weight" in name}
    assert torch.stack(root_sums(groups, weights)).tolist() == [[3, -1], [11, -1]]
    del weights["b.weight"]
    assert torch.stack(root_sums(groups, weights)).tolist() == [[3, -1]]
    assert consumer_sum(groups, VALUES).tolist() == [-3, 0.5]
    assert consumer_sum(groups, {"a.weight": VALUES["a.weight"]}).tolist() == [0, 0]


def test_a_bias_of_several_weights_counts_once() -> None:
    network = Net(
        lambda m, x: m.c(x @ m.v + (x @ m.w + m.s)),
        v=nn.Parameter(torch.ones(2, 2)),
        w=nn.Parameter(torch.ones(2, 2)),
        s=nn.Parameter(torch.ones(2)),
        c=nn.Linear(2, 2),
    )
    groups = find_groups(network, torch.ones(1, 2))
    (v, w, s) = (next(axis for axis in groups.by_axis if axis.name == name) for name in "vws")
    shared = dataclasses.replace(groups, biases={v: s, w: s})
    values = {"v": torch.ones(2, 2), "w": torch.ones(2, 2), "s": torch.tensor([10.0, 20.0])}
    assert torch.stack(root_sums(shared, values)).tolist() == [[12, 22], [2, 2]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [16, 68]),
        ({"bias": False}, [14, 2]),
        ({"tied": "sum"}, [42, 68]),
        ({"tied": "max"}, [29, 49]),
        ({"gate": "consumer"}, [3, 0.5]),
    ],
)
def test_gates(groups: Groups, options: dict[str, str], expected: list[float]) -> None:
    assert gate_sensitivity(groups, VALUES, **options).tolist() == expected  # type: ignore[arg-type]


def test_hidden_units_have_their_gate_before_what_reads_them(groups: Groups) -> None:
    gated = dataclasses.replace(groups, gated=torch.tensor([True, False]))
    assert gate_sensitivity(gated, VALUES).tolist() == [3, 68]


def test_groups_are_the_same_only_where_they_are_one(groups: Groups) -> None:
    assert {groups: 1}[groups] == 1
    assert groups != dataclasses.replace(groups)
