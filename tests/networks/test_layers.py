"""Which parameters are prunable by the layer that they belong to."""

import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.networks.layers import prunable_parameters

ATTENTION = ["in_proj_weight", "out_proj.weight"]
SEPARATE = ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]
RECURRENT = ["weight_ih_l0", "weight_hh_l0"]

LAYERS: list[tuple[nn.Module, list[str], list[str]]] = [
    *((layer, ["weight"], ["weight", "bias"]) for layer in (nn.Linear(4, 4), nn.Conv1d(4, 4, 1), nn.Conv3d(4, 4, 1))),
    *((cls(4, 4, 1), ["weight"], ["weight", "bias"]) for cls in (nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)),
    (nn.ConvTranspose3d(4, 4, 1, bias=False), ["weight"], ["weight"]),
    (nn.MultiheadAttention(4, 2), ATTENTION, ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"]),
    (nn.MultiheadAttention(4, 2, kdim=3, bias=False), SEPARATE, SEPARATE),
    (nn.LSTM(4, 4), RECURRENT, [*RECURRENT, "bias_ih_l0", "bias_hh_l0"]),
    (nn.GRUCell(4, 4), ["weight_ih", "weight_hh"], ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]),
]


@pytest.mark.parametrize(("layer", "weights", "biases"), LAYERS)
def test_weights_and_biases_of_layers(layer: nn.Module, weights: list[str], biases: list[str]) -> None:
    assert list(prunable_parameters(layer)) == weights
    assert list(prunable_parameters(layer, biases=True)) == biases


def empty() -> nn.Module:
    """A layer whose weight has no elements."""
    layer = nn.Linear(4, 1)
    layer.weight = nn.Parameter(torch.zeros(0, 4))
    return layer


def test_other_layers_are_left_out_and_shared_weights_count_once() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    assert list(prunable_parameters(model, biases=True)) == ["2.weight", "2.bias", "4.weight", "4.bias"]
    model[4].weight = model[2].weight
    assert list(prunable_parameters(model)) == ["2.weight"]
    model[2].weight.requires_grad_(False)
    assert list(prunable_parameters(model)) == ["2.weight"]
    model.append(empty())
    assert list(prunable_parameters(model)) == ["2.weight"]


def test_a_callers_own_choice() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    assert list(prunable_parameters(model, only=["2.weight", "1.weight"])) == ["1.weight", "2.weight"]
    assert list(prunable_parameters(model, only="2.bias")) == ["2.bias"]
    assert list(prunable_parameters(model, only=lambda name, p: "bias" in name and len(p) == 4)) == ["0.bias", "1.bias"]


@pytest.mark.parametrize(
    ("model", "only", "message"),
    [
        (nn.ReLU(), None, r"^ReLU has no prunable weight"),
        (empty(), None, "^Linear has no prunable weight"),
        (nn.Linear(4, 2), [], "^Linear has no prunable weight"),
        (nn.Linear(4, 2), ["weigth"], "parameter of Linear 'weigth': did you mean weight"),
        (nn.Linear(4, 2), [3], "not 3$"),
        (nn.Linear(4, 2), 3, "not 3$"),
        (nn.LazyLinear(2), None, "^'weight' has no shape yet: pass one batch through LazyLinear first"),
        (nn.ParameterList([nn.Parameter(torch.arange(3), requires_grad=False)]), ["0"], "^'0' has dtype torch.int64"),
    ],
)
def test_what_cannot_be_pruned(model: nn.Module, only: object, message: str) -> None:
    with pytest.raises(pb.UserError, match=message):
        prunable_parameters(model, only=only)  # type: ignore[arg-type]
