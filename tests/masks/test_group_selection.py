"""Selection of groups of weights under a budget of weights."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pai_bench.masks import select
from pai_bench.support import transfers
from pai_bench.support.errors import UserError

Group = tuple[float, int, bool]
"""Score, size, and whether it can be kept."""

groups = st.tuples(st.sampled_from([-float("inf"), -1.0, -0.0, 0.0, 0.5, 3.0]), st.integers(1, 9), st.booleans())
layers = st.lists(st.lists(groups, min_size=1, max_size=8), min_size=1, max_size=4)


def kept_in_a_loop(values: list[list[Group]], budget: int) -> list[list[bool]]:
    """By the definition: highest score first, then first position, up to the first group that exceeds the budget."""
    kept = [[False] * len(layer) for layer in values]
    available = [
        (-s, i, j, size) for i, layer in enumerate(values) for j, (s, size, alive) in enumerate(layer) if alive
    ]
    used = 0
    for _, i, j, size in sorted(available):
        if used + size > budget:
            break
        used += size
        kept[i][j] = True
    return kept


def columns(values: list[list[Group]]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Scores in float64, sizes, and what can be kept, by layer."""
    scores = {str(i): torch.tensor([g[0] for g in layer], dtype=torch.float64) for i, layer in enumerate(values)}
    sizes = {str(i): torch.tensor([g[1] for g in layer]) for i, layer in enumerate(values)}
    alive = {str(i): torch.tensor([g[2] for g in layer]) for i, layer in enumerate(values)}
    return scores, sizes, alive


@given(layers, st.floats(0, 1), st.booleans())
def test_groups_are_kept_as_in_a_loop(values: list[list[Group]], density: float, some_dead: bool) -> None:
    if not some_dead:
        values = [[(score, size, True) for score, size, _ in layer] for layer in values]
    scores, sizes, alive = columns(values)
    budget = int(density * sum(size for layer in values for _, size, living in layer if living))
    masks = select(scores, budget, alive if some_dead else None, sizes=sizes)
    assert [mask.tolist() for mask in masks.values()] == kept_in_a_loop(values, budget)


@given(layers, st.floats(0, 1))
def test_a_budget_for_each_layer(values: list[list[Group]], density: float) -> None:
    scores, sizes, alive = columns(values)
    budgets = {name: int(density * int((size * alive[name]).sum())) for name, size in sizes.items()}
    masks = select(scores, budgets, alive, sizes=sizes)
    expected = [kept_in_a_loop([layer], budget)[0] for layer, budget in zip(values, budgets.values(), strict=True)]
    assert [mask.tolist() for mask in masks.values()] == expected


@pytest.mark.parametrize("on_host", [True, False])
@given(layers, st.floats(0, 1), st.booleans())
def test_groups_of_one_weight_are_selected_like_weights(
    on_host: bool, values: list[list[Group]], density: float, some_dead: bool
) -> None:
    scores, sizes, alive = columns(values)
    living = alive if some_dead else None
    ones = {name: torch.ones_like(size) for name, size in sizes.items()}
    count = int(density * sum(int(mask.sum()) for mask in alive.values()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfers, "on_host", lambda *_tensors: on_host)
        masks, weights = select(scores, count, living, sizes=ones), select(scores, count, living)
    assert all(mask.equal(weights[name]) for name, mask in masks.items())


def test_the_first_group_that_exceeds_the_budget_ends_the_selection() -> None:
    """Of sizes 3, 4 and 1 in order of score, a budget of 5 keeps the first alone, though the last would fit."""
    scores, sizes = {"a": torch.tensor([[1.0, 3.0], [2.0, 0.0]])}, {"a": torch.tensor([[1, 3], [4, 1]])}
    kept = {budget: select(scores, budget, sizes=sizes)["a"].tolist() for budget in (0, 2, 5, 7, 8, 9)}
    first = [[False, True], [False, False]]
    two = [[False, True], [True, False]]
    nothing, all_ = [[False, False]] * 2, [[True, True]] * 2
    assert kept == {0: nothing, 2: nothing, 5: first, 7: two, 8: [[True, True], [True, False]], 9: all_}


@pytest.mark.parametrize(
    ("scores", "sizes", "budget", "message"),
    [
        ([1.0, 2.0], [1, 2], 4, "4 connections cannot be kept of 3"),
        ([1.0, float("nan")], [1, 2], 1, "the scores hold NaN"),
        ([1.0, 2.0], [1, 0], 1, "sizes must be at least 1"),
        ([1.0, 2.0], [1], 1, "sizes must be whole numbers, one for each score"),
        ([1.0, 2.0], [1.0, 2.0], 1, "sizes must be whole numbers, one for each score"),
    ],
)
def test_mistakes_in_groups(scores: list[float], sizes: list[Any], budget: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        select({"a": torch.tensor(scores)}, budget, sizes={"a": torch.tensor(sizes)})
