"""Small networks with every way in which units are tied, and the numbers of groups that they have, by hand."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pai_bench.models.resnet import PaddedShortcut
from tests.graph.kinds import Net

IMAGE, TOKENS, FEATURES = (1, 3, 8, 8), (1, 4, 5), (1, 5)


class LastStep(nn.LSTM):
    """Gives the output of the last step alone."""

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(input)[0][:, -1]


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def shuffled(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def halves(m: Any, x: Tensor) -> Tensor:
    first, second = m.a(x).chunk(2, 1)
    return pooled(m.d(torch.cat([F.relu(m.c(first)), second], 1)))


def squeezed(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    return pooled(m.d(y * torch.sigmoid(m.up(F.relu(m.down(y.mean((2, 3), keepdim=True)))))))


def mixed_tokens(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.o(F.gelu(y + m.t(y.mT).mT)).mean(1)  # type: ignore[no-any-return]


def own_attention(m: Any, x: Tensor) -> Tensor:
    n, t, _ = x.shape
    q, k, v = m.qkv(x).view(n, t, 3, -1, 4).permute(2, 0, 3, 1, 4).unbind(0)
    return m.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)).mean(1)  # type: ignore[no-any-return]


def padded_windows(m: Any, x: Tensor) -> Tensor:
    y = F.pad(m.a(x).permute(0, 2, 3, 1), (0, 0, 0, 1, 0, 1))
    n, h, w, c = y.shape
    y = y.view(n, h // 3, 3, w // 3, 3, c).transpose(2, 3).reshape(-1, 9, c)
    return m.c(F.relu(m.b(y))).view(n, -1, 3).mean(1)  # type: ignore[no-any-return]


def shared_layers() -> nn.Module:
    shared = nn.Linear(6, 6)
    return nn.Sequential(nn.Linear(5, 6), shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(6, 3))


CONVOLUTION = nn.Conv2d

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 7), nn.GELU(), nn.Linear(7, 3)),
        FEATURES,
        8 + 7,
    ),
    "windows of padded images": (
        lambda: Net(padded_windows, a=CONVOLUTION(3, 6, 3, padding=1), b=nn.Linear(6, 5), c=nn.Linear(5, 3)),
        IMAGE,
        5,
    ),
    "convolutions and flatten": (
        lambda: nn.Sequential(
            CONVOLUTION(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.Sigmoid(),
            nn.MaxPool2d(2),
            CONVOLUTION(8, 6, 3, padding=1),
            nn.Flatten(),
            nn.Linear(6 * 9, 10),
            nn.ReLU(),
            nn.Linear(10, 3),
        ),
        IMAGE,
        8 + 6 + 10,
    ),
    "in place": (
        lambda: nn.Sequential(
            CONVOLUTION(3, 8, 3),
            nn.ReLU(inplace=True),
            CONVOLUTION(8, 4, 3),
            nn.Hardswish(inplace=True),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(1),
            nn.Dropout(0.5),
            nn.Linear(16, 3),
        ),
        IMAGE,
        8 + 4,
    ),
    "identity shortcut": (
        lambda: Net(
            lambda m, x: m.d(pooled(F.relu(m.b(F.relu(m.c(m.a(x)))) + m.a(x)))),
            a=CONVOLUTION(3, 8, 3, padding=1),
            c=CONVOLUTION(8, 5, 3, padding=1),
            b=CONVOLUTION(5, 8, 3, padding=1),
            d=nn.Linear(8, 3),
        ),
        IMAGE,
        8 + 5,
    ),
    "projected shortcut": (
        lambda: Net(
            lambda m, x: m.d(pooled(F.relu(m.b(F.relu(m.c(x))) + m.p(x)))),
            c=CONVOLUTION(3, 5, 3, padding=1),
            b=CONVOLUTION(5, 8, 3, 2, padding=1),
            p=CONVOLUTION(3, 8, 1, 2),
            d=nn.Linear(8, 3),
        ),
        IMAGE,
        5 + 8,
    ),
    "padded shortcut": (
        lambda: Net(
            lambda m, x: m.d(pooled(F.relu(m.c(m.a(x)) + m.p(m.a(x))))),
            a=CONVOLUTION(3, 6, 3),
            c=CONVOLUTION(6, 10, 3, stride=2, padding=1),
            p=PaddedShortcut(4, 2),
            d=nn.Linear(10, 3),
        ),
        IMAGE,
        10,
    ),
    "padding by a number in the code": (
        lambda: Net(
            lambda m, x: m.d(pooled(F.relu(m.c(x) + F.pad(m.a(x), (0, 0, 0, 0, 0, 4))))),
            a=CONVOLUTION(3, 6, 3),
            c=CONVOLUTION(3, 10, 3),
            d=nn.Linear(10, 3),
        ),
        IMAGE,
        6,
    ),
    "depthwise": (
        lambda: nn.Sequential(
            CONVOLUTION(3, 6, 3),
            CONVOLUTION(6, 12, 3, groups=6),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            CONVOLUTION(12, 4, 1),
            nn.Flatten(),
            nn.Linear(64, 3),
        ),
        IMAGE,
        6 + 4,
    ),
    "grouped": (
        lambda: nn.Sequential(
            CONVOLUTION(3, 12, 3),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            CONVOLUTION(12, 8, 3, groups=4),
            nn.ReLU(),
            CONVOLUTION(8, 4, 1),
            nn.Flatten(),
            nn.Linear(64, 3),
        ),
        IMAGE,
        3 + 2 + 4,
    ),
    "grouped and transposed": (
        lambda: nn.Sequential(
            CONVOLUTION(3, 12, 3),
            nn.ReLU(),
            nn.ConvTranspose2d(12, 8, 3, groups=4),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 4, 1),
            nn.Flatten(),
            nn.Linear(256, 3),
        ),
        IMAGE,
        3 + 2 + 4,
    ),
    "concatenation": (
        lambda: Net(
            lambda m, x: pooled(m.d(torch.cat([F.relu(m.a(x)), x, m.b(x)], 1))),
            a=CONVOLUTION(3, 8, 3, padding=1),
            b=CONVOLUTION(3, 5, 1),
            d=CONVOLUTION(16, 4, 1),
        ),
        IMAGE,
        8 + 5,
    ),
    "channel shuffle": (
        lambda: Net(
            lambda m, x: pooled(m.b(F.relu(shuffled(m.a(x), 2)))), a=CONVOLUTION(3, 8, 3), b=CONVOLUTION(8, 4, 1)
        ),
        IMAGE,
        4,
    ),
    "chunk": (
        lambda: Net(halves, a=CONVOLUTION(3, 8, 3), c=CONVOLUTION(4, 6, 1), d=CONVOLUTION(10, 4, 1)),
        IMAGE,
        4 + 6,
    ),
    "squeeze and excite": (
        lambda: Net(
            squeezed,
            a=CONVOLUTION(3, 8, 3),
            down=CONVOLUTION(8, 3, 1),
            up=CONVOLUTION(3, 8, 1),
            d=CONVOLUTION(8, 4, 1),
        ),
        IMAGE,
        8 + 3,
    ),
    "scale and map": (
        lambda: Net(
            lambda m, x: pooled(m.b(m.a(x) * m.scale + m.map)),
            a=CONVOLUTION(3, 6, 3),
            b=CONVOLUTION(6, 3, 1),
            scale=nn.Parameter(torch.randn(6, 1, 1)),
            map=nn.Parameter(torch.randn(1, 6, 6, 6)),
        ),
        IMAGE,
        6,
    ),
    "pixel shuffle": (
        lambda: nn.Sequential(
            CONVOLUTION(3, 8, 3), nn.PixelShuffle(2), CONVOLUTION(2, 4, 3), nn.Flatten(), nn.Linear(400, 3)
        ),
        IMAGE,
        2 + 4,
    ),
    "prelu": (
        lambda: nn.Sequential(CONVOLUTION(3, 6, 3), nn.PReLU(6), CONVOLUTION(6, 4, 1), nn.Flatten(), nn.Linear(144, 3)),
        IMAGE,
        6 + 4,
    ),
    "gated linear unit": (
        lambda: Net(lambda m, x: m.b(F.glu(m.a(x))), a=nn.Linear(5, 12), b=nn.Linear(6, 3)),
        FEATURES,
        6,
    ),
    "weights of one's own": (
        lambda: Net(
            lambda m, x: torch.einsum("bf,of->bo", F.relu(x @ m.w), m.v),
            w=nn.Parameter(torch.randn(5, 7)),
            v=nn.Parameter(torch.randn(3, 7)),
        ),
        FEATURES,
        7,
    ),
    "shared layers": (shared_layers, FEATURES, 6),
    "mixed tokens": (
        lambda: Net(mixed_tokens, a=nn.Linear(5, 8), t=nn.Linear(4, 4), o=nn.Linear(8, 3)),
        TOKENS,
        8,
    ),
    "attention": (
        lambda: Net(
            lambda m, x: m.o(m.a(*[m.e(x)] * 3)[0]).mean(1),
            e=nn.Linear(5, 12),
            a=nn.MultiheadAttention(12, 4, batch_first=True),
            o=nn.Linear(12, 3),
        ),
        TOKENS,
        12 + 4 + 12,
    ),
    "an encoder layer": (
        lambda: Net(
            lambda m, x: m.o(m.a(m.e(x))).mean(1),
            e=nn.Linear(5, 12),
            a=nn.TransformerEncoderLayer(12, 4, 16, batch_first=True, dropout=0.0),
            o=nn.Linear(12, 3),
        ),
        TOKENS,
        4 + 16,
    ),
    "attention of one's own": (
        lambda: Net(own_attention, qkv=nn.Linear(5, 36), o=nn.Linear(12, 3)),
        TOKENS,
        3,
    ),
    "a subclass of LSTM": (
        lambda: nn.Sequential(LastStep(5, 6, batch_first=True), nn.Linear(6, 3)),
        TOKENS,
        6,
    ),
    "last state of two layers": (
        lambda: Net(lambda m, x: m.o(m.r(x)[1][0][-1]), r=nn.LSTM(5, 6, 2, batch_first=True), o=nn.Linear(6, 3)),
        TOKENS,
        6,
    ),
    "last states of two layers": (
        lambda: Net(
            lambda m, x: m.o(m.r(x)[1].transpose(0, 1).flatten(1)),
            r=nn.GRU(5, 6, 2, batch_first=True),
            o=nn.Linear(12, 3),
        ),
        TOKENS,
        6,
    ),
}
"""Name -> network, shape of its input, and the number of its groups."""

for _layers in (1, 2):
    for _directions in (1, 2):
        for _cell in (nn.LSTM, nn.GRU, nn.RNN):
            NETWORKS[f"{_cell.__name__}, {_layers} layers, {_directions} directions"] = (
                lambda cell=_cell, layers=_layers, directions=_directions: Net(  # type: ignore[misc]
                    lambda m, x: m.o(m.r(x)[0][:, -1]),
                    r=cell(5, 6, layers, batch_first=True, bidirectional=directions == 2),
                    o=nn.Linear(6 * directions, 3),
                ),
                TOKENS,
                6 * _layers * _directions,
            )

NOTHING_FREE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "a size in the code": (
        lambda: Net(lambda m, x: m.b(m.a(x).view(-1, 6 * 36)), a=CONVOLUTION(3, 6, 3), b=nn.Linear(216, 3)),
        IMAGE,
        "the network fails without some of them",
    ),
    "a norm over channels": (
        lambda: nn.Sequential(CONVOLUTION(3, 6, 3), nn.GroupNorm(3, 6), nn.Flatten(), nn.Linear(216, 3)),
        IMAGE,
        "a norm over units in '1'",
    ),
    "weight norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 8)), nn.ReLU(), nn.Linear(8, 3)),
        FEATURES,
        "weights are computed from it",
    ),
    "a softmax over units": (
        lambda: nn.Sequential(nn.Linear(5, 8), nn.Softmax(1), nn.Linear(8, 3)),
        FEATURES,
        "_softmax in '1' is taken over units",
    ),
    "one layer": (lambda: nn.Linear(5, 3), FEATURES, "the network's output"),
    "a place for each token and unit": (
        lambda: Net(
            lambda m, x: m.b(torch.relu(torch.cat([m.t.expand(len(x), 1, 6), m.a(x)], 1) + m.p)).mean(1),
            **{"a": nn.Linear(5, 6), "b": nn.Linear(6, 3)},
            **{"t": nn.Parameter(torch.randn(1, 1, 6)), "p": nn.Parameter(torch.randn(1, 5, 6))},
        ),
        TOKENS,
        "'p' is used element by element",
    ),
    "an operation without a rule": (
        lambda: Net(
            lambda m, x: m.b(torch.cdist(m.a(x), m.a(x) + 1).mT @ m.a(x)), a=nn.Linear(5, 6), b=nn.Linear(6, 3)
        ),
        FEATURES,
        "_cdist_forward is not known",
    ),
}
"""Networks of which nothing can be removed, with a part of the reason."""


def filled(network: nn.Module) -> nn.Module:
    """The network in float64 and evaluation mode, with statistics and biases as after training."""
    generator = torch.Generator().manual_seed(1)

    def numbers(tensor: Tensor) -> Tensor:
        return torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5

    network = network.double().eval()
    with torch.no_grad():
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            if "bias" in name or "running" in name or (tensor.dim() == 1 and "weight" in name):
                tensor.copy_(numbers(tensor))
    return network
