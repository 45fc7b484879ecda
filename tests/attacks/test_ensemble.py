"""AutoAttack as the last of a verdict's attacks."""

import sys

import pytest
import torch
from torch import Tensor

import pai_bench as pb
from pai_bench.attacks import Attacker, Ball, Effort, Examples
from pai_bench.attacks.ensemble import autoattack
from pai_bench.evaluation import get_metric

NOTHING = Effort(steps=1, starts=0, targets=0, queries=0, examples=40, checked=0)


def problem(classes: int = 5) -> tuple[Tensor, Examples]:
    """A linear network in single precision, and grey images with the labels that it gives them."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(classes, 36, generator=draw) / 6
    inputs = 0.5 + 0.02 * torch.randn(16, 1, 6, 6, generator=draw)
    return weight, Examples.first(inputs, (inputs.flatten(1) @ weight.T).argmax(1))


def exact(weight: Tensor, examples: Examples) -> Tensor:
    """The distance from the nearest boundary, maximum norm."""
    logits = examples.inputs.flatten(1) @ weight.T
    gaps = logits.gather(1, examples.labels[:, None]) - logits
    lengths = (weight[examples.labels][:, None] - weight[None]).abs().sum(2)
    return torch.where(lengths > 0, gaps / lengths, torch.inf).amin(1)


@pytest.mark.slow
def test_it_is_exact_on_a_linear_network() -> None:
    pytest.importorskip("pyautoattack")
    weight, examples = problem()
    distances = exact(weight, examples)
    eps = float(distances.median())
    clear = (distances - eps).abs() > 0.01 * eps
    state = torch.get_rng_state()
    attacker = Attacker(lambda x: x.flatten(1) @ weight.T, Ball("linf", eps), NOTHING, ensemble=True)
    made = attacker.verdict(examples)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(made.fooled)[-1] == "autoattack"
    assert torch.equal(made.robust[clear], (distances > eps)[clear])
    assert 0 < int(made.robust.sum()) < len(examples)
    assert made.seconds["autoattack"] > 0


def test_too_few_classes_are_refused() -> None:
    pytest.importorskip("pyautoattack")
    weight, examples = problem(3)
    with pytest.raises(pb.UserError, match="autoattack takes 4 classes at least, not 3"):
        autoattack(lambda x: x.flatten(1) @ weight.T, examples, Ball("linf", 0.1))


def test_the_package_is_asked_for_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(pb.UserError, match=r"autoattack needs the package pyautoattack: pip install .*robustness"):
        get_metric("verdict-linf:eps=0.1:autoattack=true")
    get_metric("verdict-linf:eps=0.1")
