"""The attributes of smaller layers, the types of their tensors, and what stays of the network."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pai_bench.groups import GroupMask, find_groups, shrink
from tests.graph.kinds import Net

C = nn.Conv2d


def half(network: nn.Module, example: Tensor) -> nn.Module:
    """The network without every second group of each layer."""
    network = network.double().eval()
    groups = find_groups(network, example.double() if example.is_floating_point() else example)
    assert groups.count
    return shrink(network, GroupMask(groups, torch.arange(groups.count) % 2 == 0))


IMAGE, TOKENS = torch.ones(1, 3, 8, 8), torch.ones(1, 4, 5)

LAYERS: dict[str, tuple[nn.Module, Tensor, dict[str, dict[str, Any]]]] = {
    "linear": (
        nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.PReLU(8), nn.Linear(8, 3)),
        torch.ones(1, 5),
        {
            "0": {"in_features": 5, "out_features": 4},
            "1": {"num_features": 4},
            "2": {"num_parameters": 4},
            "3": {"in_features": 4, "out_features": 3},
        },
    ),
    "convolutions": (
        nn.Sequential(C(3, 8, 3), nn.BatchNorm2d(8), nn.PReLU(), C(8, 6, 1), nn.Flatten(), nn.Linear(216, 2)),
        IMAGE,
        {
            "0": {"in_channels": 3, "out_channels": 4, "groups": 1},
            "1": {"num_features": 4},
            "2": {"num_parameters": 1},
            "3": {"in_channels": 4, "out_channels": 3, "groups": 1},
            "5": {"in_features": 108, "out_features": 2},
        },
    ),
    "norms of which a half is given": (
        nn.Sequential(
            C(3, 8, 3),
            nn.BatchNorm2d(8, affine=False),
            C(8, 6, 1),
            nn.InstanceNorm2d(6, affine=True),
            nn.Flatten(),
            nn.Linear(216, 2),
        ),
        IMAGE,
        {"1": {"num_features": 4}, "3": {"num_features": 3}},
    ),
    "depthwise": (
        nn.Sequential(C(3, 6, 3), C(6, 12, 3, groups=6), nn.ReLU(), C(12, 4, 1), nn.Flatten(), nn.Linear(64, 3)),
        IMAGE,
        {
            "0": {"in_channels": 3, "out_channels": 3, "groups": 1},
            "1": {"in_channels": 3, "out_channels": 6, "groups": 3},
            "3": {"in_channels": 6, "out_channels": 2, "groups": 1},
        },
    ),
    "grouped": (
        nn.Sequential(
            C(3, 16, 3),
            nn.ReLU(),
            C(16, 8, 3, groups=4),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 16, 3, groups=2),
            nn.Flatten(),
            nn.Linear(16 * 36, 3),
        ),
        IMAGE,
        {
            "0": {"in_channels": 3, "out_channels": 8, "groups": 1},
            "2": {"in_channels": 8, "out_channels": 4, "groups": 4},
            "4": {"in_channels": 4, "out_channels": 8, "groups": 2},
        },
    ),
    "one input for each output": (
        nn.Sequential(C(1, 4, 3), nn.ReLU(), C(4, 6, 1), nn.Flatten(), nn.Linear(216, 3)),
        IMAGE[:, :1],
        {
            "0": {"in_channels": 1, "out_channels": 2, "groups": 1},
            "2": {"in_channels": 2, "out_channels": 3, "groups": 1},
        },
    ),
    "a table": (
        Net(
            lambda m, x: m.o((m.a(m.e(x)) + m.e(x)).mean(1)), e=nn.Embedding(7, 6), a=nn.Linear(6, 6), o=nn.Linear(6, 2)
        ),
        torch.zeros(1, 3, dtype=torch.long),
        {"e": {"num_embeddings": 7, "embedding_dim": 3}, "a": {"in_features": 3, "out_features": 3}},
    ),
    "attention": (
        Net(
            lambda m, x: m.o(m.a(*[m.e(x)] * 3)[0]).mean(1),
            e=nn.Linear(5, 12),
            a=nn.MultiheadAttention(12, 4, batch_first=True),
            o=nn.Linear(12, 3),
        ),
        TOKENS,
        {
            "e": {"out_features": 6},
            "a": {"num_heads": 2, "head_dim": 3, "embed_dim": 6},
            "a.out_proj": {"in_features": 6, "out_features": 6},
            "o": {"in_features": 6},
        },
    ),
    "a recurrent layer": (
        Net(
            lambda m, x: m.o(m.r(m.e(x))[0][:, -1]),
            e=nn.Linear(5, 4),
            r=nn.LSTM(4, 6, 2, batch_first=True),
            o=nn.Linear(6, 3),
        ),
        TOKENS,
        {"r": {"input_size": 2, "hidden_size": 3, "sizes": [3, 3]}, "o": {"in_features": 3}},
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_attributes_follow_the_parameters(name: str) -> None:
    network, example, expected = LAYERS[name]
    smaller = half(network, example)
    found = {
        path: {key: getattr(smaller.get_submodule(path), key) for key in attributes}
        for path, attributes in expected.items()
    }
    assert found == expected


def test_frozen_parameters_stay_frozen_and_buffers_stay_buffers() -> None:
    network = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    network[0].weight.requires_grad_(False)
    smaller = half(network, torch.ones(1, 5))
    flags = {name: parameter.requires_grad for name, parameter in smaller.named_parameters()}
    assert flags == {name: name != "0.weight" for name, _ in network.named_parameters()}
    shapes = {name: tuple(buffer.shape) for name, buffer in smaller.named_buffers()}
    assert shapes == {"1.running_mean": (4,), "1.running_var": (4,), "1.num_batches_tracked": ()}
    assert network[0].weight.shape == (8, 5)
