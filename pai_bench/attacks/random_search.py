"""An attack that follows no gradients, and is not misled by those that are masked."""

import numpy as np
import torch
from torch import Tensor

from pai_bench.attacks.ball import Ball, drawn, per_example
from pai_bench.attacks.examples import Adversaries, Examples, Search
from pai_bench.attacks.losses import Network, is_fooled, margin

LARGEST = 0.8
"""Side of the first squares, as a share of the image's."""


@torch.no_grad()
def random_search(
    network: Network, examples: Examples, ball: Ball, *, queries: int = 1000, seed: int = 0, leave: bool = True
) -> Adversaries:
    """Squares of an image are moved to the end of the ball, up or down by channel, where the margin grows by it.

    The sides of the squares become smaller with the queries. The first perturbation is one of vertical stripes. Inputs
    that are no images have segments in place of squares. In the manner of Andriushchenko et al. 2020, arXiv:1912.00049.
    """
    draws, signs = uniform(examples, queries, seed), stripes(examples, seed)
    search = Search(examples, ball.step(examples.inputs, signs, examples.inputs, 1.0), leave=leave)
    logits = network(search.inputs)
    best = margin(logits, examples)
    if (stays := search.note(is_fooled(logits, examples.labels))) is not None:
        best, signs, draws, ball = best[stays], signs[stays], draws[stays], ball.at(stays)
    for query in range(queries):
        if not len(search):
            break
        tried = with_square(signs, draws[:, query], LARGEST * (1 - query / queries) ** 2)
        inputs = ball.step(search.examples.inputs, tried, search.examples.inputs, 1.0)
        logits = network(inputs)
        values = margin(logits, search.examples)
        fooled = is_fooled(logits, search.examples.labels)
        better = fooled | (values > best)
        search.inputs = torch.where(per_example(better, inputs), inputs, search.inputs)
        signs, best = torch.where(per_example(better, signs), tried, signs), torch.where(better, values, best)
        if (stays := search.note(fooled)) is not None:
            best, signs, draws, ball = best[stays], signs[stays], draws[stays], ball.at(stays)
    return search.result()


NUMBERS = 2 + 16
"""Random numbers of a query: where the square is, and the signs of up to 16 channels."""


def uniform(examples: Examples, queries: int, seed: int) -> Tensor:
    """Uniform random numbers of each example and query, (N, queries, NUMBERS), which do not depend on the others."""
    like = examples.inputs.new_empty(len(examples), 1).expand(-1, queries * NUMBERS)
    numbers = drawn(like, examples.places, lambda rng, size: rng.random(size, dtype=np.float32), (seed, 2))
    return numbers.view(len(examples), queries, NUMBERS)


def as_images(inputs: Tensor) -> Tensor:
    """Inputs as images, (N, channels, height, width); what is none is one row."""
    return inputs if inputs.dim() == 4 else inputs.flatten(1)[:, None, None]


def stripes(examples: Examples, seed: int) -> Tensor:
    """Signs by chance for each column and channel, the same in all rows."""
    images = as_images(examples.inputs)
    signs = drawn(images[:, :, :1], examples.places, lambda rng, size: rng.choice((-1.0, 1.0), size), (seed, 3))
    return signs.expand_as(images).reshape(examples.inputs.shape)


def with_square(signs: Tensor, draws: Tensor, share: float) -> Tensor:
    """The signs, with one square of each image set to signs of its own, a `share` of the image's side wide."""
    images = as_images(signs)
    _, channels, height, width = images.shape
    sides = [max(1, round(share * size)) for size in (height, width)]
    inside = torch.ones_like(images[:, :1], dtype=torch.bool)
    for axis, (size, side) in enumerate(zip((height, width), sides, strict=True)):
        first = (draws[:, axis] * (size - side + 1)).floor().clamp(max=size - side)
        places = torch.arange(size, device=signs.device).to(signs)
        within = (places >= first[:, None]) & (places < first[:, None] + side)
        inside &= within.view(-1, 1, size, 1) if axis == 0 else within.view(-1, 1, 1, size)
    columns = 2 + torch.arange(channels, device=signs.device) % (NUMBERS - 2)
    new = torch.where(draws[:, columns] < 0.5, -1.0, 1.0).to(signs)
    return torch.where(inside, new[:, :, None, None], images).reshape(signs.shape)
