"""The smallest change of an example that a network calls another class: DeepFool, Carlini and Wagner, bisection."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pai_bench.attacks.ball import Ball, Norm, norms, per_example
from pai_bench.attacks.examples import Adversaries, Examples
from pai_bench.attacks.gradient_attacks import pgd
from pai_bench.attacks.losses import Loss, Network, at, cross_entropy, is_fooled, margin, towards_target, without_label

MOST_CLASSES = 10
"""Classes whose boundaries DeepFool looks at: the most likely ones."""

HALVINGS = 12
"""Of the way back from an adversary to its example, along a straight line."""


@torch.no_grad()
def deepfool(
    network: Network, examples: Examples, *, rounds: int = 50, overshoot: float = 0.02, refine: bool = True
) -> Adversaries:
    """The nearest of the boundaries as they are by their slopes, again and again; Euclidean norm.

    Of the classes k with margins ``f_k = z_k - z_y`` and slopes ``w_k``, that one is nearest whose ``|f_k| / ||w_k||``
    is smallest; the input moves by ``|f_k| w_k / ||w_k||^2``. All moves together are made larger by `overshoot`, and
    then, with `refine`, as small as a line back to the example lets them.

    Moosavi-Dezfooli et al. 2016, arXiv:1511.04599.
    """
    found, fooled = examples.inputs.clone(), torch.zeros_like(examples.labels, dtype=torch.bool)
    moves, left = torch.zeros_like(examples.inputs), examples
    indices = torch.arange(len(examples), device=examples.labels.device)
    for number in range(rounds + 1):
        inputs = (left.inputs + (1 + overshoot) * moves).clamp(0.0, 1.0)
        logits, margins, slopes, _ = boundaries(network, inputs, left.labels)
        done = is_fooled(logits, left.labels)
        found[indices], fooled[indices] = inputs, done
        if bool(done.all()) or number == rounds:
            break
        indices, left, moves = indices[~done], left.at(~done), moves[~done]
        margins, slopes = margins[~done], slopes[~done]
        distance, nearest = distances(margins, slopes).min(1)
        slope = slopes[torch.arange(len(nearest), device=nearest.device), nearest]
        length = norms(slope, "l2")
        # a little further than the boundary, on which the move would end otherwise
        factor = torch.where(distance.isfinite(), (distance + 1e-4) / length, 0.0)
        moves = moves + per_example(factor, moves) * slope
    result = Adversaries(found, fooled)
    return nearer(network, examples, result) if refine else result


def boundaries(network: Network, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits; of the most likely other classes the margins, (N, K), their gradients, (N, K, ...), and the classes."""
    inputs = inputs.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = network(inputs)
        count = min(MOST_CLASSES, logits.shape[1]) - 1
        classes = without_label(logits.detach(), labels).topk(count, 1).indices
        margins = logits.gather(1, classes) - logits.gather(1, labels[:, None])
        if not logits.requires_grad:
            return logits, margins, torch.zeros_like(inputs)[:, None].expand(-1, count, *inputs.shape[1:]), classes
        slopes = [
            torch.autograd.grad(margins[:, k].sum(), inputs, retain_graph=k + 1 < count, materialize_grads=True)[0]
            for k in range(count)
        ]
    stacked = torch.stack(slopes, 1)
    return logits.detach(), margins.detach(), torch.where(stacked.isfinite(), stacked, 0.0), classes


def distances(margins: Tensor, slopes: Tensor) -> Tensor:
    """Of each example from each boundary, by its slope, (N, K): ``|f_k| / ||w_k||``, infinite where the slope is 0."""
    lengths = slopes.flatten(2).norm(dim=2)
    return torch.where(lengths > 0, margins.abs() / lengths, torch.inf)


@dataclass(frozen=True)
class PenaltySearch:
    """How Carlini and Wagner's objective is minimised: so many values of c, and steps of Adam for each."""

    searches: int = 9
    steps: int = 1000
    kappa: float = 0.0
    rate: float = 0.01


@torch.no_grad()
def carlini_wagner(
    network: Network, examples: Examples, how: PenaltySearch = PenaltySearch(), *, refine: bool = True
) -> Adversaries:
    """``min ||x' - x||^2 + c max(z_y - max_(j != y) z_j + kappa, 0)``, ``x' = (tanh w + 1) / 2``; Euclidean norm.

    Adam, from the example; c begins at 1e-3, is ten times as large after each search that finds nothing, and halves the
    interval once one does. Of all iterates the nearest that is another class is kept.

    The maximum is that of the likeliest class, whose boundary may not be the nearest. Where, by the slopes at the
    example, another boundary is, the logit of its class takes the place of the maximum in a second search.

    Carlini & Wagner 2017, arXiv:1608.04644.
    """
    if not len(examples):
        return Adversaries(examples.inputs, torch.zeros_like(examples.labels, dtype=torch.bool))
    found = penalty_search(network, examples, margin, how)
    nearest = nearest_class(network, examples)
    others = (network(found.inputs).argmax(1) != nearest).nonzero().squeeze(1)
    aimed = replace(examples.at(others), targets=nearest[others])
    if len(aimed):
        again = penalty_search(network, aimed, towards_target, how)
        found = nearest_of(examples, found, others, again)
    return nearer(network, examples, found) if refine else found


def nearest_class(network: Network, examples: Examples) -> Tensor:
    """The class whose boundary is nearest by the slopes at the example, (N,)."""
    _, margins, slopes, classes = boundaries(network, examples.inputs, examples.labels)
    return at(classes, distances(margins, slopes).argmin(1))


def nearest_of(examples: Examples, found: Adversaries, indices: Tensor, others: Adversaries) -> Adversaries:
    """Adversaries of all examples, with those of `others`, which are of the examples at `indices`, that are nearer."""
    here = examples.inputs[indices]
    before, after = (norms(one - here, "l2") for one in (found.inputs[indices], others.inputs))
    better = others.fooled & (~found.fooled[indices] | (after < before))
    inputs, fooled = found.inputs.clone(), found.fooled.clone()
    inputs[indices[better]], fooled[indices[better]] = others.inputs[better], True
    return Adversaries(inputs, fooled)


def penalty_search(network: Network, examples: Examples, loss: Loss, how: PenaltySearch) -> Adversaries:
    """The nearest adversaries among all iterates of all searches."""
    inputs, count = examples.inputs, len(examples)
    origin = torch.atanh((2 * inputs - 1) * 0.999999)
    low, high, c = inputs.new_zeros(count), inputs.new_full((count,), torch.inf), inputs.new_full((count,), 1e-3)
    best, nearest = inputs.clone(), inputs.new_full((count,), torch.inf)
    for _ in range(how.searches):
        w, first, second = origin.clone(), torch.zeros_like(origin), torch.zeros_like(origin)
        success = torch.zeros_like(examples.labels, dtype=torch.bool)
        for step in range(1, how.steps + 1):
            changed, logits, gradients = penalised(network, w, examples, c, loss, how.kappa)
            distance = norms(changed - inputs, "l2")
            fooled = is_fooled(logits, examples.labels) & (margin(logits, examples) >= how.kappa)
            success |= fooled
            closer = fooled & (distance < nearest)
            best = torch.where(per_example(closer, best), changed, best)
            nearest = torch.where(closer, distance, nearest)
            first, second = first.lerp(gradients, 0.1), second.lerp(gradients.square(), 0.001)
            w = w - how.rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        high, low = torch.where(success, torch.minimum(high, c), high), torch.where(success, low, torch.maximum(low, c))
        c = torch.where(high.isinf(), 10 * c, (low + high) / 2)
    return Adversaries(best, nearest.isfinite())


def penalised(
    network: Network, w: Tensor, examples: Examples, c: Tensor, loss: Loss, kappa: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The inputs that `w` stands for, their logits, and the gradient of the penalised distance with respect to w."""
    w = w.detach().requires_grad_(True)
    with torch.enable_grad():
        changed = (torch.tanh(w) + 1) / 2
        logits = network(changed)
        penalty = (kappa - loss(logits, examples)).clamp_min(0.0)
        objective = (changed - examples.inputs).flatten(1).square().sum(1) + c * penalty
        (gradients,) = torch.autograd.grad(objective.sum(), w)
    return changed.detach(), logits.detach(), gradients


@torch.no_grad()
def nearer(network: Network, examples: Examples, adversaries: Adversaries, halvings: int = HALVINGS) -> Adversaries:
    """Adversaries as near to their examples as they stay adversaries along a straight line, found by halving it."""
    low = torch.zeros_like(adversaries.fooled, dtype=examples.inputs.dtype)
    high, difference = torch.ones_like(low), adversaries.inputs - examples.inputs
    for _ in range(halvings):
        middle = (low + high) / 2
        still = is_fooled(network(examples.inputs + per_example(middle, difference) * difference), examples.labels)
        high, low = torch.where(still, middle, high), torch.where(still, low, middle)
    ends = examples.inputs + per_example(high, difference) * difference
    fooled = per_example(adversaries.fooled & (high < 1), difference)
    return Adversaries(torch.where(fooled, ends, adversaries.inputs), adversaries.fooled)


@torch.no_grad()
def bisected(network: Network, examples: Examples, *, halvings: int = 8, steps: int = 20) -> Adversaries:
    """The smallest eps of the maximum norm at which projected gradient descent finds an adversary.

    Halves the interval [0, 1] for each example, from the nearest adversary that was found.
    """
    low = torch.zeros_like(examples.labels, dtype=examples.inputs.dtype)
    high = torch.ones_like(low)
    best, fooled = examples.inputs.clone(), torch.zeros_like(examples.labels, dtype=torch.bool)
    for number in range(halvings + 1):
        eps = high if number == 0 else (low + high) / 2  # whether there is any, at first
        found = descent(network, examples, Ball("linf", eps), steps)
        if number == 0:
            fooled = found.fooled
        best = torch.where(per_example(found.fooled, best), found.inputs, best)
        reached = norms(found.inputs - examples.inputs, "linf")
        high = torch.where(found.fooled, reached, high)
        low = torch.where(found.fooled, torch.minimum(low, reached), eps)
    return Adversaries(best, fooled)


def descent(network: Network, examples: Examples, ball: Ball, steps: int) -> Adversaries:
    """Projected gradient descent on the margin and, of examples that are not fooled by it, on the cross-entropy.

    In a sparse network the logit of the likeliest other class may not depend on the input, where another one does.
    """
    found = pgd(network, examples, ball, margin, steps=steps)
    left = (~found.fooled).nonzero().squeeze(1)
    if len(left):
        again = pgd(network, examples.at(left), ball.at(left), cross_entropy, steps=steps)
        found.inputs[left], found.fooled[left] = again.inputs, again.fooled
    return found


def smallest(examples: Examples, found: Sequence[Adversaries], norm: Norm) -> Tensor:
    """For each example the smallest norm that any attack has found, (N,), infinite where none has."""
    by_attack = [torch.where(one.fooled, norms(one.inputs - examples.inputs, norm), torch.inf) for one in found]
    return torch.stack(by_attack).amin(0)
