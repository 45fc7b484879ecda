"""Labels of training examples: random ones in their place, and how many examples of each class are taken."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Noise = float | Literal["permute"]
"""The probability or share of labels that are random; or ``permute``, for a permutation of all of them."""

NoiseLaw = Literal["bernoulli", "exact"]
"""Whether each label is drawn anew with a probability, or exactly a share of them is."""


class LabelNoise(NamedTuple):
    """What random labels have replaced: the true ones, class indices (N,); and which were drawn anew, (N,) of bool.

    A label that was drawn anew may be the true one.
    """

    true_targets: Tensor
    drawn: Tensor


def random_labels(
    true: Tensor, classes: int, noise: Noise, law: NoiseLaw, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Labels in place of the `true` ones, and which of them were drawn anew."""
    count = len(true)
    if noise == "permute":
        return true[torch.randperm(count, generator=generator)], torch.ones(count, dtype=torch.bool)
    if law == "exact":
        drawn = torch.zeros(count, dtype=torch.bool)
        drawn[torch.randperm(count, generator=generator)[: round(noise * count)]] = True
    else:
        drawn = torch.rand(count, generator=generator) < noise
    return torch.where(drawn, torch.randint(0, classes, (count,), generator=generator), true), drawn


def rank_in_class(labels: Tensor, classes: int) -> Tensor:
    """Of each example, how many of its class stand before it."""
    by_class = labels.argsort(stable=True)
    counts = torch.bincount(labels, minlength=classes)
    rank = torch.empty_like(labels)
    rank[by_class] = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[by_class]]
    return rank


def balanced_counts(sizes: Sequence[int], total: int) -> list[int]:
    """How many of `total` examples are of each class, in proportion to the `sizes`: rounded by largest remainder.

    Of equal remainders, the lower class has the example. A class may have one less of a few more examples (6, 6 and 2
    give 4, 4 and 2 of 10, but 5, 5 and 1 of 11), as with every rounding of shares that keeps their sum.
    """
    whole = sum(sizes)
    counts, remainders = [total * size // whole for size in sizes], [total * size % whole for size in sizes]
    for number in sorted(range(len(sizes)), key=lambda i: (-remainders[i], i))[: total - sum(counts)]:
        counts[number] += 1
    return counts
