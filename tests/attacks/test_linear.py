"""Networks that are linear: what attacks find, beside what can be computed by hand, in float64."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from pai_bench.attacks import (
    EFFORTS,
    Adversaries,
    Attacker,
    Ball,
    Effort,
    Examples,
    PenaltySearch,
    bisected,
    carlini_wagner,
    cross_entropy,
    deepfool,
    fgsm,
    margin,
    norms,
    pgd,
)

SIDE, CLASSES = 6, 4


def linear(seed: int = 0, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Weights (classes, pixels) and biases."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, SIDE * SIDE, generator=draw, dtype=torch.float64) / SIDE
    return weight, torch.randn(classes, generator=draw, dtype=torch.float64) / 10


def examples_of(weight: Tensor, bias: Tensor, count: int = 60, seed: int = 1) -> Examples:
    """Grey images, far from 0 and 1, with the labels that the network gives them."""
    draw = torch.Generator().manual_seed(seed)
    inputs = 0.5 + 0.02 * torch.randn(count, 1, SIDE, SIDE, generator=draw, dtype=torch.float64)
    return Examples.first(inputs, (inputs.flatten(1) @ weight.T + bias).argmax(1))


def distances(weight: Tensor, bias: Tensor, examples: Examples, dual: float) -> Tensor:
    """The distance of each example from the nearest boundary: ``min_k (z_y - z_k) / ||w_y - w_k||``, dual norm."""
    logits = examples.inputs.flatten(1) @ weight.T + bias
    y = examples.labels
    gaps = logits.gather(1, y[:, None]) - logits
    lengths = torch.linalg.vector_norm(weight[y][:, None] - weight[None], ord=dual, dim=2)
    return torch.where(lengths > 0, gaps / lengths, torch.inf).amin(1)


@pytest.fixture
def problem() -> tuple[Tensor, Tensor, Examples]:
    weight, bias = linear()
    return weight, bias, examples_of(weight, bias)


def network(weight: Tensor, bias: Tensor):  # type: ignore[no-untyped-def]
    return lambda x: x.flatten(1) @ weight.T + bias


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1.0), ("l2", 2.0)])
@pytest.mark.parametrize("share", [0.9, 0.99, 1.01, 1.1])
def test_targeted_descent_finds_what_is_there_and_nothing_else(
    norm: str, dual: float, share: float, problem: tuple[Tensor, Tensor, Examples]
) -> None:
    """Each example has a ball of its own, a little smaller or larger than the distance from the nearest boundary."""
    weight, bias, examples = problem
    ball = Ball(norm, share * distances(weight, bias, examples, dual))  # type: ignore[arg-type]
    attacker = Attacker(network(weight, bias), ball, Effort(50, 1, 3, 0, len(examples), 0), at_once=len(examples))
    fooled = torch.zeros(len(examples), dtype=torch.bool)
    for rank in range(3):
        fooled |= attacker.targeted(examples, rank, 0).fooled
    assert fooled.all() if share > 1 else not fooled.any()


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1.0), ("l2", 2.0)])
def test_the_verdict_is_exact(norm: str, dual: float, problem: tuple[Tensor, Tensor, Examples]) -> None:
    weight, bias, examples = problem
    exact = distances(weight, bias, examples, dual)
    for eps in exact.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist():
        made = Attacker(network(weight, bias), Ball(norm, eps), EFFORTS["quick"], at_once=7).verdict(examples)  # type: ignore[arg-type]
        assert torch.equal(made.robust, exact > eps)
        assert made.accuracy == 1.0
        assert made.robust_accuracy == pytest.approx(float((exact > eps).double().mean()))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fgsm_and_descent_with_two_classes(norm: str) -> None:
    """One boundary: a step along its normal is the best there is. From a random start, descent comes near to it."""
    weight, bias = linear(classes=2)
    examples = examples_of(weight, bias)
    exact = distances(weight, bias, examples, 1.0 if norm == "linf" else 2.0)
    for share, start, fooled in ((0.999, 0, False), (1.001, 0, True), (0.999, 3, False), (1.25, 3, True)):
        ball = Ball(norm, share * exact)  # type: ignore[arg-type]
        if not start:
            assert (fgsm(network(weight, bias), examples, ball).fooled == fooled).all()
        for loss in (cross_entropy, margin):
            found = pgd(network(weight, bias), examples, ball, loss, start=start)
            assert (found.fooled == fooled).all()
            assert (norms(found.inputs - examples.inputs, ball.norm) <= share * exact * (1 + 1e-12)).all()


def test_minimal_norms(problem: tuple[Tensor, Tensor, Examples]) -> None:
    weight, bias, examples = problem
    exact, how = distances(weight, bias, examples, 2.0), PenaltySearch(searches=8, steps=300)
    for attack in (deepfool, partial(carlini_wagner, how=how)):
        found = attack(network(weight, bias), examples)
        assert found.fooled.all()
        ratio = norms(found.inputs - examples.inputs, "l2") / exact
        assert float(ratio.min()) >= 1.0
        assert float(ratio.max()) < 1.01
    without = norms(deepfool(network(weight, bias), examples, refine=False).inputs - examples.inputs, "l2")
    torch.testing.assert_close(without, 1.02 * (exact + 1e-4))


def test_a_class_that_does_not_depend_on_the_input_hides_no_other() -> None:
    """As in sparse networks: the margin has no gradient where two logits are constant."""
    inputs = torch.full((8, 1, SIDE, SIDE), 0.5, dtype=torch.float64)
    examples = Examples.first(inputs, torch.zeros(8, dtype=torch.long))

    def third_class(x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        return torch.stack([0 * mean + 0.3, 0 * mean + 0.2, mean - 0.5], 1)

    found = bisected(third_class, examples)
    assert found.fooled.all()
    assert (norms(found.inputs - inputs, "linf") - 0.3 <= 2**-8).all()
    assert (third_class(found.inputs).argmax(1) == 2).all()


def test_the_smallest_eps_is_that_of_the_nearest_adversary_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Descent in a larger ball may come nearer than in a smaller one: its steps are of another length."""
    brightness = torch.linspace(0.05, 0.45, 200, dtype=torch.float64).view(-1, 1, 1, 1)
    inputs = 0.5 + brightness.expand(-1, 1, SIDE, SIDE)
    examples = Examples.first(inputs, torch.zeros(200, dtype=torch.long))
    seen: list[Tensor] = []

    def noted(*arguments: Any, **options: Any) -> Adversaries:
        found = pgd(*arguments, **options)
        if len(found.fooled) == len(examples):
            seen.append(torch.where(found.fooled, norms(found.inputs - examples.inputs, "linf"), torch.inf))
        return found

    monkeypatch.setattr("pai_bench.attacks.minimal.pgd", noted)
    found = bisected(lambda x: torch.stack([x.flatten(1).mean(1) - 0.5, 0 * x.flatten(1).mean(1)], 1), examples)
    assert torch.equal(norms(found.inputs - examples.inputs, "linf"), torch.stack(seen).amin(0))


def test_the_smallest_eps_of_the_maximum_norm() -> None:
    weight, bias = linear(classes=2)
    examples = examples_of(weight, bias)
    exact = distances(weight, bias, examples, 1.0)
    found = bisected(network(weight, bias), examples)
    found_norms = norms(found.inputs - examples.inputs, "linf")
    assert found.fooled.all()
    assert (found_norms >= exact).all()
    assert (found_norms <= exact + 2**-8 + 1e-12).all()
