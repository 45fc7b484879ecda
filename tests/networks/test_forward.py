"""Errors of a network in its forward pass: which are the batch's, and how they name the layer."""

import pytest
import torch
from torch import Tensor, nn

import pai_bench as pb
from pai_bench.networks.forward import RecomputationError, failing_layer, forward, no_recomputation

X = torch.ones(2, 3)


class Raising(nn.Module):
    """Raises an error, or after a first time gives its input."""

    def __init__(self, error: Exception, times: int = 2) -> None:
        super().__init__()
        self.error, self.times = error, times

    def forward(self, x: Tensor) -> Tensor:
        self.times -= 1
        if self.times < 0:
            return x
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError, ValueError, TypeError, IndexError, AssertionError])
def test_an_error_of_the_layers_is_one_of_the_batch(error: type[Exception]) -> None:
    expected = (
        r"^the batch, inputs of shape \(2, 3\), torch\.float32 on cpu, "
        r"does not fit the model in 'its own forward', a Raising,: no$"
    )
    with pytest.raises(pb.UserError, match=expected) as caught:
        forward(Raising(error("no")), X)
    assert not isinstance(caught.value, RecomputationError)


@pytest.mark.parametrize("error", [pb.UserError("no"), torch.OutOfMemoryError("no"), ZeroDivisionError("no")])
def test_other_errors_are_as_they_were_raised(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        forward(Raising(error), X)
    assert caught.value is error


def test_a_network_that_fails_only_once_is_named_by_its_class() -> None:
    with pytest.raises(pb.UserError, match=r"does not fit the model in Raising: no$"):
        forward(Raising(ValueError("no"), times=1), X)


def test_the_innermost_layer_is_named_and_nothing_is_left_in_the_network() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(5, 2)), nn.Linear(2, 2))
    assert failing_layer(model, X) == "'1.1', a Linear,"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_saved_tensors_elsewhere_are_refused_where_nothing_may_be_computed_again() -> None:
    with torch.autograd.graph.save_on_cpu(), pytest.raises(RecomputationError, match="score outside of that"):
        no_recomputation().__enter__()
    with no_recomputation():
        (X * torch.ones(2, 3, requires_grad=True)).sum().backward()
