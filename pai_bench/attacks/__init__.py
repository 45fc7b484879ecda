"""Attacks on trained networks: small changes of an example that let a network name another class.

Inputs are in [0, 1], and so are adversaries. All attacks are of networks in eval mode, and each example is attacked by
itself: what happens to it does not depend on the others.
"""

from pai_bench.attacks.ball import Ball, Norm, norms
from pai_bench.attacks.examples import Adversaries, Examples
from pai_bench.attacks.gradient_attacks import fgsm, pgd
from pai_bench.attacks.losses import Network, cross_entropy, margin, towards_target
from pai_bench.attacks.minimal import PenaltySearch, bisected, carlini_wagner, deepfool, smallest
from pai_bench.attacks.random_search import random_search
from pai_bench.attacks.verdict import EFFORTS, Attacker, Effort, Verdict
from pai_bench.attacks.warnings import WARNINGS, attack_warnings

__all__ = [
    "EFFORTS",
    "WARNINGS",
    "Adversaries",
    "Attacker",
    "Ball",
    "Effort",
    "Examples",
    "Network",
    "Norm",
    "PenaltySearch",
    "Verdict",
    "attack_warnings",
    "bisected",
    "carlini_wagner",
    "cross_entropy",
    "deepfool",
    "fgsm",
    "margin",
    "norms",
    "pgd",
    "random_search",
    "smallest",
    "towards_target",
]
