"""Dropout is off while scoring, also where it is called as a function."""

import copy
import gc
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.networks.dropout import OFF
from pai_bench.networks.private_copy import private_copy
from pai_bench.scoring import MaskedModel, Scores

X, Y = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3

ATTENTION = nn.MultiheadAttention(4, 2, dropout=0.5)


def attention(x: Tensor) -> Tensor:
    rows = x.unsqueeze(1)
    begin, end = ATTENTION.in_proj_weight, ATTENTION.out_proj.weight
    biases = ATTENTION.in_proj_bias, ATTENTION.out_proj.bias
    return F.multi_head_attention_forward(
        rows, rows, rows, 4, 2, begin, biases[0], None, None, False, 0.5, end, biases[1], True
    )[0].squeeze(1)


def planes(of: Callable[..., Tensor], dims: int) -> Callable[[Tensor], Tensor]:
    return lambda x: of(x.view(*x.shape, *(1,) * dims), 0.5).flatten(1)


DRAWING: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": F.dropout,
    "by place": lambda x: F.dropout(x, 0.5, True),
    "by name": lambda x: F.dropout(x, p=0.5, training=True),
    "in place": lambda x: F.dropout(x, 0.5, True, True),
    "dropout1d": planes(F.dropout1d, 1),
    "dropout2d": planes(F.dropout2d, 2),
    "dropout3d": planes(F.dropout3d, 3),
    "alpha": lambda x: F.alpha_dropout(x, 0.5, training=True),
    "feature alpha": lambda x: F.feature_alpha_dropout(x, 0.5, True),
    "torch": lambda x: torch.dropout(x, 0.5, True),
    "torch, in place": lambda x: torch.dropout_(x, 0.5, train=True),
    "native": lambda x: torch.native_dropout(x, 0.5, True)[0],
    "operator": lambda x: torch.ops.aten.dropout(x, 0.5, True),
    "operator, by name": lambda x: torch.ops.aten.native_dropout.default(x, 0.5, train=True)[0],
    "feature": lambda x: torch.feature_dropout(x, 0.5, True),
    "rrelu": lambda x: F.rrelu(x, training=True),
    "rrelu by place": lambda x: F.rrelu(x, 0.1, 0.3, True),
    "fused attention": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None], None, 0.5)[0],
    "attention": attention,
}


class Net(nn.Module):
    def __init__(self, of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.of = nn.Linear(6, 4), nn.Linear(4, 3), of

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.of(self.a(x)))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Direct(pb.Criterion):
    """Calls the network itself."""

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        value = model(batch.inputs).sum()
        return model.saliencies(batch, lambda w, _g, _value: w.abs() * float(value.detach()))


@pytest.mark.parametrize("criterion", ["snip", "grasp", Direct()])
@pytest.mark.parametrize("kind", DRAWING)
def test_scores_do_not_depend_on_chance(kind: str, criterion: Any) -> None:
    torch.manual_seed(0)
    model = Net(DRAWING[kind])
    assert not torch.equal(model(X), model(X))
    chosen = pb.get_criterion(criterion)
    one, other = (pb.prune(model, (X, Y), chosen, 0.5, seed=seed) for seed in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
    first, second = (chosen.score(model, pb.Batch(X, Y)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def in_a_hook() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    model[0].register_forward_hook(lambda _module, _inputs, output: F.dropout(output))
    return model


def before_a_layer() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    model[1].register_forward_pre_hook(lambda _module, inputs: F.dropout(inputs[0]))
    return model


def in_its_own_forward() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    model.forward = types.MethodType(lambda own, x: own[1](F.dropout(own[0](x))), model)  # type: ignore[method-assign]
    return model


def in_an_activation() -> nn.Module:
    layer = nn.TransformerEncoderLayer(6, 2, 8, activation=lambda x: F.dropout(x), batch_first=True)
    return nn.Sequential(nn.Unflatten(1, (1, 6)), layer, nn.Flatten(), nn.Linear(6, 3))


@pytest.mark.parametrize("build", [in_a_hook, before_a_layer, in_its_own_forward, in_an_activation])
def test_nor_where_only_a_part_of_torchs_own_layers_is_a_users(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = build()
    assert not torch.equal(model(X), model(X))
    for criterion in (pb.get_criterion("snip"), Direct()):
        first, second = (criterion.score(model, pb.Batch(X, Y)) for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_without_dropout_is_as_in_evaluation() -> None:
    torch.manual_seed(0)
    dropping, plain = Net(F.dropout), Net(lambda x: x)
    plain.load_state_dict(dropping.state_dict())
    scores = [pb.get_criterion("snip").score(one, pb.Batch(X, Y)) for one in (dropping, plain)]
    assert all(torch.equal(scores[0][name], scores[1][name]) for name in scores[0])


def test_the_callers_network_and_copies_of_the_copy_keep_their_dropout() -> None:
    model = Net(F.dropout)
    pb.get_criterion("snip").score(model, pb.Batch(X, Y))
    assert not torch.equal(model(X), model(X))
    twin = private_copy(model, ["a.weight"], "eval")
    assert torch.equal(twin(X), twin(X))
    again = copy.deepcopy(twin)
    assert not torch.equal(again(X), again(X))
    gone = weakref.ref(twin)
    gc.disable()
    try:
        del twin
        assert gone() is None
    finally:
        gc.enable()


def test_every_function_that_drops_is_known() -> None:
    for place in (torch, F):
        for name in dir(place):
            if ("dropout" in name or "rrelu" in name) and not name.startswith("_"):
                assert getattr(place, name) in OFF, name
