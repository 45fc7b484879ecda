"""In which arithmetic networks are scored: float32 at least, float64 where one asks for it."""

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.experiment.resolve import resolve
from pai_bench.scoring import Scores

X, Y = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
CRITERIA = ["snip", "grasp", "synflow", "magnitude", "force", "snip-it", "random"]


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3)
    return nn.Sequential(*layers)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_half_precision_is_scored_in_single(criterion: str, kind: torch.dtype) -> None:
    half = net().to(kind)
    before = copy.deepcopy(half.state_dict())
    mask = pb.prune(half, (X.to(kind), Y), criterion, 0.8)
    single = pb.prune(copy.deepcopy(half).float(), (X.to(kind).float(), Y), criterion, 0.8)
    assert all(torch.equal(mask[name], single[name]) for name in single)
    assert all(tensor.dtype in (kind, torch.int64) for tensor in half.state_dict().values())
    assert all(torch.equal(before[name], tensor) for name, tensor in half.state_dict().items())
    mask.apply_(half)
    assert pb.connectivity(half, mask, X[:1].to(kind)).connected


@pytest.mark.parametrize("criterion", ["snip", "grasp"])
def test_double_precision_is_that_of_the_network_in_double(criterion: str) -> None:
    model = net()
    found = pb.get_criterion(f"{criterion}:score-dtype=float64").score(model, pb.Batch(X, Y))
    exact = pb.get_criterion(criterion).score(copy.deepcopy(model).double(), pb.Batch(X.double(), Y))
    rounded = pb.get_criterion(criterion).score(model, pb.Batch(X, Y))
    for name, score in found.items():
        assert score.dtype == torch.float64
        assert torch.equal(score, exact[name])
        assert rounded[name].dtype == torch.float32
        torch.testing.assert_close(rounded[name].double(), score, rtol=1e-2, atol=1e-6)
    assert next(model.parameters()).dtype == torch.float32


def test_snip_in_double_precision_against_its_formula() -> None:
    model = net()
    found = pb.get_criterion("snip:score-dtype=float64").score(model, pb.Batch(X, Y))
    twin = copy.deepcopy(model).double().eval()
    loss = F.cross_entropy(twin(X.double()), Y)
    weights = [twin.get_parameter(name) for name in found]
    expected = [(w * g).abs().detach() for w, g in zip(weights, torch.autograd.grad(loss, weights), strict=True)]
    whole = sum(float(one.sum()) for one in expected)
    for score, one in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(score, one / whole)


@dataclass(frozen=True)
class Outer(pb.Criterion):
    """Asks another criterion, in an arithmetic of its own."""

    inner: str = "snip"

    def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
        return pb.get_criterion(self.inner).score(model, batch)


@pytest.mark.parametrize(
    ("outer", "inner", "kind"),
    [
        (None, "snip:score-dtype=float64", torch.float64),
        ("float64", "snip", torch.float64),
        ("float64", "snip:score-dtype=float32", torch.float32),
        (None, "snip", torch.float32),
    ],
)
def test_a_criterion_within_another(outer: Any, inner: str, kind: torch.dtype) -> None:
    found = Outer(inner=inner, score_dtype=outer).score(net(), pb.Batch(X, Y))
    assert {score.dtype for score in found.values()} == {kind}


class Casting(nn.Module):
    """Computes in its own precision, whatever it is given, with constants that it makes."""

    def __init__(self, cast: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.cast = nn.Linear(64, 16), nn.Linear(16, 3), cast

    def forward(self, x: torch.Tensor) -> Any:
        hidden = self.a(self.cast(x.flatten(1))).relu()
        hidden = hidden @ torch.eye(16, dtype=hidden.dtype) + torch.zeros(16, dtype=torch.bfloat16)
        return self.b(hidden).float()


@pytest.mark.parametrize(
    "cast",
    [
        lambda x: x.bfloat16(),
        lambda x: x.to(torch.bfloat16),
        lambda x: x.to(dtype=torch.bfloat16),
        lambda x: x.type(torch.bfloat16),
    ],
)
@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow"])
def test_networks_that_cast_are_scored_in_single_precision(criterion: str, cast: Any) -> None:
    model = Casting(cast).bfloat16()
    plain = Casting(lambda x: x)
    plain.load_state_dict({name: tensor.float() for name, tensor in model.state_dict().items()})
    found, expected = (pb.prune(one, (X, Y), criterion, 0.7) for one in (model, plain))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert model(X).dtype == torch.float32
    assert torch.get_default_dtype() == torch.float32


def test_constants_are_in_the_precision_of_the_scores() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(64, 3)

        def forward(self, x: torch.Tensor) -> Any:
            return self.a(x.flatten(1).float() @ torch.eye(64))

    found = pb.get_criterion("snip:score-dtype=float64").score(Net(), pb.Batch(X, Y))
    assert found["a.weight"].dtype == torch.float64
    assert torch.get_default_dtype() == torch.float32


def test_tokens_stay_whole_numbers() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 3)).half()
    found = pb.get_criterion("snip:score-dtype=float64").score(model, pb.Batch(torch.arange(12).view(6, 2) % 9, Y[:6]))
    assert found["2.weight"].dtype == torch.float64


def test_the_option_is_left_out_of_identities() -> None:
    def options(criterion: str) -> dict[str, Any]:
        trial = resolve(pb.Sweep(criteria=[criterion], sparsities=[0.5], seeds=1)).trials[1]
        return dict(trial.configuration()["criterion"]["options"])

    assert "score_dtype" not in options("snip")
    assert options("snip:score-dtype=float64")["score_dtype"] == "float64"
