"""One cut, by hand."""

import pytest
import torch
from torch import Tensor

from pai_bench.masks import Mask, cut, select
from pai_bench.masks.allocation import towards
from pai_bench.masks.selection import with_ties
from pai_bench.support.errors import UserError

SCORES = {"a": torch.tensor([5.0, 4.0, 3.0]), "b": torch.tensor([2.0, 1.0])}


def kept(mask: Mask) -> dict[str, list[int]]:
    return {name: tensor.nonzero().flatten().tolist() for name, tensor in mask.items()}


def test_without_options_all_layers_are_ranked_together() -> None:
    assert kept(cut(SCORES, 0.6)) == {"a": [0, 1, 2], "b": []}


@pytest.mark.parametrize(
    ("density", "least", "expected"),
    [
        (0.6, 1, {"a": [0, 1], "b": [0]}),
        (0.8, 2, {"a": [0, 1], "b": [0, 1]}),  # exactly what the floor needs
        (1.0, 3, {"a": [0, 1, 2], "b": [0, 1]}),  # a layer has no more than its own
        (0.6, 0.01, {"a": [0, 1], "b": [0]}),  # a share, rounded up
        (0.8, 0.5, {"a": [0, 1, 2], "b": [0]}),
        (1.0, 0.99, {"a": [0, 1, 2], "b": [0, 1]}),
    ],
)
def test_each_layer_keeps_some(density: float, least: int, expected: dict[str, list[int]]) -> None:
    assert kept(cut(SCORES, density, min_per_layer=least)) == expected


def test_what_a_floor_takes_the_other_layers_give() -> None:
    """Of 4 connections, the division gives none to the first layer and 4 to the others, in proportion 3 : 1."""
    scores = {name: torch.arange(4.0) for name in "abc"}
    mask = cut(scores, 4 / 12, division=lambda _count, _left: [0, 3, 1], min_per_layer=1)
    assert mask.kept_per_layer() == {"a": 1, "b": 2, "c": 1}


def test_a_division_ends_at_given_numbers_and_comes_to_them_in_proportion() -> None:
    """From 10 and 20 to 4 and 2: on the way, 6 and 18 more are there in the same share."""
    division = towards({"a": torch.Size([10]), "b": torch.Size([4, 5])}, [4, 2])
    assert division(6, [10, 20]) == [4, 2]
    assert division(18, [10, 20]) == [4 + 3, 2 + 9]
    assert division(18, [5, 20]) == [5, 13]  # no more than there is


@pytest.mark.parametrize("options", [{}, {"min_per_layer": 1}, {"division": lambda _count, _left: [2, 2]}])
def test_more_than_is_left_cannot_be_kept(options: dict[str, object]) -> None:
    alive = {"a": torch.tensor([True, False, False]), "b": torch.tensor([True, True])}
    with pytest.raises(UserError, match="cannot be kept of"):
        cut(SCORES, 0.8, alive=alive, **options)  # type: ignore[arg-type]


INFINITE = {"a": torch.tensor([torch.inf, 1.0]), "b": torch.tensor([2.0, -torch.inf])}


def test_where_nothing_is_kept_or_removed_infinite_scores_tie_with_nothing() -> None:
    for keep in (False, True):
        masks: dict[str, Tensor] = {name: torch.full((2,), keep) for name in INFINITE}
        for ties in ("keep", "remove"):
            found = with_ties(INFINITE, masks, ties)
            assert all(torch.equal(found[name], masks[name]) for name in masks)


def test_ties_are_those_of_the_threshold() -> None:
    scores = {"a": torch.tensor([3.0, 2.0, 2.0]), "b": torch.tensor([2.0, 1.0])}
    mask = select(scores, 2)
    assert kept(Mask(with_ties(scores, mask, "keep"))) == {"a": [0, 1, 2], "b": [0]}
    assert kept(Mask(with_ties(scores, mask, "remove"))) == {"a": [0], "b": []}
    alive = {"a": torch.tensor([True, True, False]), "b": torch.tensor([True, True])}
    assert kept(Mask(with_ties(scores, mask, "keep", alive))) == {"a": [0, 1], "b": [0]}
    assert kept(Mask(with_ties(scores, mask, "remove", alive))) == {"a": [0], "b": []}
