"""Networks and batches that are not as usual: their outputs, targets, losses and parameters."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.scoring import prunable_parameters
from tests.made import UNSTRUCTURED
from tests.scoring.test_options import Example, assert_close


class Heads(nn.Module):
    """Returns what no classifier does."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.fc = nn.Linear(3, 4)
        self.aux = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Any:
        logits, aux = self.fc(x), self.aux(x)
        return (logits, aux) if self.kind == "tuple" else {"logits": logits, "aux": aux}


@pytest.mark.parametrize("kind", ["tuple", "dict"])
@pytest.mark.parametrize("name", UNSTRUCTURED)
def test_networks_that_return_no_tensor(kind: str, name: str) -> None:
    model = Heads(kind).double()
    batch = (torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0]))

    def loss(output: Any, targets: Tensor) -> Tensor:
        logits, aux = output if isinstance(output, tuple) else output.values()
        return F.cross_entropy(logits, targets) + 0.3 * F.cross_entropy(aux, targets)

    options: dict[str, dict[str, Any]] = {
        "grasp": {"temperature": 1.0},
        "synflow": {"output": "0" if kind == "tuple" else "logits"},
    }
    criterion = pb.get_criterion(name, **options.get(name, {}))
    mask = pb.prune(model, batch, criterion, 0.5, loss=loss)
    assert mask.kept == 12
    scores = criterion.score(model, pb.Batch(*batch, loss=loss))
    assert list(scores) == ["fc.weight", "aux.weight"]
    if name == "force":
        parameters = prunable_parameters(model)
        g = torch.autograd.grad(loss(model(batch[0]), batch[1]), list(parameters.values()))
        for (key, weight), gradient in zip(parameters.items(), g, strict=True):
            assert torch.allclose(scores[key], (weight.detach() * gradient).abs(), rtol=1e-12)
    if criterion.uses_data:
        with pytest.raises(pb.UserError, match=f"Heads returns {kind}, not logits: give loss="):
            pb.prune(model, batch, criterion, 0.5)


def test_grasps_temperature_divides_logits_only() -> None:
    batch = pb.Batch(torch.randn(2, 3), torch.tensor([0, 1]), loss=lambda out, y: F.cross_entropy(out["logits"], y))
    with pytest.raises(pb.UserError, match="a temperature of 200 divides logits, but Heads gives dict"):
        pb.get_criterion("grasp").score(Heads("dict"), batch)


def test_targets_of_any_shape_with_a_loss_of_ones_own() -> None:
    """A sequence model: one target for each step."""
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5)).double()
    tokens = torch.randint(5, (3, 7), generator=torch.Generator().manual_seed(0))
    batch = pb.Batch(tokens, tokens.roll(1, 1), loss=lambda out, y: F.cross_entropy(out.transpose(1, 2), y))
    scores = pb.get_criterion("force:bn=eval").score(model, batch)
    layer = model[1]
    assert isinstance(layer, nn.Linear)
    value = F.cross_entropy(model(tokens).flatten(0, 1), batch.targets.flatten())
    (g,) = torch.autograd.grad(value, layer.weight)
    assert torch.allclose(scores["1.weight"], (layer.weight.detach() * g).abs(), rtol=1e-12)
    with pytest.raises(pb.UserError, match=r"targets must be 3 class indices.*shape \(3, 7\)"):
        pb.Batch(tokens, tokens)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda out, y: out, "the loss given must be a differentiable scalar"),
        (lambda out, y: 1.0, "the loss given must be a differentiable scalar"),
        (lambda out, y: out.detach().sum(), "the loss given must be a differentiable scalar"),
    ],
)
def test_losses_that_are_none(loss: Any, message: str) -> None:
    with pytest.raises(pb.UserError, match=message):
        pb.prune(nn.Linear(2, 2), (torch.ones(1, 2), torch.tensor([0])), "snip", 0.5, loss=loss)


def test_frozen_weights_are_scored_and_stay_frozen(network: Example) -> None:
    model, batch = network
    expected = pb.get_criterion("snip").score(model, batch)
    model.requires_grad_(False)
    assert_close(pb.get_criterion("snip").score(model, batch), expected)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_which_parameters_are_pruned_can_be_said() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    batch = pb.Batch(torch.randn(4, 3), torch.arange(4) % 2)
    by_name = pb.prune(model, batch, "snip", 0.5, prunable=["2.weight"])
    by_rule = pb.prune(model, batch, "snip", 0.5, prunable=lambda name, parameter: parameter.shape == (2, 4))
    assert list(by_name) == list(by_rule) == ["2.weight"]
    assert torch.equal(by_name["2.weight"], by_rule["2.weight"])
    assert list(pb.prune(model, batch, "synflow", 0.5, prunable=["2.bias", "0.weight"])) == ["0.weight", "2.bias"]
    with pytest.raises(pb.UserError, match=r"unknown parameter of Sequential '2\.wieght': did you mean 2\.weight"):
        pb.prune(model, batch, "snip", 0.5, prunable=["2.wieght"])
    with pytest.raises(pb.UserError, match="Sequential has no prunable weight"):
        pb.prune(model, batch, "snip", 0.5, prunable=lambda _name, _parameter: False)


def test_a_lazy_layer_needs_one_batch_first() -> None:
    model = nn.Sequential(nn.LazyLinear(2))
    with pytest.raises(pb.UserError, match=r"'0\.weight' has no shape yet: pass one batch through Sequential first"):
        pb.prune(model, (torch.ones(1, 3), torch.tensor([0])), "snip", 0.5)


def test_a_network_without_values_is_refused() -> None:
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    with pytest.raises(pb.UserError, match="magnitude: 'weight' is on the device meta and has no values"):
        pb.prune(model, (torch.ones(1, 2), torch.tensor([0])), "magnitude", 0.5)
