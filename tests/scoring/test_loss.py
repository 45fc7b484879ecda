"""The loss that is differentiated, by hand, and what cannot be one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.scoring.loss import loss_of

X, Y = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]]), torch.tensor([0, 2])


class Gives(nn.Module):
    """Makes something of its input."""

    def __init__(self, what: Callable[[Tensor], Any] = lambda x: x) -> None:
        super().__init__()
        self.what, self.factor = what, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Any:
        return self.what(x * self.factor)


def mean(output: Any, targets: Tensor) -> Tensor:
    found: Tensor = (output.mean(1) * targets).mean()
    return found


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_the_loss_of_logits(temperature: float) -> None:
    expected = F.cross_entropy(X / temperature, Y)
    torch.testing.assert_close(loss_of(Gives(), pb.Batch(X, Y), temperature=temperature), expected)
    logits = -(X[0, 0] + X[1, 2]) / 2 / temperature
    torch.testing.assert_close(loss_of(Gives(), pb.Batch(X, Y), temperature=temperature, nll=True), logits)
    own = mean(X / temperature, Y)
    torch.testing.assert_close(loss_of(Gives(), pb.Batch(X, Y, mean), temperature=temperature), own)
    assert loss_of(Gives(), pb.Batch(X, Y, lambda y, t: mean(y, t)[None])).shape == ()


def test_what_a_network_gives_beside_tensors_is_for_a_loss_of_its_own() -> None:
    network = Gives(lambda x: {"logits": x})
    own = pb.Batch(X, Y, lambda output, targets: mean(output["logits"], targets))
    torch.testing.assert_close(loss_of(network, own), mean(X, Y))
    with pytest.raises(pb.UserError, match="a temperature of 2 divides logits, but Gives gives dict"):
        loss_of(network, own, temperature=2)
    with pytest.raises(pb.UserError, match="Gives returns dict, not logits: give loss="):
        loss_of(network, pb.Batch(X, Y))


@pytest.mark.parametrize(
    ("what", "targets", "message"),
    [
        (lambda x: x[:, :, None], Y, r"the model gives \(2, 3, 1\) for 2 examples, not logits \(2, classes\)"),
        (lambda x: x[:1], Y, r"the model gives \(1, 3\) for 2 examples"),
        (lambda x: x.sum(1), Y, r"the model gives \(2,\) for 2 examples"),
        (lambda x: x, torch.tensor([0, 3]), r"targets must lie in 0\.\.2, the model's classes, but are 0, 3"),
        (lambda x: x, torch.tensor([-1, 2]), r"targets must lie in 0\.\.2, the model's classes, but are -1, 2"),
    ],
)
def test_what_does_not_fit_together(what: Callable[[Tensor], Any], targets: Tensor, message: str) -> None:
    with pytest.raises(pb.UserError, match=message):
        loss_of(Gives(what), pb.Batch(X, targets))


@pytest.mark.parametrize("own", [lambda *_: 1.0, lambda y, _: y, lambda y, _: y.detach().sum(), lambda y, _: y[:0]])
def test_a_loss_is_a_differentiable_scalar(own: Any) -> None:
    with pytest.raises(pb.UserError, match="the loss given must be a differentiable scalar"):
        loss_of(Gives(), pb.Batch(X, Y, own))


def test_a_loss_of_ones_own_is_of_no_logit() -> None:
    with pytest.raises(pb.UserError, match="loss=nll is a loss of logits, but the batch brings a loss of its own"):
        loss_of(Gives(), pb.Batch(X, Y, mean), nll=True)
