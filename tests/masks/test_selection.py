"""Selection keeps exactly k, the best, ties by position."""

from collections.abc import Callable
from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.profiler import profile

from pai_bench.masks import device_selection, selection
from pai_bench.masks.selection import apportion, kept_count, select
from pai_bench.support.errors import UserError

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
def test_selection_layer_by_layer(values: list[list[int]], density: float) -> None:
    sizes = [len(row) for row in values]
    parts = apportion(sizes, kept_count(density, sum(sizes)), sizes)
    scores = {str(i): torch.tensor(row, dtype=torch.float64) for i, row in enumerate(values)}
    masks = select(scores, dict(zip(scores, parts, strict=True)))
    for part, row, mask in zip(parts, values, masks.values(), strict=True):
        assert {(0, i) for i in mask.nonzero().flatten().tolist()} == best_positions([row], part)


@given(layers, st.floats(0, 1), st.floats(0, 1))
def test_what_is_not_alive_is_never_kept(values: list[list[int]], first: float, second: float) -> None:
    scores = {str(i): torch.tensor(row, dtype=torch.float64) for i, row in enumerate(values)}
    size = sum(map(len, values))
    before, after = sorted((kept_count(first, size), kept_count(second, size)), reverse=True)
    alive = select({name: -score for name, score in scores.items()}, before)
    masks = select(scores, after, alive)
    assert sum(int(mask.count_nonzero()) for mask in masks.values()) == after
    for name, mask in masks.items():
        assert not (mask & ~alive[name]).any()


def example_scores(kind: str, generator: torch.Generator) -> list[torch.Tensor]:
    """Scores of several tensors with few or many ties, of both signs, infinite ones, of two types."""
    sizes = (1, 333, 70, 2000)
    scores = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    changes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "continuous": lambda s: s,
        "mixed types": lambda s: s.float() if len(s) > 70 else s,
        "ties": torch.round,
        "mostly zero": lambda s: s.clamp(min=1.0) - 1,
        "constant": torch.zeros_like,
        "infinite": lambda s: torch.where(s > 0.5, torch.inf, torch.where(s < -0.5, -torch.inf, s)),
    }
    return [changes[kind](score) for score in scores]


@pytest.mark.parametrize("kind", ["continuous", "mixed types", "ties", "mostly zero", "constant", "infinite"])
@pytest.mark.parametrize("share_alive", [1.0, 0.5, 0.02])
def test_a_guessed_bracket_never_shows_in_the_result(
    kind: str, share_alive: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With far too narrow a bracket, it is often wrong; blocks are cut in awkward places."""
    monkeypatch.setattr(selection, "DIRECT", 10)
    monkeypatch.setattr(selection, "SIGMAS", 0.1)
    monkeypatch.setattr(selection, "BLOCK", 50)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        tensors = example_scores(kind, generator)
        live = [torch.rand(t.shape, generator=generator) < share_alive for t in tensors]
        order = sorted(
            (-value, layer, i)
            for layer, tensor in enumerate(tensors)
            for i, value in enumerate(tensor.tolist())
            if share_alive == 1 or live[layer][i]
        )
        count = int(torch.randint(len(order) + 1, (1,), generator=generator))
        masks = selection.top(tensors, count, None if share_alive == 1 else live)
        kept = {(layer, i) for layer, mask in enumerate(masks) for i in mask.nonzero().flatten().tolist()}
        assert kept == {(layer, i) for _, layer, i in order[:count]}


def test_selection_of_many_scores_is_the_one_of_a_stable_sort() -> None:
    scores = torch.randn(15 * device_selection.DIRECT, generator=torch.Generator().manual_seed(0)).abs_()
    scores[::3] = scores[1]  # a third are equal
    parts = {"a": scores[:1000].view(10, 100), "b": scores[1000:].view(-1, 1).t()}  # the second is not contiguous
    order = scores.argsort(descending=True, stable=True)
    for count in (1, 1000, 200_000, len(scores) - 1):
        expected = torch.zeros(len(scores), dtype=torch.bool)
        expected[order[:count]] = True
        masks = select(parts, count)
        assert {name: mask.shape for name, mask in masks.items()} == {name: t.shape for name, t in parts.items()}
        assert torch.equal(torch.cat([mask.flatten() for mask in masks.values()]), expected)


def test_selection_touches_no_random_state() -> None:
    before = torch.get_rng_state()
    select({"a": torch.arange(2.0 * device_selection.DIRECT)}, 7)
    assert torch.equal(torch.get_rng_state(), before)


def test_nan_cannot_be_ranked() -> None:
    with pytest.raises(UserError, match="the scores hold NaN"):
        select({"a": torch.full((5,), torch.nan)}, 2)


def test_no_more_can_be_kept_than_there_are() -> None:
    with pytest.raises(UserError, match="3 connections cannot be kept of 2"):
        select({"a": torch.ones(2)}, 3)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=8), st.floats(0, 1))
def test_apportion_is_exact_and_proportional(sizes: list[int], share: float) -> None:
    count = round(share * sum(sizes))
    parts = apportion(sizes, count, sizes)
    assert sum(parts) == count
    assert all(abs(part - count * size / sum(sizes)) < 1 for part, size in zip(parts, sizes, strict=True))


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), min_size=1, max_size=8), st.floats(0, 1))
def test_apportion_fills_what_overflows_and_divides_the_rest_again(parts: list[tuple[int, int]], share: float) -> None:
    """All parts below their limit have the same ratio to their weight, none of those at the limit a larger one."""
    weights, limits = [w for w, _ in parts], [limit for _, limit in parts]
    count = round(share * sum(limits))
    found = apportion(weights, count, limits)
    assert sum(found) == count
    assert all(0 <= part <= limit for part, limit in zip(found, limits, strict=True))
    free = [i for i in range(len(parts)) if found[i] < limits[i]]
    for i in free:
        for j in range(len(parts)):  # rounding moves a part by less than one
            assert found[j] / weights[j] < (found[i] + 1) / weights[i] + 1 / weights[j]


def test_apportion_by_largest_remainder() -> None:
    # quotas 1.4, 2.8, 2.8: the two largest remainders get the two places left over
    assert apportion([10, 20, 20], 7, [10, 20, 20]) == [1, 3, 3]
    # quotas 2.5, 2.5: equal remainders, the first layer gets it
    assert apportion([5, 5], 5, [5, 5]) == [3, 2]
    # the first would get 8 of 12, but holds 3; the other 9 are divided 1 : 2
    assert apportion([6, 1, 2], 12, [3, 9, 9]) == [3, 3, 6]


def test_more_than_there_is_cannot_be_divided() -> None:
    with pytest.raises(UserError, match="cannot be divided"):
        apportion([2, 2], 4, limits=[1, 2])


def test_python_rounding_decides_the_count() -> None:
    assert [kept_count(0.5, size) for size in (1, 3, 5)] == [0, 2, 2]


def test_a_threshold_between_two_values_and_a_thousand_small_tensors() -> None:
    """Half of a large tensor is 1, everything else 0: the count falls on the border between them."""
    big = torch.zeros(500_000)
    big[::2] = 1
    scores = [big, *[torch.zeros(1)] * 1000]
    for count, expected in ((250_000, 0), (249_999, 0), (250_003, 3)):
        masks = selection.top(scores, count)
        assert sum(int(mask.sum()) for mask in masks) == count
        assert int((masks[0] & (big == 0)).sum()) == expected


def test_small_tensors_do_not_crowd_the_sample() -> None:
    scores = [torch.rand(300_000), *[torch.rand(2) for _ in range(2000)]]
    sample = selection._sample(scores, None)
    assert len(sample) == pytest.approx(304_000 ** (2 / 3), rel=0.1)  # the steps between them are whole numbers


def test_a_sample_meets_every_place_in_a_kernel() -> None:
    scores = [torch.arange(9.0).expand(4096, 9).contiguous()]
    values, counts = selection._sample(scores, None).unique(return_counts=True)
    assert values.tolist() == list(range(9))
    assert int(counts.max() - counts.min()) <= 1


def allocated(work: Callable[[], object]) -> int:
    """The most bytes that torch has allocated at once during `work`."""
    with profile(profile_memory=True, acc_events=True) as profiler:
        work()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes: list[int] = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(sizes))


def test_conversions_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels-last scores and mixed types are gone through block by block. The masks, by numpy, do not count."""
    monkeypatch.setattr(selection, "BLOCK", 2**16)
    scores = [torch.rand(64, 64, 40, 40).to(memory_format=torch.channels_last), torch.rand(1_000_000).double()]
    size = sum(score.nbytes for score in scores)
    count = sum(score.numel() for score in scores) // 20
    assert allocated(lambda: torch.cat([score.double().flatten() for score in scores])) > size
    assert allocated(lambda: selection.top(scores, count)) < 0.25 * size


def test_apportion_without_weights_goes_where_there_is_room() -> None:
    assert apportion([0, 1], 5, [10, 3]) == [2, 3]
