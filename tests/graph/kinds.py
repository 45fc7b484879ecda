"""Random small networks of every kind, each with the same network by hand (`tests.graph.paths`)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.scoring import prunable_parameters
from tests.graph.paths import Graph, Nodes

Build = Callable[[int], tuple[nn.Module, tuple[int, ...], Callable[[Graph, Nodes], Nodes]]]
"""From a seed, a network, the shape of an example, and the same network by hand."""


def random_mask(model: nn.Module, seed: int, density: float) -> pb.Mask:
    generator = torch.Generator().manual_seed(seed)
    return pb.Mask(
        {name: torch.rand(p.shape, generator=generator) < density for name, p in prunable_parameters(model).items()}
    )


def mlp(seed: int) -> tuple[nn.Module, tuple[int, ...], Callable[[Graph, Nodes], Nodes]]:
    model = nn.Sequential(
        nn.Linear(4, 5), nn.ReLU(), nn.BatchNorm1d(5), nn.Linear(5, 3), nn.LayerNorm(3), nn.Linear(3, 2)
    )
    return model, (4,), lambda g, x: g.linear("5.weight", g.linear("3.weight", g.linear("0.weight", x)))


class Net(nn.Module):
    """A network of some parts, whose forward is a function of it and the input."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def cnn(seed: int) -> tuple[nn.Module, tuple[int, ...], Callable[[Graph, Nodes], Nodes]]:
    stride, padding, dilation = 1 + seed % 2, seed // 2 % 3, 1 + seed // 6 % 2
    ceil = bool(seed // 12 % 2)
    pool = nn.MaxPool2d(2, 2, ceil_mode=ceil) if seed % 3 else nn.AvgPool2d(2, 2, ceil_mode=ceil)
    conv = nn.Conv2d(2, 4, 3, stride=stride, padding=padding, dilation=dilation, groups=2)
    first = nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(inplace=True), pool)
    size = first(torch.zeros(1, 2, 7, 7)).shape[1:]
    model = nn.Sequential(*first, nn.Flatten(), nn.Linear(size.numel(), 2))

    def by_hand(g: Graph, x: Nodes) -> Nodes:
        x = g.conv("0.weight", x, stride=stride, padding=padding, dilation=dilation, groups=2)
        return g.linear("5.weight", g.pool(x, 2, stride=2, ceil=ceil).reshape(-1))

    return model, (2, 7, 7), by_hand


def depthwise(seed: int) -> tuple[nn.Module, tuple[int, ...], Callable[[Graph, Nodes], Nodes]]:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, groups=3, bias=False),
        nn.ReLU6(),
        nn.Conv2d(6, 4, 1),
        nn.GroupNorm(2, 4),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )

    def by_hand(g: Graph, x: Nodes) -> Nodes:
        x = g.conv("2.weight", g.conv("0.weight", x, padding=1, groups=3))
        return g.linear("7.weight", g.mean(x))

    return model, (3, 4, 4), by_hand


def residual(seed: int) -> tuple[nn.Module, tuple[int, ...], Callable[[Graph, Nodes], Nodes]]:
    in_place = bool(seed % 2)

    def run(net: Any, x: Tensor) -> Any:
        y = net.b(F.relu(net.a(x), inplace=in_place))
        short = net.c(x)
        if in_place:
            y += short
        else:
            y = y + short
        y = F.relu_(y) + torch.relu(net.d(y))
        return net.e(y.mean((2, 3)))

    model = Net(
        run,
        a=nn.Conv2d(2, 3, 3, stride=2, padding=1),
        b=nn.Conv2d(3, 3, 3, padding=1),
        c=nn.Conv2d(2, 3, 1, stride=2),
        d=nn.Conv2d(3, 3, 1),
        e=nn.Linear(3, 2),
    )

    def by_hand(g: Graph, x: Nodes) -> Nodes:
        y = g.conv("b.weight", g.conv("a.weight", x, stride=2, padding=1), padding=1)
        y = g.merged(y, g.conv("c.weight", x, stride=2))
        return g.linear("e.weight", g.mean(g.merged(y, g.conv("d.weight", y))))

    return model, (2, 5, 5), by_hand


def concatenated(seed: int) -> tuple[nn.Module, tuple[int, ...], Callable[[Graph, Nodes], Nodes]]:
    def run(net: Any, x: Tensor) -> Any:
        y = torch.cat([x, net.a(x)], 1)
        y = torch.cat([y, net.b(y).relu()], 1)
        y = y.view(1, 2, 4, 4, 4).transpose(1, 2).reshape(1, 8, 4, 4)  # a shuffle of channels
        first, second = y.chunk(2, dim=1)
        return net.c(torch.cat([first.flatten(1), F.max_pool2d(second, 3, 2, 1).flatten(1)], 1))

    model = Net(run, a=nn.Conv2d(2, 3, 3, padding=1), b=nn.Conv2d(5, 3, 1), c=nn.Linear(64 + 16, 2))

    def by_hand(g: Graph, x: Nodes) -> Nodes:
        y = np.concatenate([x, g.conv("a.weight", x, padding=1)])
        y = np.concatenate([y, g.conv("b.weight", y)])
        y = y.reshape(2, 4, 4, 4).swapaxes(0, 1).reshape(8, 4, 4)
        pooled = g.pool(y[4:], 3, stride=2, padding=1)
        return g.linear("c.weight", np.concatenate([y[:4].reshape(-1), pooled.reshape(-1)]))

    return model, (2, 4, 4), by_hand


def transposed(seed: int) -> tuple[nn.Module, tuple[int, ...], Callable[[Graph, Nodes], Nodes]]:
    groups, stride = 1 + seed % 2, 1 + seed // 2 % 2
    model = nn.Sequential(
        nn.ConvTranspose2d(2, 4, 3, stride=stride, padding=1, groups=groups), nn.ReLU(), nn.Conv2d(4, 2, 2, stride=2)
    )

    def by_hand(g: Graph, x: Nodes) -> Nodes:
        return g.conv("2.weight", g.transposed("0.weight", x, stride=stride, padding=1, groups=groups), stride=2)

    return model, (2, 3, 3), by_hand


def other_dimensions(seed: int) -> tuple[nn.Module, tuple[int, ...], Callable[[Graph, Nodes], Nodes]]:
    if seed % 2:
        model: nn.Module = nn.Sequential(
            nn.Conv1d(2, 3, 3, padding=1), nn.InstanceNorm1d(3), nn.Conv1d(3, 2, 2, stride=2)
        )
        shape: tuple[int, ...] = (2, 6)
    else:
        model = nn.Sequential(nn.Conv3d(2, 3, 3, padding=1), nn.BatchNorm3d(3), nn.Conv3d(3, 2, 2, stride=2))
        shape = (2, 3, 3, 3)
    return model, shape, lambda g, x: g.conv("2.weight", g.conv("0.weight", x, padding=1), stride=2)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM | nn.GRU], hidden: int, both_ways: bool) -> None:
        super().__init__()
        self.core = kind(2, hidden, batch_first=True, bidirectional=both_ways)
        self.head = nn.Linear(hidden * (1 + both_ways), 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.core(x)[0][:, -1])
        return output


def recurrent(seed: int) -> tuple[nn.Module, tuple[int, ...], Callable[[Graph, Nodes], Nodes]]:
    gru, both_ways = bool(seed % 2), bool(seed // 2 % 2)
    model = Recurrent(nn.GRU if gru else nn.LSTM, 2, both_ways)

    def by_hand(g: Graph, x: Nodes) -> Nodes:
        layer = g.gru if gru else g.lstm
        y = layer(x, prefix="core.")
        if both_ways:
            y = np.concatenate([y, layer(x[::-1], "_l0_reverse", "core.")[::-1]], axis=1)
        return g.linear("head.weight", y[-1])

    return model, (3, 2), by_hand


class Attention(nn.Module):
    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.norm, self.core, self.head = (
            nn.LayerNorm(4),
            nn.MultiheadAttention(4, 2, batch_first=True),
            nn.Linear(4, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        forbidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1) if self.causal else None
        y = self.norm(x)
        y = x + self.core(y, y, y, need_weights=False, attn_mask=forbidden)[0]
        output: Tensor = self.head(y[:, 0] if self.causal else y.mean(1))
        return output


def attention(seed: int) -> tuple[nn.Module, tuple[int, ...], Callable[[Graph, Nodes], Nodes]]:
    causal = bool(seed % 2)

    def by_hand(g: Graph, x: Nodes) -> Nodes:
        y = g.merged(x, g.attention(x, 2, causal=causal, prefix="core."))
        return g.linear("head.weight", y[0] if causal else g.mean(y.T))

    return Attention(causal), (3, 4), by_hand


def gated(seed: int) -> tuple[nn.Module, tuple[int, ...], Callable[[Graph, Nodes], Nodes]]:
    """Squeeze and excitation: channels times a gate made of their means; then a weight that serves twice."""

    def run(net: Any, x: Tensor) -> Any:
        y = net.a(x)
        gate = torch.sigmoid(net.c(F.relu(net.b(y.mean((2, 3))))))
        y = (y * gate[:, :, None, None]).amax((2, 3))
        return net.d(net.d(y))

    model = Net(run, a=nn.Conv2d(2, 3, 2), b=nn.Linear(3, 2), c=nn.Linear(2, 3), d=nn.Linear(3, 3))

    def by_hand(g: Graph, x: Nodes) -> Nodes:
        y = g.conv("a.weight", x)
        gate = g.linear("c.weight", g.linear("b.weight", g.mean(y)))
        y = g.merged(y, np.broadcast_to(gate[:, None, None], y.shape))
        return g.linear("d.weight", g.linear("d.weight", g.mean(y)))

    return model, (2, 3, 3), by_hand


KINDS: list[Build] = [
    *(mlp, cnn, depthwise, residual, concatenated, transposed, other_dimensions, recurrent, attention, gated)
]
