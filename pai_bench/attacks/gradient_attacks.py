"""Attacks within a ball that follow gradients: the fast gradient sign method, and projected gradient descent."""

import torch

from pai_bench.attacks.ball import Ball
from pai_bench.attacks.examples import Adversaries, Examples, Search
from pai_bench.attacks.losses import Loss, Network, cross_entropy, is_fooled, loss_gradients

PATH = 2.5
"""Steps of projected gradient descent are so many eps together: more than the diameter of the ball."""


@torch.no_grad()
def fgsm(network: Network, examples: Examples, ball: Ball) -> Adversaries:
    """``x + eps sign(dCE/dx)``, or in the Euclidean norm ``x + eps g / ||g||``: one step from the example.

    Goodfellow et al. 2015, arXiv:1412.6572.
    """
    _, gradients = loss_gradients(network, examples.inputs, examples, cross_entropy)
    found = ball.step(examples.inputs, gradients, examples.inputs, 1.0)
    return Adversaries(found, is_fooled(network(found), examples.labels))


@torch.no_grad()
def pgd(
    network: Network,
    examples: Examples,
    ball: Ball,
    loss: Loss = cross_entropy,
    *,
    steps: int = 50,
    start: int = 0,
    leave: bool = True,
) -> Adversaries:
    """``x <- P(x + a v)``, v the steepest direction of the loss, ``a = 2.5 eps / steps``; every iterate is looked at.

    `start` 0 is the example itself, any other number a uniform draw from the ball.

    Madry et al. 2018, arXiv:1706.06083.
    """
    first = ball.project(examples.inputs, examples.inputs)
    begin = ball.drawn(examples.inputs, examples.places, start) if start else first
    search = Search(examples, begin, leave=leave)
    for _ in range(steps):
        logits, gradients = loss_gradients(network, search.inputs, search.examples, loss)
        if (stays := search.note(is_fooled(logits, search.examples.labels))) is not None:
            gradients, ball = gradients[stays], ball.at(stays)
        if not len(search):
            return search.result()
        search.inputs = ball.step(search.inputs, gradients, search.examples.inputs, PATH / steps)
    search.note(is_fooled(network(search.inputs), search.examples.labels))
    return search.result()
