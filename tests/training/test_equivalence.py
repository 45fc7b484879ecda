"""When networks that are trained together count as equal to those that are trained alone."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
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
        ([float("nan"), 0.005], [float("nan"), 0.0], False),  # a change of what is not finite has no size
        ([float("inf"), 0.005], [float("inf"), 0.0], False),
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


class PartlyUsed(nn.Module):
    """A network with a layer that takes no part."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.used(x)
        return output


@pytest.mark.parametrize("weight", [1.0, float("nan")])
def test_networks_of_which_a_part_is_unused_or_not_finite(weight: float) -> None:
    torch.manual_seed(0)
    models = [PartlyUsed() for _ in range(2)]
    for model in models:
        model.used.weight.data.mul_(weight)
    assert difference(models, copy.deepcopy(models), torch.randn(6, 3), torch.arange(6) % 2) is None


class Tied(PartlyUsed):
    """A parameter, or a buffer, of two names."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind == "parameter":
            self.unused.weight = self.used.weight
        else:
            scale = torch.ones(1)
            for layer in (self.used, self.unused):
                layer.register_buffer("scale", scale)


@pytest.mark.parametrize(("kind", "name"), [("parameter", "unused.weight"), ("buffer", "unused.scale")])
def test_a_tensor_of_two_names_is_named(kind: str, name: str) -> None:
    models = [Tied(kind) for _ in range(2)]
    with pytest.raises(pb.UserError, match=f"'{name}' is another name of a tensor that has one"):
        difference(models, copy.deepcopy(models), torch.randn(6, 3), torch.arange(6) % 2)


def test_layers_that_draw_at_random_are_named() -> None:
    models = [nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)) for _ in range(2)]
    with pytest.raises(pb.UserError, match="'1' draws at random in training"):
        difference(models, copy.deepcopy(models), torch.randn(6, 3), torch.arange(6) % 2)
