"""Labels of training examples: random ones in their place, and how many examples of each class are taken."""

import functools
from typing import Literal, NamedTuple

import numpy as np
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


@functools.cache
def balanced_counts(sizes: tuple[int, ...], total: int) -> tuple[int, ...]:
    """How many of `total` examples are of each class, in proportion to the `sizes` of the classes.

    One example after the other is of the class that is farthest below its share, the lower one of equal classes: the
    largest remainder. Remainders of one total alone may give a class fewer of 11 examples than of 10 (the Alabama
    paradox); these counts never fall.
    """
    shares, counts = np.array(sizes), np.zeros(len(sizes), dtype=np.int64)
    for taken in range(1, total + 1):
        counts[np.argmax(shares * taken - counts * sum(sizes))] += 1
    return tuple(counts.tolist())
