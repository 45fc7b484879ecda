"""More small networks: masks held in buffers, gates of one unit, what all heads share, transposed depthwise layers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from tests.graph.kinds import Net
from tests.groups.networks import CONVOLUTION, FEATURES, IMAGE, TOKENS, pooled

L = nn.Linear
TRANSPOSED = nn.ConvTranspose2d


def ones_and_zeros(*shape: int) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(5)) < 0.7).float()


class Masked(nn.Linear):
    """A linear layer with a mask in a buffer, used in one of several ways."""

    def __init__(self, inputs: int, outputs: int, way: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(inputs, outputs)
        self.way = way
        self.register_buffer("mask", ones_and_zeros(outputs, inputs))

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.way(self.weight, self.get_buffer("mask")), self.bias)


def masked(way: Callable[[Tensor, Tensor], Tensor]) -> nn.Module:
    return nn.Sequential(Masked(5, 6, way), nn.ReLU(), Masked(6, 7, way), nn.ReLU(), Masked(7, 3, way))


class Times(nn.Module):
    """A parametrisation: the weight times a mask."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("mask", ones_and_zeros(*shape))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.get_buffer("mask")


def parametrised() -> nn.Module:
    network = nn.Sequential(L(5, 6), nn.ReLU(), L(6, 3))
    nn.utils.parametrize.register_parametrization(network[0], "weight", Times(6, 5))
    nn.utils.parametrize.register_parametrization(network[2], "weight", Times(3, 6))
    return network


def pruned_by_torch() -> nn.Module:
    network = nn.Sequential(CONVOLUTION(3, 6, 3), nn.BatchNorm2d(6), CONVOLUTION(6, 4, 3), nn.Flatten(), L(64, 3))
    for layer in (network[0], network[2], network[4]):
        prune.l1_unstructured(layer, "weight", 0.4)
    return network


def causal(m: Any, x: Tensor) -> Tensor:
    """Attention with a mask that is held in a buffer, larger than needed."""
    n, t, _ = x.shape
    q, k, v = m.qkv(x).view(n, t, 3, -1, 4).permute(2, 0, 3, 1, 4).unbind(0)
    scores = (q @ k.mT / 2).masked_fill(m.mask[:, :, :t, :t] == 0, -torch.inf)
    return m.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)).mean(1)  # type: ignore[no-any-return]


def triangle(m: Any, x: Tensor) -> Tensor:
    """Causal attention without softmax: zeros are written among the scores."""
    n, t, _ = x.shape
    q, k, v = m.qkv(x).view(n, t, 3, -1, 4).permute(2, 0, 3, 1, 4).unbind(0)
    return m.o(((q @ k.mT).tril() @ v).transpose(1, 2).flatten(2)).mean(1)  # type: ignore[no-any-return]


def boolean(m: Any, x: Tensor) -> Tensor:
    n, t, _ = x.shape
    q, k, v = m.qkv(x).view(n, t, 3, -1, 4).permute(2, 0, 3, 1, 4).unbind(0)
    out = F.scaled_dot_product_attention(q, k, v, m.mask)
    return m.o(out.transpose(1, 2).flatten(2)).mean(1)  # type: ignore[no-any-return]


def shared_keys(m: Any, x: Tensor) -> Tensor:
    """Multi-query attention: one head of keys and values."""
    n, t, _ = x.shape
    q, k, v = m.q(x).view(n, t, -1, 4).transpose(1, 2), m.k(x).unsqueeze(1), m.v(x).unsqueeze(1)
    out = F.scaled_dot_product_attention(q, k, v) if m.fused else (q @ k.mT).softmax(-1) @ v
    return m.o(out.transpose(1, 2).flatten(2)).mean(1)  # type: ignore[no-any-return]


def grouped_keys(m: Any, x: Tensor) -> Tensor:
    """Grouped-query attention: a head of keys and values for two of queries."""
    n, t, _ = x.shape
    q, k, v = (layer(x).view(n, t, -1, 4).transpose(1, 2) for layer in (m.q, m.k, m.v))
    out = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    return m.o(out.transpose(1, 2).flatten(2)).mean(1)  # type: ignore[no-any-return]


def normalised_heads(m: Any, x: Tensor) -> Tensor:
    """Queries and keys that are scaled by statistics of their own head."""
    n, t, _ = x.shape
    q, k, v = m.qkv(x).view(n, t, 3, -1, 4).permute(2, 0, 3, 1, 4).unbind(0)
    k = k * (k.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    out = F.scaled_dot_product_attention(m.norm(F.normalize(q, dim=-1)), k, v)
    return m.o(out.transpose(1, 2).flatten(2)).mean(1)  # type: ignore[no-any-return]


def biased_attention(m: Any, x: Tensor) -> Tensor:
    """Attention with a table of biases for each difference of positions and each head."""
    n, t, _ = x.shape
    q, k, v = m.qkv(x).view(n, t, 3, -1, 4).permute(2, 0, 3, 1, 4).unbind(0)
    places = torch.arange(t)
    bias = m.table[places - places[:, None] + t - 1].permute(2, 0, 1).contiguous()
    return m.o(F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2)).mean(1)  # type: ignore[no-any-return]


def one_value(m: Any, x: Tensor) -> Tensor:
    return m.b(pooled(m.a(x) * torch.sigmoid(m.g(F.relu(m.h(x))))))  # type: ignore[no-any-return]


def attention_of_one_unit(m: Any, x: Tensor) -> Tensor:
    return m.o((torch.softmax(m.s(x), 1) * m.a(x)).sum(1))  # type: ignore[no-any-return]


def every_pair(m: Any, x: Tensor) -> Tensor:
    return m.o((m.a(x).unsqueeze(2) * m.b(x).unsqueeze(1)).flatten(1))  # type: ignore[no-any-return]


def transposed_depthwise(multiplier: int) -> nn.Module:
    channels = 6 * multiplier
    return nn.Sequential(
        CONVOLUTION(3, 6, 3),
        nn.ReLU(),
        TRANSPOSED(6, channels, 3, groups=6),
        nn.BatchNorm2d(channels),
        CONVOLUTION(channels, 4, 1),
        nn.Flatten(),
        L(256, 3),
    )


MASKS_AND_GATES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "masked weights": (lambda: masked(lambda weight, mask: weight * mask), FEATURES, 6 + 7),
    "masked weights, bool": (lambda: masked(lambda weight, mask: mask.bool() * weight), FEATURES, 6 + 7),
    "filled weights": (lambda: masked(lambda weight, mask: weight.masked_fill(mask == 0, 0.0)), FEATURES, 6 + 7),
    "chosen weights": (lambda: masked(lambda weight, mask: torch.where(mask > 0, weight, 0.0)), FEATURES, 6 + 7),
    "weights masked in place": (lambda: masked(lambda weight, mask: weight.clone().mul_(mask)), FEATURES, 6 + 7),
    "weights filled in place": (
        lambda: masked(lambda weight, mask: weight.clone().masked_fill_(mask == 0, 0.0)),
        FEATURES,
        6 + 7,
    ),
    "pruned by torch": (pruned_by_torch, IMAGE, 6 + 4),
    "a parametrisation by a mask": (parametrised, FEATURES, 6),
    "a mask of units": (
        lambda: Net(lambda m, x: m.b(F.relu(m.a(x)) * m.mask), a=L(5, 6), b=L(6, 3), mask=nn.Buffer(ones_and_zeros(6))),
        FEATURES,
        6,
    ),
    "a gate for each row of a weight": (
        lambda: Net(
            lambda m, x: m.b(F.relu(F.linear(x, m.a * m.g))),
            a=nn.Parameter(torch.randn(6, 5)),
            g=nn.Parameter(torch.randn(6, 1)),
            b=L(6, 3),
        ),
        FEATURES,
        6,
    ),
    "a causal mask": (
        lambda: Net(causal, qkv=L(5, 36), o=L(12, 3), mask=nn.Buffer(torch.ones(1, 1, 7, 7).tril())),
        TOKENS,
        3,
    ),
    "a triangle of scores": (lambda: Net(triangle, qkv=L(5, 36), o=L(12, 3)), TOKENS, 3),
    "a mask of bools": (
        lambda: Net(boolean, qkv=L(5, 36), o=L(12, 3), mask=nn.Buffer(torch.ones(4, 4, dtype=torch.bool).tril())),
        TOKENS,
        3,
    ),
    "keys that all heads share": (
        lambda: Net(shared_keys, q=L(5, 12), k=L(5, 4), v=L(5, 4), o=L(12, 3), fused=False),
        TOKENS,
        3,
    ),
    "keys that all heads share, fused": (
        lambda: Net(shared_keys, q=L(5, 12), k=L(5, 4), v=L(5, 4), o=L(12, 3), fused=True),
        TOKENS,
        3,
    ),
    "keys that two heads share": (
        lambda: Net(grouped_keys, q=L(5, 24), k=L(5, 12), v=L(5, 12), o=L(24, 3)),
        TOKENS,
        3,
    ),
    "a norm over each head": (
        lambda: Net(normalised_heads, qkv=L(5, 36), norm=nn.LayerNorm(4), o=L(12, 3)),
        TOKENS,
        3,
    ),
    "a table of biases for each head": (
        lambda: Net(biased_attention, qkv=L(5, 36), o=L(12, 3), table=nn.Parameter(torch.randn(7, 3))),
        TOKENS,
        3,
    ),
    "a gate of one unit": (
        lambda: Net(one_value, a=CONVOLUTION(3, 6, 3), h=CONVOLUTION(3, 4, 1), g=CONVOLUTION(4, 1, 3), b=L(6, 3)),
        IMAGE,
        6 + 4,
    ),
    "attention of one unit": (
        lambda: Net(attention_of_one_unit, a=L(5, 6), s=L(5, 1), o=L(6, 3)),
        TOKENS,
        6,
    ),
    "every pair of two layers": (lambda: Net(every_pair, a=L(5, 4), b=L(5, 6), o=L(24, 3)), FEATURES, 4),
    "transposed depthwise": (lambda: transposed_depthwise(1), IMAGE, 6 + 4),
    "transposed depthwise, two of each": (lambda: transposed_depthwise(2), IMAGE, 6 + 4),
}
"""Name -> network, shape of its input, and the number of its groups."""
