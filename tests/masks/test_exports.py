"""Masks in the forms of torch: `torch.nn.utils.prune` and sparse matrices."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

import pai_bench as pb


class Everything(nn.Module):
    """Convolution, attention, a recurrent layer, a shared weight and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.first = nn.Linear(5, 5)
        self.second = nn.Linear(5, 5)
        self.second.weight = self.first.weight
        self.own = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Any:
        tokens = self.conv(x).flatten(2).mT
        steps, _ = self.lstm(self.attention(tokens, tokens, tokens)[0])
        return self.second(self.first(steps[:, -1] * self.own))


def made() -> tuple[nn.Module, pb.Mask, Tensor]:
    """A network, a mask that removes half of all its weights, and inputs."""
    torch.manual_seed(0)
    network = Everything()
    mask = {name: torch.rand(p.shape) < 0.5 for name, p in network.named_parameters() if "bias" not in name}
    return network, pb.Mask(mask), torch.randn(3, 1, 6, 6)


def test_torch_prune_masks_what_apply_sets_to_zero() -> None:
    network, mask, inputs = made()
    expected = mask.apply_(copy.deepcopy(network))(inputs)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    assert mask.to_torch_prune_(network) is network
    assert prune.is_pruned(network)
    assert torch.equal(network(inputs), expected)
    after, masks = dict(network.named_parameters()), dict(network.named_buffers())
    for name in mask:
        assert torch.equal(after[f"{name}_orig"], before[name])
        assert torch.equal(masks[f"{name}_mask"], mask[name].float())
        module, _, key = name.rpartition(".")
        prune.remove(network.get_submodule(module), key)
    prune.remove(network.get_submodule("second"), "weight")
    assert not prune.is_pruned(network)
    assert torch.equal(network(inputs), expected)


def test_removed_weights_stay_zero_in_training_by_torch() -> None:
    network, mask, inputs = made()
    by_hand = mask.apply_(copy.deepcopy(network))
    mask.to_torch_prune_(network)
    first = torch.optim.SGD(network.parameters(), 0.1)
    second = torch.optim.SGD(by_hand.parameters(), 0.1)
    for _ in range(3):
        for model, optimizer in ((network, first), (by_hand, second)):
            optimizer.zero_grad()
            model(inputs).square().sum().backward()
            optimizer.step()
        mask.apply_(by_hand)
    torch.testing.assert_close(network.eval()(inputs), by_hand.eval()(inputs))


def test_attention_uses_the_weights_of_now() -> None:
    """Attention, and its fast path, read the output projection without calling that layer."""
    torch.manual_seed(0)
    layer, inputs = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), torch.randn(2, 5, 8)
    mask = pb.Mask({"self_attn.out_proj.weight": torch.rand(8, 8) < 0.5, "linear1.weight": torch.rand(16, 8) < 0.5})
    other = copy.deepcopy(layer)
    mask.to_torch_prune_(layer)
    layer(inputs).sum().backward()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.add_(0.1)
            other.get_parameter(name.removesuffix("_orig")).copy_(parameter)
        found, expected = layer.eval()(inputs), mask.apply_(other).eval()(inputs)
    torch.testing.assert_close(found, expected)


def test_two_masks_of_torch() -> None:
    layer, inputs = nn.Linear(4, 3, bias=False), torch.randn(2, 4)
    first, second = torch.arange(12).view(3, 4) % 2 == 0, torch.arange(12).view(3, 4) % 3 == 0
    pb.Mask({"weight": first}).to_torch_prune_(layer)
    expected = F.linear(inputs, layer.weight_orig * (first & second))  # type: ignore[operator]
    pb.Mask({"weight_orig": second}).to_torch_prune_(layer)
    assert torch.equal(layer(inputs), expected)
    assert [name for name, _ in layer.named_parameters()] == ["weight_orig"]


def test_a_mask_of_groups_by_torch() -> None:
    network = nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 3))
    inputs = torch.randn(5, 4)
    mask = pb.prune(network, (inputs, torch.arange(5) % 3), "snap", 0.4)
    expected = mask.apply_(copy.deepcopy(network))(inputs)
    torch.testing.assert_close(mask.to_torch_prune_(network)(inputs), expected)


def test_csr_tensors() -> None:
    network, mask, _ = made()
    found = mask.to_csr(network)
    assert list(found) == list(mask)
    masked = dict(mask.apply_(copy.deepcopy(network)).named_parameters())
    for name, matrix in found.items():
        weight = masked[name].detach()
        assert matrix.layout is torch.sparse_csr
        assert torch.equal(matrix.to_dense(), weight.flatten(1) if weight.dim() > 1 else weight.view(1, -1))
        assert len(matrix.values()) == int(mask[name].sum())
        assert not matrix.requires_grad
    vectors = torch.randn(7, 5)
    expected = F.linear(vectors, masked["first.weight"])
    torch.testing.assert_close((found["first.weight"] @ vectors.T).T, expected)
    found["own"].values().zero_()
    assert not torch.equal(network.get_parameter("own"), torch.zeros(5))


def test_csr_tensors_have_every_kept_place() -> None:
    layer = nn.Linear(3, 4)
    with torch.no_grad():
        layer.weight.zero_()
    kept = torch.tensor([[True, False, True], [False, False, False], [True, True, True], [False, True, False]])
    (matrix,) = pb.Mask({"weight": kept}).to_csr(layer).values()
    assert matrix.crow_indices().tolist() == [0, 2, 2, 5, 6]
    assert matrix.col_indices().tolist() == [0, 2, 0, 1, 2, 1]


def test_other_networks_are_refused() -> None:
    _, mask, _ = made()
    for export in (mask.to_csr, mask.to_torch_prune_):
        with pytest.raises(pb.UserError, match="the mask names 'own', which the model does not have"):
            export(nn.Linear(5, 5))
    other = nn.Linear(5, 5)
    with pytest.raises(pb.UserError, match=r"has shape \(5, 4\), but the parameter has \(5, 5\)"):
        pb.Mask({"weight": torch.ones(5, 4, dtype=torch.bool)}).to_torch_prune_(other)
    assert not prune.is_pruned(other)


def test_names_that_torch_would_overwrite_are_refused_before_anything_changes() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].register_buffer("weight_mask", torch.ones(3, 3))
    mask = pb.Mask({f"{i}.weight": torch.eye(3).bool() for i in (0, 1)})
    with pytest.raises(pb.UserError, match="Linear has a weight_mask or weight_orig of its own"):
        mask.to_torch_prune_(network)
    assert isinstance(network[0].weight, nn.Parameter)
