"""When networks that are trained together count as equal to those that are trained alone."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pai_bench.training.equivalence import changed_alike, difference, steps
from pai_bench.training.trainable_groups import SingleModel

START = torch.tensor([1000.0, 0.0])


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ([0.0, 1.0], [0.0, 1.009], True),  # a hundredth of the largest change
        ([0.0, 1.009], [0.0, 1.0], True),
        ([0.0, 1.0], [0.0, 1.012], False),
        ([0.0, 1.012], [0.0, 1.0], False),
        ([0.02, 1.0], [0.0, 1.0], False),  # however large the values are that have changed
        ([0.0009, 0.0], [0.0, 0.0], True),  # a millionth of the largest value
        ([0.002, 0.0], [0.0, 0.0], False),
        ([float("nan"), 0.0], [float("nan"), 0.0], True),
        ([float("nan"), 0.0], [0.0, 0.0], False),
    ],
)
def test_changes_are_alike_up_to_a_hundredth_and_rounding(one: list[float], other: list[float], alike: bool) -> None:
    start = START.double()
    assert changed_alike(start, start + torch.tensor(one).double(), start + torch.tensor(other).double()) == alike


def test_what_is_empty_has_not_changed() -> None:
    assert changed_alike(torch.empty(0), torch.empty(0), torch.empty(0))


def test_two_steps_of_gradient_descent() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Linear(3, 2), torch.randn(4, 3), torch.arange(4) % 2
    other = copy.deepcopy(model)
    found = steps(SingleModel(model), x[None], y[None])
    optimizer, losses = torch.optim.SGD(other.parameters(), lr=0.01), []
    for _ in range(2):
        optimizer.zero_grad()
        loss = F.cross_entropy(other(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    torch.testing.assert_close(found, torch.stack(losses)[:, None])
    torch.testing.assert_close(model.weight, other.weight)


class Odd(nn.Linear):
    """Not the same when it is in a transform of torch, by a factor of its output or of its gradient."""

    def __init__(self, outputs: float, gradients: float) -> None:
        super().__init__(3, 2)
        self.factors = outputs, gradients

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if torch._C._functorch.peek_interpreter_stack() is None:
            return y
        output, gradient = self.factors
        return output * (gradient * y + (1 - gradient) * y.detach())


@pytest.mark.parametrize(
    ("outputs", "gradients", "message"),
    [
        (1.0, 1.0, None),
        (1.01, 1.0, "in lanes, its losses would differ"),
        (1.0, 1.05, "in lanes, its weight would differ"),
    ],
)
def test_what_tells_networks_in_lanes_from_those_alone(outputs: float, gradients: float, message: str | None) -> None:
    torch.manual_seed(0)
    models = [Odd(outputs, gradients) for _ in range(2)]
    x, y = torch.randn(6, 3), torch.arange(6) % 2
    assert difference(models, copy.deepcopy(models), x, y) == message
