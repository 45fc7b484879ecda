"""Metrics of robustness: accuracy under attack, and the smallest changes that fool a network.

Attacks are of the whole network with the normalisation of its data: inputs are images in [0, 1], bytes divided by 255.
"""

import math
import time
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from pai_bench.attacks import (
    EFFORTS,
    Attacker,
    Ball,
    Examples,
    Network,
    Norm,
    PenaltySearch,
    Verdict,
    attack_warnings,
    bisected,
    carlini_wagner,
    deepfool,
    smallest,
)
from pai_bench.attacks.ensemble import FEWEST_CLASSES, check_installed
from pai_bench.attacks.warnings import is_constant
from pai_bench.data import DataSet
from pai_bench.data.labels import rank_in_class
from pai_bench.evaluation.metrics import Dense, Values
from pai_bench.support.arrays import on_cpu
from pai_bench.support.errors import UserError
from pai_bench.support.precision import arithmetic
from pai_bench.support.registry import metric

PENALTIES = {"quick": PenaltySearch(searches=5, steps=200), "full": PenaltySearch(searches=9, steps=1000)}


def attacked(model: nn.Module, data: DataSet) -> Network:
    """The network from images in [0, 1] to logits."""
    mean, std = (tensor.clone() for tensor in data.scale)  # which may have been made in inference mode
    return lambda inputs: model((inputs * 255 - mean) / std)


def first_examples(data: DataSet, count: int) -> Examples:
    """`count` test examples, as images in [0, 1]; UserError for data without a range, or for too few.

    The first ones, or the first ones of each class where the test set is in order of its classes, as files in folders
    are: they would be of one class alone.
    """
    inputs, targets = data.test
    if inputs.dtype != torch.uint8:
        what = f"the inputs of {data.name} are {str(inputs.dtype).removeprefix('torch.')}"
        raise UserError(f"attacks need images of bytes, which have a range: {what}")
    if count > len(targets):
        raise UserError(f"n={count:,} is more than the {len(targets):,} test examples of {data.name}")
    if len(targets.unique_consecutive()) == len(targets.unique()):
        by_turns = on_cpu(rank_in_class)(targets.cpu(), data.num_classes).argsort(stable=True)
        inputs, targets = data.test.at(by_turns[:count])
    return Examples.first(inputs[:count].to(data.device).float() / 255, targets[:count])


class Attacks:
    """What all metrics of attacks share: the test examples, by the options ``effort`` and ``n``."""

    effort: Literal["quick", "full"]
    n: int | Literal["all"] | None

    def __post_init__(self) -> None:
        if isinstance(self.n, int) and self.n < 1:
            raise ValueError(f"n={self.n} must be at least 1")

    def check(self, data: DataSet) -> None:
        """Raise UserError for data that cannot be attacked."""
        self.examples(data)
        if getattr(self, "autoattack", False) and data.num_classes < FEWEST_CLASSES:
            raise UserError(
                f"autoattack takes {FEWEST_CLASSES} classes at least, and {data.name} has {data.num_classes}"
            )

    def examples(self, data: DataSet) -> Examples:
        """The examples under attack."""
        size = len(data.test.targets)
        return first_examples(data, size if self.n == "all" else self.n or min(size, EFFORTS[self.effort].examples))


@dataclass(frozen=True)
class RobustAccuracy(Attacks):
    """Share of examples that are right, and that no attack within a distance `eps` fools."""

    eps: float
    effort: Literal["quick", "full"] = "quick"
    n: int | Literal["all"] | None = None
    autoattack: bool = False

    norm: ClassVar[Norm]
    needs_dense: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.eps < math.inf or (self.norm == "linf" and self.eps > 1):
            within = "(0, 1]: inputs are in [0, 1]" if self.norm == "linf" else "(0, inf)"
            raise ValueError(f"eps={self.eps:g} is outside {within}")
        if self.autoattack:
            check_installed()

    def __call__(self, model: nn.Module, data: DataSet, dense: Dense | None = None) -> Values:
        examples, begin = self.examples(data), time.perf_counter()
        with arithmetic("fp32", data.device):
            attacker, made = self.verdict(model, data, examples)
            attacks = time.perf_counter() - begin
            transferred = None if dense is None else self.transferred(dense, data, examples)
            warnings = attack_warnings(attacker, made, examples, transferred)
        values = {
            "": made.robust_accuracy,
            "clean": made.accuracy,
            **{name: made.accuracy_under(name) for name in ("fgsm", "pgd")},
            "constant": float(is_constant(made)),
            "warnings": float(len(warnings)),
            "examples": float(len(examples)),
            "seconds": attacks,
            "warning_seconds": time.perf_counter() - begin - attacks,
        }
        return Values(values, warnings)

    def verdict(self, model: nn.Module, data: DataSet, examples: Examples) -> tuple[Attacker, Verdict]:
        """All attacks of a network."""
        ball, effort = Ball(self.norm, self.eps), EFFORTS[self.effort]
        attacker = Attacker(attacked(model, data), ball, effort, ensemble=self.autoattack)
        return attacker, attacker.verdict(examples)

    def transferred(self, dense: Dense, data: DataSet, examples: Examples) -> Tensor:
        """Adversaries of the dense network of the same seed, made once for all networks that are held against it."""
        if (kept := dense.kept.get(self)) is None:
            kept = dense.kept[self] = self.verdict(dense.model, data, examples)[1].adversaries
        assert isinstance(kept, Tensor)
        return kept


@metric("verdict-linf", source="worst case of attacks within eps of each pixel; eps in [0, 1]")
@dataclass(frozen=True)
class VerdictLinf(RobustAccuracy):
    """Share of test examples that are right, and that no attack fools which changes each pixel by at most eps.

    Attacks, cheapest first: none; one step along the sign of the gradient; projected gradient descent on cross-entropy,
    on the margin, and towards the likeliest other classes; a search without gradients.

    * ``eps``: in units of inputs in [0, 1].
    * ``effort``: ``quick`` (20 steps, 1 start, 3 targets, 500 examples) or ``full`` (50, 5, 9, 1,000).
    * ``n``: how many test examples, the first ones, or ``all``.
    * ``autoattack``: whether AutoAttack is tried on what is left (extra ``robustness``; four classes at least).
    """

    norm: ClassVar[Norm] = "linf"


@metric("verdict-l2", source="worst case of attacks within a Euclidean distance eps; inputs in [0, 1]")
@dataclass(frozen=True)
class VerdictL2(RobustAccuracy):
    """Share of test examples that are right, and that no attack fools which moves the image by at most eps.

    As ``verdict-linf``, with the Euclidean norm.
    """

    norm: ClassVar[Norm] = "l2"


@metric("minimal-l2", source="DeepFool, Carlini & Wagner; inputs in [0, 1]")
@dataclass(frozen=True)
class MinimalL2(Attacks):
    """Median over test examples of the smallest Euclidean change that DeepFool or Carlini and Wagner's attack finds.

    It is 0 for what is wrong already. ``found`` is the share of right examples for which one was found; the mean is
    given where it was found for all.

    * ``effort``: ``quick`` (500 examples, 5 searches of 200 steps) or ``full`` (1,000, 9 of 1,000).
    * ``n``: how many test examples, the first ones, or ``all``.
    """

    effort: Literal["quick", "full"] = "quick"
    n: int | Literal["all"] | None = None

    def __call__(self, model: nn.Module, data: DataSet) -> Values:
        network = attacked(model, data)

        def found(part: Examples) -> list[Any]:
            return [deepfool(network, part), carlini_wagner(network, part, PENALTIES[self.effort])]

        return summary(self, model, data, lambda part: smallest(part, found(part), "l2"))


@metric("minimal-linf", source="bisection on eps with projected gradient descent; inputs in [0, 1]")
@dataclass(frozen=True)
class MinimalLinf(Attacks):
    """Median over test examples of the smallest change of all pixels at which gradient descent succeeds.

    On the margin, or else on the cross-entropy. The interval [0, 1] is halved eight times. As ``minimal-l2``.
    """

    effort: Literal["quick", "full"] = "quick"
    n: int | Literal["all"] | None = None

    def __call__(self, model: nn.Module, data: DataSet) -> Values:
        network, steps = attacked(model, data), EFFORTS[self.effort].steps
        return summary(self, model, data, lambda part: smallest(part, [bisected(network, part, steps=steps)], "linf"))


def summary(options: Attacks, model: nn.Module, data: DataSet, norms_of: Any) -> Values:
    """Median, mean and share of success of the smallest norms over test examples."""
    examples, begin = options.examples(data), time.perf_counter()
    with arithmetic("fp32", data.device):
        attacker = Attacker(attacked(model, data), Ball("l2", 0.0), EFFORTS[options.effort])
        right = (attacker.predictions(examples.inputs) == examples.labels).nonzero().squeeze(1)
        smallest_norms = torch.zeros(len(examples), device=data.device)
        for part in examples.at(right).chunks(attacker.at_once):
            smallest_norms[part.places] = norms_of(part)
    ordered = smallest_norms.sort().values  # a quantile of infinite numbers would be none
    values = {
        "": float((ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2),
        "mean": float(smallest_norms.mean()),
        "found": float(smallest_norms[right].isfinite().double().mean()) if len(right) else math.nan,
        "clean": len(right) / len(examples),
        "examples": float(len(examples)),
        "seconds": time.perf_counter() - begin,
    }
    return Values(values)
