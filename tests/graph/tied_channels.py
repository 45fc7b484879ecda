"""Small networks of convolutions and windows, and their slices, written as in `tied_slices`."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.graph.tied_slices import TOKENS, Function, L

C = nn.Conv2d
IMAGE, SEQUENCE = torch.ones(1, 2, 4, 4), torch.ones(1, 2, 6)

CASES: dict[str, tuple[Function, dict[str, Any], Tensor, str]] = {
    "channels": (
        lambda m, x: m.c(F.max_pool2d(F.relu(m.b(m.a(x))), 2).flatten(1)),
        {"a": C(2, 3, 1), "b": C(3, 2, 1), "c": L(8, 2, bias=False)},
        IMAGE,
        "a.weight 0 abc, a.weight 1 .., a.bias 0 abc, b.weight 0 de, b.weight 1 abc, b.bias 0 de, c.weight 0 .., "
        "c.weight 1 ddddeeee",
    ),
    "channels of a convolution of constants": (
        lambda m, x: m.c((m.a(x) + m.b(torch.ones(1, 3, 4, 4))).mean((2, 3))),
        {"a": C(2, 2, 1), "b": C(3, 2, 1), "c": L(2, 2, bias=False)},
        IMAGE,
        "a.weight 0 ab, a.weight 1 .., a.bias 0 ab, b.weight 0 ab, b.weight 1 cde, b.bias 0 ab, c.weight 0 .., "
        "c.weight 1 ab",
    ),
    "a constant kernel": (
        lambda m, x: m.c(F.conv2d(m.a(x), torch.ones(2, 3, 1, 1)).mean((2, 3))),
        {"a": C(2, 3, 1, bias=False), "c": L(2, 2, bias=False)},
        IMAGE,
        "a.weight 0 ..., a.weight 1 .., c.weight 0 .., c.weight 1 ..",
    ),
    "groups": (
        lambda m, x: m.c(m.b(m.a(x)).mean((2, 3))),
        {"a": C(2, 4, 1, bias=False), "b": C(4, 6, 1, groups=2), "c": L(6, 2, bias=False)},
        IMAGE,
        "a.weight 0 abab, a.weight 1 .., b.weight 0 cdecde, b.weight 1 ab, b.bias 0 cdecde, c.weight 0 .., "
        "c.weight 1 cdecde",
    ),
    "groups of a transposed convolution": (
        lambda m, x: m.c(m.b(m.a(x)).mean((2, 3))),
        {"a": C(2, 4, 1, bias=False), "b": nn.ConvTranspose2d(4, 6, 1, groups=2), "c": L(6, 2, bias=False)},
        IMAGE,
        "a.weight 0 abab, a.weight 1 .., b.weight 0 abab, b.weight 1 cde, b.bias 0 cdecde, c.weight 0 .., "
        "c.weight 1 cdecde",
    ),
    "depthwise": (
        lambda m, x: m.c(m.b(m.a(x)).mean((2, 3))),
        {"a": C(2, 3, 1, bias=False), "b": C(3, 6, 1, groups=3), "c": L(6, 2, bias=False)},
        IMAGE,
        "a.weight 0 abc, a.weight 1 .., b.weight 0 aabbcc, b.bias 0 aabbcc, c.weight 0 .., c.weight 1 aabbcc",
    ),
    "padded channels": (
        lambda m, x: m.c((F.pad(m.a(x), (0, 0, 0, 0, 1, 2)) + m.b(x)).mean((2, 3))),
        {"a": C(2, 2, 1, bias=False), "b": C(2, 5, 1, bias=False), "c": L(5, 2, bias=False)},
        IMAGE,
        "a.weight 0 ab, a.weight 1 .., b.weight 0 .ab.., b.weight 1 .., c.weight 0 .., c.weight 1 .ab..",
    ),
    "padded places": (
        lambda m, x: m.c((F.pad(m.a(x), (1, 1))).mean(2)),
        {"a": nn.Conv1d(2, 3, 1, bias=False), "c": L(3, 2, bias=False)},
        SEQUENCE,
        "a.weight 0 abc, a.weight 1 .., c.weight 0 .., c.weight 1 abc",
    ),
    "padded channels of a sequence": (
        lambda m, x: m.c((F.pad(m.a(x), (1, 1, 0, 1))).mean(2)),
        {"a": nn.Conv1d(2, 3, 1, bias=False), "c": L(4, 2, bias=False)},
        SEQUENCE,
        "a.weight 0 abc, a.weight 1 .., c.weight 0 .., c.weight 1 abc.",
    ),
    "windows of a sequence": (
        lambda m, x: m.c(F.interpolate(F.avg_pool1d(m.a(x), 2), scale_factor=2, mode="linear").flatten(1)),
        {"a": nn.Conv1d(2, 2, 1, bias=False), "c": L(12, 2, bias=False)},
        SEQUENCE,
        "a.weight 0 ab, a.weight 1 .., c.weight 0 .., c.weight 1 aaaaaabbbbbb",
    ),
    "windows over units": (
        lambda m, x: m.c(F.avg_pool1d(m.a(x), 2)),
        {"a": L(4, 4, bias=False), "c": L(2, 2, bias=False)},
        TOKENS,
        "a.weight 0 aaaa, a.weight 1 ...., c.weight 0 .., c.weight 1 aa",
    ),
}
"""Name -> the network's function, its parts, an example, and the letters of each dimension."""
