"""AutoAttack, an ensemble of attacks without parameters, by the package pyautoattack (extra ``robustness``)."""

import torch
from torch import Tensor, nn

from pai_bench.attacks.ball import Ball
from pai_bench.attacks.examples import Adversaries, Examples
from pai_bench.attacks.losses import Network, is_fooled
from pai_bench.support.errors import UserError
from pai_bench.support.randomness import random_state

FEWEST_CLASSES = 4
"""That its targeted loss, a ratio of differences between four logits, takes."""

TARGETS = 9
"""Classes that its targeted attacks aim at, or all other ones if there are fewer."""


def check_installed() -> None:
    """Raise UserError if the package is not there."""
    try:
        import pyautoattack  # noqa: F401
    except ImportError as error:
        raise UserError("autoattack needs the package pyautoattack: pip install 'pai-bench[robustness]'") from error


class Wrapped(nn.Module):
    """A network as a module."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """The logits."""
        return self.network(inputs)


def autoattack(network: Network, examples: Examples, ball: Ball, *, at_once: int = 250, seed: int = 0) -> Adversaries:
    """The standard version: APGD on cross-entropy, targeted APGD-DLR, targeted FAB, and Square with 5,000 queries.

    Croce & Hein 2020, arXiv:2003.01690. What it finds is projected into the ball, and tried on the network once more.
    """
    check_installed()
    from pyautoattack import AutoAttack

    classes = network(examples.inputs[:1]).shape[1]
    if classes < FEWEST_CLASSES:
        raise UserError(f"autoattack takes {FEWEST_CLASSES} classes at least, not {classes}")
    norm, model = {"linf": "Linf", "l2": "L2"}[ball.norm], Wrapped(network)
    attack = AutoAttack(model, device=examples.inputs.device, eps=float(ball.eps), norm=norm, seed=seed)
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(TARGETS, classes - 1)
    with random_state(seed), torch.enable_grad():  # it seeds torch
        found, _ = attack.run_standard_evaluation(examples.inputs, examples.labels, batch_size=at_once)
    found = ball.project(found.detach(), examples.inputs)
    with torch.no_grad():
        return Adversaries(found, is_fooled(network(found), examples.labels))
