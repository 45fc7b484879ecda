"""Random labels, and how many examples of each class a balanced part has."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pai_bench.data.labels import balanced_counts, random_labels, rank_in_class

TRUE = torch.arange(40) % 4


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("share", "count"), [(0.01, 0), (0.0125, 0), (0.1, 4), (0.26, 10), (0.5, 20), (1.0, 40)])
def test_exactly_a_share_of_the_labels_is_drawn_anew(share: float, count: int) -> None:
    labels, drawn = random_labels(TRUE, 4, share, "exact", seeded())
    assert int(drawn.sum()) == count == round(share * 40)
    assert torch.equal(labels[~drawn], TRUE[~drawn])
    again = random_labels(TRUE, 4, share, "exact", seeded())
    assert torch.equal(labels, again[0])
    assert torch.equal(drawn, again[1])
    assert count in (0, 40) or not torch.equal(drawn, random_labels(TRUE, 4, share, "exact", seeded(1))[1])


def test_drawn_labels_are_of_all_classes_and_may_be_the_true_ones() -> None:
    zeros = torch.zeros(40_000, dtype=torch.long)
    labels, drawn = random_labels(zeros, 4, 0.5, "exact", seeded())
    shares = torch.bincount(labels[drawn], minlength=4) / 20_000
    assert ((shares - 0.25).abs() < 5 * (0.25 * 0.75 / 20_000) ** 0.5).all()


def test_permuted_labels_are_all_of_the_true_ones_in_another_order() -> None:
    uneven = torch.tensor([0] * 30 + [1] * 9 + [2])
    labels, drawn = random_labels(uneven, 4, "permute", "bernoulli", seeded())
    assert drawn.all()
    assert torch.bincount(labels).tolist() == [30, 9, 1]
    assert not torch.equal(labels, uneven)
    assert len({tuple(random_labels(uneven, 4, "permute", "bernoulli", seeded(i))[0].tolist()) for i in range(9)}) == 9


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_labels_drawn_one_by_one_are_those_of_the_first_results(noise: float) -> None:
    """Stored results are of these labels."""
    stream = seeded(7)
    replaced, anew = torch.rand(40, generator=stream) < noise, torch.randint(0, 4, (40,), generator=stream)
    labels, drawn = random_labels(TRUE, 4, noise, "bernoulli", seeded(7))
    assert torch.equal(drawn, replaced)
    assert torch.equal(labels, torch.where(replaced, anew, TRUE))


def test_ranks_within_classes() -> None:
    assert rank_in_class(torch.tensor([2, 0, 2, 2, 0]), 4).tolist() == [0, 0, 1, 2, 1]


@pytest.mark.parametrize(
    ("sizes", "total", "counts"),
    [
        ((6, 3, 1), 5, (3, 2, 0)),  # shares 3, 1.5, 0.5: of equal remainders, the lower class
        ((5, 5, 5), 4, (2, 1, 1)),
        ((5, 5, 5), 2, (1, 1, 0)),
        ((6, 3, 0, 1), 1, (1, 0, 0, 0)),
        ((6, 3, 0, 1), 10, (6, 3, 0, 1)),
        ((6, 6, 2), 10, (4, 4, 2)),  # remainders 2/7, 2/7, 3/7
        ((6, 6, 2), 11, (5, 5, 1)),  # remainders 5/7, 5/7, 4/7
        ((7, 1), 0, (0, 0)),
    ],
)
def test_counts_by_hand(sizes: tuple[int, ...], total: int, counts: tuple[int, ...]) -> None:
    assert balanced_counts(sizes, total) == list(counts)


@given(st.lists(st.integers(0, 40), min_size=2, max_size=7).filter(any), st.data())
def test_counts_add_up_and_are_less_than_one_from_their_shares(sizes: list[int], data: st.DataObject) -> None:
    whole = sum(sizes)
    total = data.draw(st.integers(0, whole))
    counts = balanced_counts(sizes, total)
    assert sum(counts) == total
    assert all(abs(count * whole - size * total) < whole for count, size in zip(counts, sizes, strict=True))
    assert all(count <= size for count, size in zip(counts, sizes, strict=True))
