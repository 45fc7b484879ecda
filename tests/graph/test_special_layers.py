"""Connectivity of tables, one-hot codes, random masks and computed weights, and of models that cannot be followed."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pai_bench as pb
from tests.graph.kinds import Net


def linear(size: int, units: int) -> nn.Module:
    return nn.Linear(size, units, bias=False)


def whole(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: torch.ones(p.shape, dtype=torch.bool) for name, p in model.named_parameters() if p.dim() > 1}


def written_through_a_view(n: Any, x: Any) -> Any:
    mask = torch.zeros(2, 2)
    mask[0] = torch.bernoulli(torch.full((2,), 0.05))
    mask[1:] = (torch.rand(1, 2) > 0.95).float()
    return n.b(n.a(x) * mask.view(4))


def drawn_in_part(n: Any, x: Any) -> Any:
    mask = torch.zeros(4)
    mask[:3].bernoulli_(0.05)
    mask[3:] = 1
    return n.b(n.a(x) * mask)


def chosen_by_chance(n: Any, x: Any) -> Any:
    mask = torch.ones(4)
    mask[torch.rand(4) > 0.1] = 0
    return n.b(n.a(x) * mask)


@pytest.mark.parametrize(
    "run",
    [
        lambda n, x: n.b(F.dropout(n.a(x), 0.9, training=True)),
        lambda n, x: n.b(F.dropout(n.a(x), 0.9, training=True, inplace=True)),
        lambda n, x: n.b(n.a(x) * torch.bernoulli(torch.full((4,), 0.1))),
        lambda n, x: n.b(n.a(x) * (torch.rand(4) > 0.9).float() / 0.1),
        lambda n, x: n.b(n.a(x) * torch.ones(4).masked_fill(torch.rand(4) > 0.1, 0.0)),
        lambda n, x: n.b(torch.where(torch.rand(4) > 0.9, n.a(x), 0.0)),
        lambda n, x: n.b(n.a(x).masked_fill(torch.rand(4) < 0.9, 0.0)),
        lambda n, x: n.b(F.linear(x, F.dropout(n.a.weight, 0.9, training=True))),
        lambda n, x: n.b(F.linear(x, n.a.weight.masked_fill(torch.rand(4, 6) > 0.05, 0.0))),
        written_through_a_view,
        drawn_in_part,
        chosen_by_chance,
    ],
)
def test_what_chance_sets_to_zero_is_no_cut(run: Any) -> None:
    keep = torch.arange(24).reshape(4, 6) % 5 == 0
    model = Net(run, a=linear(6, 4), b=linear(4, 3))
    found = pb.connectivity(model, whole(model) | {"a.weight": keep}, torch.zeros(1, 6))
    assert found.unknown == ()
    assert torch.equal(found.effective_mask["a.weight"], keep)
    assert torch.equal(found.effective_mask["b.weight"], keep.any(1).expand(3, 4))


@pytest.mark.parametrize(
    "run",
    [
        lambda n, x: n.b((h := F.dropout(n.a(x), 0.5, training=True)) * h.new_zeros(4)),
        lambda n, x: n.b(n.a(x) * torch.zeros_like(torch.rand(4))),
        lambda n, x: n.b(n.a(x) * torch.rand(4).zero_()),
    ],
)
def test_zeros_beside_chance_are_a_cut(run: Any) -> None:
    model = Net(run, a=linear(6, 4), b=linear(4, 3))
    assert not pb.connectivity(model, whole(model), torch.zeros(1, 6)).connected


def test_attention_forbidden_by_chance_is_allowed() -> None:
    def run(n: Any, x: Any) -> Any:
        return n.b(n.a(x).view(1, 2, 2).masked_fill(torch.rand(2, 2) > 0.1, -torch.inf).softmax(-1).flatten(1))

    model = Net(run, a=linear(6, 4), b=linear(4, 3))
    assert pb.connectivity(model, whole(model), torch.zeros(1, 6)).effective_density == 1


def halved(n: Any, x: Any) -> Any:
    h = n.a(x)
    y = 0.5 * h
    y += n.g(x)
    return n.b(y) + n.c(h)


def normalised(n: Any, x: Any) -> Any:
    h = n.a(x)
    y = F.layer_norm(h, (2,))
    y.add_(n.g(x))
    return n.b(y) + n.c(h)


def swapped(n: Any, x: Any) -> Any:
    h = n.a(x)
    first, _ = torch.unsafe_chunk(h.clone(), 2, 1)
    y = h.clone().view(1, 2)
    first.mul_(1.0)
    y.view(2, 1).t_()
    y.add_(n.g(x))
    return n.b(y) + n.c(h)


@pytest.mark.parametrize("run", [halved, normalised, swapped])
def test_what_is_written_into_one_value_is_not_in_another(run: Any) -> None:
    """Two inputs by two units, from a and g to b and from a to c: 4 + 4 + 4 paths."""
    model = Net(run, a=linear(2, 2), g=linear(2, 2), b=linear(2, 1), c=linear(2, 1))
    found = pb.connectivity(model, whole(model), torch.zeros(1, 2))
    assert found.log10_paths == pytest.approx(math.log10(12))


def test_a_sum_with_a_constant_product_is_a_value_of_its_own() -> None:
    def run(n: Any, x: Any) -> Any:
        h = n.a(x)
        y = torch.addmm(h, torch.ones(1, 2), torch.ones(2, 2))
        y.add_(n.g(x))
        return n.b(y) + n.c(h)

    model = Net(run, a=linear(2, 2), g=linear(2, 2), b=linear(2, 1), c=linear(2, 1))
    mask = whole(model)
    mask["a.weight"][0] = False
    mask["b.weight"][:] = False
    found = pb.connectivity(model, mask, torch.zeros(1, 2))
    counts = {name: int(keep.sum()) for name, keep in found.effective_mask.items()}
    assert counts == {"a.weight": 2, "g.weight": 0, "b.weight": 0, "c.weight": 1}


def test_moved_masks_and_weights_are_followed() -> None:
    fixed = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    for run, effective in (
        (lambda n, x: n.b((n.a(x).view(1, 1, 2, 2) * fixed).permute(0, 2, 3, 1).flatten(1)), 3 / 4),
        (lambda n, x: n.b(torch.tril(n.a(x).view(2, 2)).t().contiguous().view(1, 4)), 3 / 4),
        (lambda n, x: n.b(F.linear(x, n.a.weight.t().reshape(4, 4))), 1),
    ):
        model = Net(run, a=linear(4, 4), b=linear(4, 2))
        found = pb.connectivity(model, whole(model), torch.zeros(1, 4))
        assert (found.unknown, found.effective_density) == ((), effective)


class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(18, 3)), nn.Parameter(torch.randn(3, 16))

    def forward(self, weight: Any) -> Any:
        return weight + (self.left @ self.right).view(weight.shape)


def test_units_are_those_of_weights_only() -> None:
    layer = nn.Conv2d(8, 8, 3, groups=2)
    nn.utils.parametrize.register_parametrization(layer, "weight", LowRank())
    model = nn.Sequential(layer)
    found = {one.name: one for one in pb.connectivity(model, whole(model), torch.zeros(1, 8, 5, 5)).layers}
    units = {name.rpartition(".")[2]: (one.units, one.features) for name, one in found.items()}
    assert units == {"original": (8, 8), "left": (18, 3), "right": (3, 16)}


def test_a_value_changed_after_its_use_is_named() -> None:
    def run(n: Any, x: Any) -> Any:
        h = n.a(x)
        y = n.b(h)
        h.relu_()
        return y + n.c(h)

    model = Net(run, a=linear(4, 4), b=linear(4, 2), c=linear(4, 2))
    with pytest.raises(pb.UserError, match="changes in place a value that it has used before"):
        pb.connectivity(model, whole(model), torch.zeros(1, 4))


def test_a_table_and_a_normalisation_can_be_the_first_cut() -> None:
    table = Net(lambda n, x: n.b(n.e(x).flatten(1)), e=nn.Embedding(7, 5), b=nn.Linear(15, 3))
    nothing = {"e.weight": torch.zeros(7, 5, dtype=torch.bool), "b.weight": torch.ones(3, 15, dtype=torch.bool)}
    tokens = torch.zeros(1, 3, dtype=torch.long)
    assert pb.connectivity(table, nothing, tokens).first_cut == "e.weight"
    nothing["e.weight"][2, 1] = True
    (layer, _) = pb.connectivity(table, nothing, tokens).layers
    assert (layer.units, layer.dead_units, layer.features, layer.dead_features) == (5, 4, 7, 6)
    norm = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    cut = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in norm.named_parameters() if "weight" in name}
    cut["1.weight"][:] = False
    assert pb.connectivity(norm, cut, torch.zeros(1, 6)).first_cut == "1.weight"


def test_one_hot_codes_of_tokens_pass() -> None:
    model = Net(lambda n, x: n.b(F.one_hot(input=x, num_classes=7).float().flatten(1)), b=nn.Linear(21, 3))  # type: ignore[call-arg]  # its name in torch
    found = pb.connectivity(model, {"b.weight": torch.eye(21)[:3].bool()}, torch.zeros(1, 3, dtype=torch.long))
    assert (found.connected, found.unknown, found.effective_density) == (True, (), 3 / 63)


def test_units_of_a_transposed_layer_whose_weight_is_computed() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.ConvTranspose2d(4, 6, 3, groups=2))
    mask = {"0.parametrizations.weight.original1": torch.ones(4, 3, 3, 3, dtype=torch.bool)}
    (found,) = pb.connectivity(nn.Sequential(layer), mask, torch.zeros(1, 4, 5, 5)).layers
    assert (found.units, found.features, found.dead_units) == (6, 4, 0)


JIT_WARNINGS = (DeprecationWarning, FutureWarning)  # the first from torch 2.11, the second from later versions


def test_models_that_cannot_be_followed_are_named() -> None:
    mask = {"0.weight": torch.ones(3, 6, dtype=torch.bool)}
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(6, 3))
    with pytest.raises(pb.UserError, match=r"'0\.weight' is on the device meta"):
        pb.connectivity(model, mask, torch.zeros(1, 6))
    with pytest.warns(JIT_WARNINGS, match=r"torch\.jit"):
        scripted = torch.jit.trace(nn.Sequential(nn.Linear(6, 3)), torch.zeros(1, 6))
    with pytest.raises(pb.UserError, match=r"the model is compiled by torch\.jit"):
        pb.connectivity(scripted, mask, torch.zeros(1, 6))
    with pytest.raises(pb.UserError, match=r"'0\.weight' has no shape yet"):
        pb.connectivity(nn.Sequential(nn.LazyLinear(3)), mask, torch.zeros(1, 6))


class Scripted(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x)


def test_a_compiled_part_can_be_scored_though_it_cannot_be_followed() -> None:
    with pytest.warns(JIT_WARNINGS, match=r"torch\.jit"):
        part = torch.jit.trace(Scripted(), torch.zeros(1, 4))
    model = nn.Sequential(nn.Linear(6, 4), part, nn.Linear(4, 3))
    mask = pb.prune(model, (torch.randn(4, 6), torch.arange(4) % 3), "snip", 0.5)
    assert sum(mask.kept_per_layer().values()) == 18
    with pytest.raises(pb.UserError, match=r"'1' is compiled by torch\.jit"):
        pb.connectivity(model, mask, torch.zeros(1, 6))


def test_one_hot_codes_of_a_number_that_the_data_decide_are_refused() -> None:
    model = Net(lambda n, x: n.b(F.one_hot(x).float().flatten(1)), b=nn.Linear(21, 3))
    mask = {"b.weight": torch.ones(3, 21, dtype=torch.bool)}
    with pytest.raises(pb.UserError, match="different things for different data"):
        pb.connectivity(model, mask, torch.arange(3)[None] * 3)
