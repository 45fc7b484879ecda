"""Connectivity of tables, one-hot codes, random masks and computed weights, and of models that cannot be followed."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pai_bench as pb
from tests.pruning.kinds import Net


def test_what_chance_sets_to_zero_is_no_cut() -> None:
    def two(run: Any) -> nn.Module:
        return Net(run, a=nn.Linear(6, 4), b=nn.Linear(4, 3))

    keep = torch.arange(24).reshape(4, 6) % 5 == 0
    for run in (
        lambda n, x: n.b(F.dropout(n.a(x), 0.9, training=True)),
        lambda n, x: n.b(F.dropout(n.a(x), 0.9, training=True, inplace=True)),
        lambda n, x: n.b(n.a(x) * torch.bernoulli(torch.full((4,), 0.1))),
        lambda n, x: n.b(n.a(x) * (torch.rand(4) > 0.9).float() / 0.1),
        lambda n, x: n.b(torch.where(torch.rand(4) > 0.9, n.a(x), 0.0)),
        lambda n, x: n.b(n.a(x).masked_fill(torch.rand(4) < 0.9, 0.0)),
        lambda n, x: n.b(F.linear(x, F.dropout(n.a.weight, 0.9, training=True))),
    ):
        model = two(run)
        found = pb.connectivity(
            model, {"a.weight": keep, "b.weight": torch.ones(3, 4, dtype=torch.bool)}, torch.zeros(1, 6)
        )
        assert found.unknown == ()
        assert torch.equal(found.effective_mask["a.weight"], keep)
        assert torch.equal(found.effective_mask["b.weight"], keep.any(1).expand(3, 4))


def test_a_table_and_a_normalisation_can_be_the_first_cut() -> None:
    table = Net(lambda n, x: n.b(n.e(x).flatten(1)), e=nn.Embedding(7, 5), b=nn.Linear(15, 3))
    nothing = {"e.weight": torch.zeros(7, 5, dtype=torch.bool), "b.weight": torch.ones(3, 15, dtype=torch.bool)}
    tokens = torch.zeros(1, 3, dtype=torch.long)
    assert pb.connectivity(table, nothing, tokens).first_cut == "e.weight"
    nothing["e.weight"][2, 1] = True
    (layer, _) = pb.connectivity(table, nothing, tokens).layers
    assert (layer.units, layer.dead_units, layer.features, layer.dead_features) == (5, 4, 7, 6)
    norm = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    whole = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in norm.named_parameters() if "weight" in name}
    whole["1.weight"][:] = False
    assert pb.connectivity(norm, whole, torch.zeros(1, 6)).first_cut == "1.weight"


def test_one_hot_codes_of_tokens_pass() -> None:
    model = Net(lambda n, x: n.b(F.one_hot(x, 7).float().flatten(1)), b=nn.Linear(21, 3))
    found = pb.connectivity(model, {"b.weight": torch.eye(21)[:3].bool()}, torch.zeros(1, 3, dtype=torch.long))
    assert (found.connected, found.unknown, found.effective_density) == (True, (), 3 / 63)


def test_units_of_a_transposed_layer_whose_weight_is_computed() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.ConvTranspose2d(4, 6, 3, groups=2))
    mask = {"0.parametrizations.weight.original1": torch.ones(4, 3, 3, 3, dtype=torch.bool)}
    (found,) = pb.connectivity(nn.Sequential(layer), mask, torch.zeros(1, 4, 5, 5)).layers
    assert (found.units, found.features, found.dead_units) == (6, 4, 0)


def test_models_that_cannot_be_followed_are_named() -> None:
    mask = {"0.weight": torch.ones(3, 6, dtype=torch.bool)}
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(6, 3))
    with pytest.raises(pb.UserError, match=r"'0\.weight' is on the device meta"):
        pb.connectivity(model, mask, torch.zeros(1, 6))
    with pytest.warns(FutureWarning):
        scripted = torch.jit.trace(nn.Sequential(nn.Linear(6, 3)), torch.zeros(1, 6))
    with pytest.raises(pb.UserError, match=r"the model is compiled by torch\.jit"):
        pb.connectivity(scripted, mask, torch.zeros(1, 6))
