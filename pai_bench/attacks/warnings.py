"""Signs that attacks fail because of gradients, not because a network is robust: `attack_warnings`.

Carlini et al. 2019, arXiv:1902.06705; Croce & Hein 2020, arXiv:2003.01690.
"""

from dataclasses import replace

import torch
from torch import Tensor

from pai_bench.attacks.ball import Ball, norms
from pai_bench.attacks.examples import Examples
from pai_bench.attacks.losses import Network, cross_entropy, loss_gradients
from pai_bench.attacks.verdict import Attacker, Verdict

ZERO, MORE, BETTER = 0.01, 0.002, 0.01
"""Shares of examples above which it is a warning that gradients are zero; that a search without gradients, or
adversaries of the dense network, fool more; and that twice the effort does."""

GREY = 0.5
"""From any image in [0, 1], the grey one is that far away in the maximum norm."""

WARNINGS = {
    "zero-gradients": "the cross-entropy of more than 1 % of the right examples has a gradient of exactly zero",
    "weaker-than-one-step": "projected gradient descent fools fewer examples than its first step alone",
    "rises-with-eps": "accuracy is higher in a larger ball",
    "beyond-grey": "more examples are robust at eps 0.5 than have the class that the grey image is given",
    "gradients-are-not-needed": "a search without gradients fools examples that gradient descent does not",
    "transfer": "adversaries of the dense network fool examples that gradient descent does not",
    "not-converged": "twice the steps and starts change the robust accuracy by more than 1 point",
    "random": "two passes of the same examples differ",
    "needs-gradients": "the network does not run without gradients",
}
"""Name of a warning -> what it says."""


@torch.no_grad()
def attack_warnings(
    attacker: Attacker, verdict: Verdict, examples: Examples, transferred: Tensor | None = None
) -> tuple[str, ...]:
    """The names of the warnings that hold of a verdict; none of a network that names all examples as one class.

    `transferred` are inputs in the ball around each example that were found on the dense network of the same seed.
    """
    if is_constant(verdict):
        return ()
    found = {
        "random": lambda: not is_repeatable(attacker, examples),
        "needs-gradients": lambda: not runs_without_gradients(attacker.network, examples),
        "zero-gradients": lambda: zero_gradients(attacker, examples.at(verdict.right)) > ZERO,
        "weaker-than-one-step": lambda: int(verdict.fooled["pgd"].sum()) < int(verdict.fooled["fgsm"].sum()),
        "rises-with-eps": lambda: rises_with_eps(attacker, verdict, examples),
        "beyond-grey": lambda: is_beyond_grey(attacker, verdict, examples),
        "gradients-are-not-needed": lambda: fooled_by_search(attacker, verdict, examples) > MORE,
        "transfer": lambda: transferred is not None and newly_fooled(attacker, verdict, examples, transferred) > MORE,
        "not-converged": lambda: changed_by_effort(attacker, verdict, examples) > BETTER,
    }
    return tuple(name for name in WARNINGS if found[name]())


def is_constant(verdict: Verdict) -> bool:
    """Whether a network names all examples as one class, though they are not all of it."""
    return bool((verdict.predictions == verdict.predictions[:1]).all() and not verdict.right.all())


def is_repeatable(attacker: Attacker, examples: Examples) -> bool:
    """Whether two passes of the same examples are equal."""
    part = examples.inputs[: attacker.at_once]
    once, again = attacker.network(part), attacker.network(part)
    return torch.allclose(once, again, rtol=0, atol=0, equal_nan=True)


def runs_without_gradients(network: Network, examples: Examples) -> bool:
    """Whether a pass is possible in inference mode, and the same."""
    try:
        with torch.inference_mode():
            network(examples.inputs[:1])
    except RuntimeError:
        return False
    return True


def zero_gradients(attacker: Attacker, right: Examples) -> float:
    """The share of examples whose cross-entropy has a gradient of exactly zero, or none that descent could follow."""
    if not len(right):
        return 0.0
    parts = [
        attacker.ball.steepest(loss_gradients(attacker.network, part.inputs, part, cross_entropy)[1])
        for part in right.chunks(attacker.at_once)
    ]
    return float((torch.cat(parts).flatten(1).count_nonzero(1) == 0).double().mean())


def rises_with_eps(attacker: Attacker, verdict: Verdict, examples: Examples) -> bool:
    """Whether descent fools, in a ball of half the size, examples that no attack fools in the whole one."""
    smaller = replace(attacker, ball=Ball(attacker.ball.norm, attacker.ball.eps / 2))
    fooled = fooled_by_descent(smaller, examples.at(verdict.robust & attacker.is_checked(examples)))
    return int(fooled.sum()) / attacker.checked(examples) > MORE


def is_beyond_grey(attacker: Attacker, verdict: Verdict, examples: Examples) -> bool:
    """Whether more examples stay right in the ball with the grey image than have the class that it is given."""
    grey = attacker.predictions(torch.full_like(examples.inputs[:1], GREY))
    near = norms(verdict.adversaries - examples.inputs, "linf") <= GREY
    left = examples.at(verdict.right & (verdict.robust | ~near))
    fooled = fooled_by_descent(replace(attacker, ball=Ball("linf", GREY)), left)
    return int((~fooled).sum()) > int((examples.labels == grey).sum())


def fooled_by_descent(attacker: Attacker, examples: Examples) -> Tensor:
    """Which examples an attack that follows gradients fools, (N,)."""
    fooled = torch.zeros(len(examples), dtype=torch.bool, device=examples.labels.device)
    for _, attack in attacker.attacks():
        left = (~fooled).nonzero().squeeze(1)
        fooled[left] = attacker.run(attack, examples.at(left)).fooled
    return fooled


def fooled_by_search(attacker: Attacker, verdict: Verdict, examples: Examples) -> float:
    """The share of the checked examples that the search without gradients is the first to fool."""
    return int(verdict.first_fooled_by("search").sum()) / attacker.checked(examples)


def newly_fooled(attacker: Attacker, verdict: Verdict, examples: Examples, inputs: Tensor) -> float:
    """The share of examples that no attack fools, but these inputs do."""
    moved = attacker.ball.project(inputs, examples.inputs)
    return float((verdict.robust & (attacker.predictions(moved) != examples.labels)).double().mean())


def changed_by_effort(attacker: Attacker, verdict: Verdict, examples: Examples) -> float:
    """The share of examples that twice the steps and starts fool besides."""
    effort = replace(attacker.effort, steps=2 * attacker.effort.steps, starts=2 * attacker.effort.starts)
    stronger, left = replace(attacker, effort=effort), examples.at(verdict.robust & attacker.is_checked(examples))
    return int(fooled_by_descent(stronger, left).sum()) / attacker.checked(examples)
