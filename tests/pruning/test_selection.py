"""Selection keeps exactly k, the best, ties by position."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pai_bench.errors import UserError
from pai_bench.pruning.selection import apportion, kept_count, select

layers = st.lists(st.lists(st.integers(-2, 2), min_size=1, max_size=12), min_size=1, max_size=4)


def best_positions(values: list[list[int]], count: int) -> set[tuple[int, int]]:
    """The positions to keep, by sorting: highest first, then first layer, then lowest index."""
    order = sorted((-v, layer, i) for layer, row in enumerate(values) for i, v in enumerate(row))
    return {(layer, i) for _, layer, i in order[:count]}


@given(layers, st.floats(0, 1))
def test_global_selection_is_the_sorted_one(values: list[list[int]], density: float) -> None:
    size = sum(map(len, values))
    count = kept_count(density, size)
    scores = {str(i): torch.tensor(row, dtype=torch.float64) for i, row in enumerate(values)}
    masks = select(scores, count)
    kept = {(int(name), i) for name, mask in masks.items() for i in mask.nonzero().flatten().tolist()}
    assert kept == best_positions(values, count)


@given(layers, st.floats(0, 1))
def test_layerwise_selection_keeps_the_same_share_of_each_layer(values: list[list[int]], density: float) -> None:
    sizes = [len(row) for row in values]
    count = kept_count(density, sum(sizes))
    scores = {str(i): torch.tensor(row, dtype=torch.float64) for i, row in enumerate(values)}
    masks = select(scores, count, "layerwise")
    kept = [int(mask.count_nonzero()) for mask in masks.values()]
    assert sum(kept) == count
    for part, size, row, mask in zip(kept, sizes, values, masks.values(), strict=True):
        assert abs(part - count * size / sum(sizes)) < 1
        assert {(0, i) for i in mask.nonzero().flatten().tolist()} == best_positions([row], part)


@given(layers, st.floats(0, 1), st.floats(0, 1), st.sampled_from(["global", "layerwise"]))
def test_what_is_not_alive_is_never_kept(values: list[list[int]], first: float, second: float, scope: str) -> None:
    scores = {str(i): torch.tensor(row, dtype=torch.float64) for i, row in enumerate(values)}
    size = sum(map(len, values))
    before, after = sorted((kept_count(first, size), kept_count(second, size)), reverse=True)
    alive = select({name: -score for name, score in scores.items()}, before, scope)  # type: ignore[arg-type]
    masks = select(scores, after, scope, alive)  # type: ignore[arg-type]
    assert sum(int(mask.count_nonzero()) for mask in masks.values()) == after
    for name, mask in masks.items():
        assert not (mask & ~alive[name]).any()


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=8), st.floats(0, 1))
def test_apportion_is_exact_and_proportional(sizes: list[int], share: float) -> None:
    count = round(share * sum(sizes))
    parts = apportion(sizes, count)
    assert sum(parts) == count
    assert all(abs(part - count * size / sum(sizes)) < 1 for part, size in zip(parts, sizes, strict=True))


def test_apportion_by_largest_remainder() -> None:
    # quotas 1.4, 2.8, 2.8: the two largest remainders get the two places left over
    assert apportion([10, 20, 20], 7) == [1, 3, 3]
    # quotas 2.5, 2.5: equal remainders, the first layer gets it
    assert apportion([5, 5], 5) == [3, 2]


def test_more_than_there_is_cannot_be_divided() -> None:
    with pytest.raises(UserError, match="cannot be divided"):
        apportion([2, 2], 4, limits=[1, 2])


def test_python_rounding_decides_the_count() -> None:
    assert [kept_count(0.5, size) for size in (1, 3, 5)] == [0, 2, 2]


def test_unknown_scope() -> None:
    with pytest.raises(UserError, match="local"):
        select({"a": torch.zeros(2)}, 1, "local")  # type: ignore[arg-type]
