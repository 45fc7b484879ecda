"""Networks that look robust because their gradients mislead: each is named by a warning."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pai_bench.attacks import Attacker, Ball, Effort, Examples, Network, attack_warnings
from pai_bench.attacks.warnings import WARNINGS, is_constant

EFFORT = Effort(steps=20, starts=1, targets=1, queries=100, examples=100, checked=100)


def stripes(count: int = 60, noise: float = 0.05) -> Examples:
    """Images whose upper or lower half is brighter."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    inputs = torch.full((count, 1, 4, 4), 0.35) + noise * torch.randn(count, 1, 4, 4, generator=draw)
    inputs[labels == 0, :, :2] += 0.3
    inputs[labels == 1, :, 2:] += 0.3
    return Examples.first(inputs.clamp(0, 1), labels)


def halves(x: Tensor) -> Tensor:
    """The brightness of each half: a linear network that falls to small changes."""
    return torch.stack([x[:, :, :2].flatten(1).mean(1), x[:, :, 2:].flatten(1).mean(1)], 1)


def saturated(x: Tensor) -> Tensor:
    """Logits so far apart that the cross-entropy is 0 in single precision."""
    return 1e6 * halves(x)


def quantised(x: Tensor) -> Tensor:
    """Rounds its inputs to eight levels: all gradients are zero."""
    return halves((x * 8).round() / 8)


def minimum(x: Tensor) -> Tensor:
    """Flat around each example: descent from there has no direction, and one step of any has."""
    difference = halves(x)[:, 0] - halves(x)[:, 1]
    bent = difference.sign() * (difference.abs() - 0.2).clamp_min(0) * 5 + difference.sign().detach() * 0.05
    return torch.stack([bent, -bent], 1)


def thin_shell(x: Tensor) -> Tensor:
    """Another class within a narrow band alone, over which steps pass, and flat further away."""
    logits = halves(x)
    difference = (logits[:, 0] - logits[:, 1]).abs()
    inside = ((difference > 0.200) & (difference < 0.206)).float()
    known = torch.zeros_like(logits).scatter(1, logits.argmax(1, keepdim=True), 0.1)
    return logits * (difference > 0.15).float()[:, None] + 10 * known - 40 * inside[:, None] * known


def random_defence(x: Tensor) -> Tensor:
    return halves(x) + 1e-3 * torch.randn(len(x), 2)


def warned(network: Network, eps: float = 0.1, effort: Effort = EFFORT, dense: Tensor | None = None) -> set[str]:
    examples = stripes()
    attacker = Attacker(network, Ball("linf", eps), effort)
    with torch.random.fork_rng():
        found = attack_warnings(attacker, attacker.verdict(examples), examples, dense)
    assert set(found) <= set(WARNINGS)
    return set(found)


@pytest.mark.parametrize(
    ("network", "eps", "expected"),
    [
        (halves, 0.1, set()),
        (halves, 0.2, set()),
        (saturated, 0.2, {"zero-gradients"}),
        (quantised, 0.1, {"zero-gradients", "beyond-grey"}),
        (quantised, 0.3, {"zero-gradients", "gradients-are-not-needed"}),
        (minimum, 0.2, {"weaker-than-one-step"}),
        (thin_shell, 0.1, {"rises-with-eps", "not-converged"}),
        (thin_shell, 0.2, {"weaker-than-one-step"}),
        (random_defence, 0.1, {"random"}),
    ],
)
def test_networks_that_mislead_are_named(network: Network, eps: float, expected: set[str]) -> None:
    assert warned(network, eps) == expected


def test_warnings_are_the_same_where_fooled_examples_stay() -> None:
    """The search is then made on examples that descent has fooled as well."""
    attacker, examples = Attacker(halves, Ball("linf", 0.2), EFFORT, leave=False), stripes()
    made = attacker.verdict(examples)
    assert made.fooled["search"].any()
    assert not made.first_fooled_by("search").any()
    assert attack_warnings(attacker, made, examples) == ()


def third_class(x: Tensor) -> Tensor:
    """Sparse: two logits depend on no pixel, and the margin has no gradient at dark images."""
    brightness = x.flatten(1).mean(1)
    return torch.stack([0 * brightness + 0.1, 0 * brightness, brightness - 0.3], 1)


def test_a_network_that_falls_to_the_cross_entropy_alone_is_not_beyond_grey() -> None:
    """Of the class of the grey image are 10 examples, and none of the other 30 is robust at an eps of 0.5."""
    brightness = torch.cat([torch.linspace(0.1, 0.25, 30), torch.linspace(0.45, 0.6, 10)])
    inputs = brightness.view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    examples = Examples.first(inputs, third_class(inputs).argmax(1))
    attacker = Attacker(third_class, Ball("linf", 0.01), EFFORT)
    made = attacker.verdict(examples)
    assert made.robust.all()
    assert attack_warnings(attacker, made, examples) == ()


def test_the_margin_finds_what_the_cross_entropy_does_not() -> None:
    made = Attacker(saturated, Ball("linf", 0.2), EFFORT).verdict(stripes())
    assert [int(made.fooled[name].sum()) for name in ("fgsm", "pgd", "pgd-margin")] == [0, 0, 60]


def test_adversaries_of_the_dense_network_that_fool() -> None:
    """Made on the network without its rounding; projected into the ball."""
    examples = stripes()
    dense = Attacker(halves, Ball("linf", 0.25), EFFORT).verdict(examples).adversaries
    without_search = replace(EFFORT, queries=0, checked=0)
    assert warned(quantised, 0.25, without_search, dense) == {"zero-gradients", "beyond-grey", "transfer"}
    assert "transfer" not in warned(quantised, 0.01, without_search, dense)


def test_a_constant_network_is_no_robust_one() -> None:
    assert warned(lambda x: quantised(x) * 0 + torch.tensor([1.0, 0.0])) == set()
    made = Attacker(lambda x: x.flatten(1)[:, :2] * 0, Ball("linf", 0.1), EFFORT).verdict(stripes())
    assert is_constant(made)
    assert not is_constant(Attacker(halves, Ball("linf", 0.1), EFFORT).verdict(stripes()))


def test_examples_of_one_class_do_not_make_a_network_constant() -> None:
    """A few, or the first of a test set: that they are all named as their class shows nothing."""
    examples = stripes()
    upper = examples.at(examples.labels == 0)
    attacker = Attacker(saturated, Ball("linf", 0.05), EFFORT)
    assert not is_constant(attacker.verdict(upper))
    assert "zero-gradients" in attack_warnings(attacker, attacker.verdict(upper), upper)
    one = examples.at(torch.tensor([1]))
    assert "zero-gradients" in attack_warnings(attacker, attacker.verdict(one), one)
    assert is_constant(attacker.verdict(Examples.first(upper.inputs, torch.arange(len(upper)) % 2)))


def test_a_network_that_needs_gradients() -> None:
    def network(x: Tensor) -> Tensor:
        with torch.enable_grad():
            if torch.is_inference_mode_enabled():
                raise RuntimeError("element 0 of tensors does not require grad")
        return halves(x)

    assert warned(network) == {"needs-gradients"}
