"""Networks whose logits or gradients are no numbers, or do not depend on the input."""

import pytest
import torch
from torch import Tensor, nn

from pai_bench.attacks import (
    Attacker,
    Ball,
    Effort,
    Examples,
    PenaltySearch,
    attack_warnings,
    bisected,
    carlini_wagner,
    deepfool,
    pgd,
    random_search,
)

EFFORT = Effort(steps=10, starts=2, targets=2, queries=20, examples=40, checked=40)


def examples_of(classes: int = 3) -> Examples:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % classes
    inputs = 0.4 + 0.1 * torch.rand(40, 1, 3, 3, generator=draw)
    inputs.flatten(1)[torch.arange(40), labels] += 0.3
    return Examples.first(inputs, labels)


def first_pixels(x: Tensor) -> Tensor:
    """The class whose pixel is the brightest."""
    return x.flatten(1)[:, :3]


def without_gradient(x: Tensor) -> Tensor:
    """The same logits, with gradients that are not numbers."""
    return first_pixels(x) + (x * 0).flatten(1).sum(1, keepdim=True).sqrt()


def bright_is_nan(x: Tensor) -> Tensor:
    """No numbers where an example is bright."""
    return first_pixels(x) + torch.where(x.flatten(1).mean(1) > 0.5, torch.nan, 0.0)[:, None]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_gradients_that_are_not_numbers_move_nothing_and_are_named(norm: str) -> None:
    examples, attacker = examples_of(), Attacker(without_gradient, Ball(norm, 0.02), EFFORT)  # type: ignore[arg-type]
    made = attacker.verdict(examples)
    assert made.adversaries.isfinite().all()
    assert made.right.all()
    assert made.robust.all()
    assert "zero-gradients" in attack_warnings(attacker, made, examples)
    for found in (deepfool(without_gradient, examples), bisected(without_gradient, examples)):
        assert torch.equal(found.inputs, examples.inputs)
        assert not found.fooled.any()


def test_logits_that_are_not_numbers_are_no_class() -> None:
    """Class 0 would be the answer, or be as robust as can be, by the place of the largest logit."""

    def network(x: Tensor) -> Tensor:
        return torch.full((len(x), 3), torch.nan) * x.flatten(1)[:, :3]

    made = Attacker(network, Ball("linf", 0.1), EFFORT).verdict(examples_of())
    assert (made.accuracy, made.robust_accuracy) == (0.0, 0.0)
    attacker, examples = Attacker(bright_is_nan, Ball("linf", 0.2), EFFORT), examples_of()
    dark = examples.inputs.flatten(1).mean(1) <= 0.5
    made = attacker.verdict(examples)
    assert 0 < int(dark.sum()) < len(examples)
    assert torch.equal(made.right, dark)
    assert not made.robust.any()
    assert "random" not in attack_warnings(attacker, made, examples)


def test_the_search_without_gradients_takes_logits_that_are_not_numbers() -> None:
    examples = examples_of()
    dark = examples.at(examples.inputs.flatten(1).mean(1) <= 0.49)
    found = random_search(bright_is_nan, dark, Ball("linf", 0.1), queries=200)
    wrong = bright_is_nan(found.inputs).isnan().any(1)
    assert wrong.any()
    assert found.fooled[wrong].all()
    assert pgd(bright_is_nan, dark, Ball("linf", 0.0)).fooled.sum() == 0


def test_infinite_logits() -> None:
    examples = examples_of()
    found = deepfool(lambda x: torch.where(first_pixels(x) > 0.6, torch.inf, first_pixels(x)), examples)
    assert found.inputs.isfinite().all()


def test_smallest_changes_of_a_network_without_a_way_from_inputs_to_logits() -> None:
    """Its thresholds cut it, and its weights have gradients none the less."""
    layer, examples = nn.Linear(9, 3), examples_of()
    examples = Examples.first(examples.inputs, layer((examples.inputs > 0.5).float().flatten(1)).argmax(1))

    def network(x: Tensor) -> Tensor:
        logits: Tensor = layer((x > 0.5).float().flatten(1))
        return logits

    for found in (
        deepfool(network, examples),
        carlini_wagner(network, examples, PenaltySearch(searches=2, steps=5)),
        bisected(network, examples),
    ):
        assert found.inputs.isfinite().all()
        assert torch.equal(network(found.inputs).argmax(1) != examples.labels, found.fooled)
