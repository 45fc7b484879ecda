"""Activations pass every element to itself, whatever torch calls them where they work in place."""

import pytest
from torch import nn

from tests.graph.dependence import by_masks

IN_PLACE = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.Hardtanh,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.SiLU,
    nn.Mish,
    nn.RReLU,
    lambda *, inplace: nn.Threshold(0.0, 0.0, inplace=inplace),
)
OTHERS = (
    nn.GELU,
    nn.Hardshrink,
    nn.LogSigmoid,
    nn.PReLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
)


@pytest.mark.parametrize(
    "activation",
    [*(kind(inplace=inplace) for kind in IN_PLACE for inplace in (False, True)), *(kind() for kind in OTHERS)],
    ids=repr,
)
def test_every_element_passes_to_itself(activation: nn.Module) -> None:
    diagonal = [[row == column for column in range(4)] for row in range(4)]
    assert by_masks(activation) == diagonal
