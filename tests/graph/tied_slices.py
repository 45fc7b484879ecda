"""Small networks, each with one way in which units are tied, and its slices, by hand.

Each dimension of a parameter is written as a letter for every slice: those with the same letter can only be removed
together, and those with a dot not at all.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

L = nn.Linear
X, TOKENS = torch.ones(2, 4), torch.ones(1, 3, 4)
Function = Callable[[Any, Tensor], Any]


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape))


def over(y: Tensor) -> Tensor:
    """Zeros in the memory of `y`."""
    y.fill_(0.0)
    return y


def written_to(function: Any, y: Tensor, values: Tensor) -> Tensor:
    """`values`, to which a function over tokens has written its first result."""
    function(y, dim=1, out=(values, torch.empty(values.shape, dtype=torch.long)))
    return values


CASES: dict[str, tuple[Function, dict[str, Any], Tensor, str]] = {
    "two layers": (
        lambda m, x: m.b(m.a(x)),
        {"a": L(4, 3), "b": L(3, 2)},
        X,
        "a.weight 0 abc, a.weight 1 ...., a.bias 0 abc, b.weight 0 .., b.weight 1 abc, b.bias 0 ..",
    ),
    "one unit": (
        lambda m, x: m.b(m.a(x)),
        {"a": L(4, 1), "b": L(1, 2)},
        X,
        "a.weight 0 a, a.weight 1 ...., b.weight 0 .., b.weight 1 a, b.bias 0 ..",
    ),
    "a vector of data": (
        lambda m, x: m.b(m.w @ x[0]),
        {"w": parameter(3, 4), "b": L(3, 2)},
        X,
        "w 0 abc, w 1 ...., b.weight 0 .., b.weight 1 abc, b.bias 0 ..",
    ),
    "a vector of data from the left": (
        lambda m, x: m.b(x[0] @ m.w),
        {"w": parameter(4, 3), "b": L(3, 2)},
        X,
        "w 0 ...., w 1 abc, b.weight 0 .., b.weight 1 abc, b.bias 0 ..",
    ),
    "added by a product": (
        lambda m, x: m.b(torch.addmm(m.s, x, m.w)),
        {"w": parameter(4, 3), "s": parameter(3), "b": L(3, 2)},
        X,
        "w 0 ...., w 1 abc, s 0 abc, b.weight 0 .., b.weight 1 abc, b.bias 0 ..",
    ),
    "a value added by a product": (
        lambda m, x: m.b(torch.addmm(m.a(x), x, m.w)),
        {"w": parameter(4, 3), "a": L(4, 3, bias=False), "b": L(3, 2)},
        X,
        "w 0 ...., w 1 abc, a.weight 0 abc, a.weight 1 ...., b.weight 0 .., b.weight 1 abc, b.bias 0 ..",
    ),
    "tokens after each other": (
        lambda m, x: m.c(torch.cat([m.a(x), m.b(x)], 1)),
        {"a": L(4, 3, bias=False), "b": L(4, 3, bias=False), "c": L(3, 2, bias=False)},
        TOKENS,
        "a.weight 0 abc, a.weight 1 ...., b.weight 0 abc, b.weight 1 ...., c.weight 0 .., c.weight 1 abc",
    ),
    "a token before others": (
        lambda m, x: m.b(torch.cat([m.p, m.a(x)], 1)),
        {"a": L(4, 3, bias=False), "p": parameter(1, 1, 3), "b": L(3, 2, bias=False)},
        TOKENS,
        "a.weight 0 abc, a.weight 1 ...., b.weight 0 .., b.weight 1 abc, p 2 abc",
    ),
    "units beside each other": (
        lambda m, x: m.c(torch.cat([m.a(x), m.b(x)], 2)),
        {"a": L(4, 2, bias=False), "b": L(4, 3, bias=False), "c": L(5, 2, bias=False)},
        TOKENS,
        "a.weight 0 ab, a.weight 1 ...., b.weight 0 cde, b.weight 1 ...., c.weight 0 .., c.weight 1 abcde",
    ),
    "one unit beside others": (
        lambda m, x: m.c(torch.cat([m.a(x), x, m.b(x)], 1)),
        {"a": L(4, 1, bias=False), "b": L(4, 2, bias=False), "c": L(7, 2, bias=False)},
        X,
        "a.weight 0 a, a.weight 1 ...., b.weight 0 bc, b.weight 1 ...., c.weight 0 .., c.weight 1 a....bc",
    ),
    "in a stack": (
        lambda m, x: m.c(torch.stack([m.a(x), m.b(x)], 1)[:, 0]),
        {"a": L(4, 2, bias=False), "b": L(4, 2, bias=False), "c": L(2, 2, bias=False)},
        X,
        "a.weight 0 ab, a.weight 1 ...., b.weight 0 ab, b.weight 1 ...., c.weight 0 .., c.weight 1 ab",
    ),
    "positions are mixed": (
        lambda m, x: m.b(m.t(m.a(x).mT).mT),
        {"a": L(4, 2, bias=False), "t": L(3, 3, bias=False), "b": L(2, 2, bias=False)},
        TOKENS,
        "a.weight 0 ab, a.weight 1 ...., t.weight 0 ..., t.weight 1 ..., b.weight 0 .., b.weight 1 ab",
    ),
    "positions are mixed by constants": (
        lambda m, x: m.b((m.a(x).mT @ torch.ones(3, 5)).mT),
        {"a": L(4, 2, bias=False), "b": L(2, 2, bias=False)},
        TOKENS,
        "a.weight 0 ab, a.weight 1 ...., b.weight 0 .., b.weight 1 ab",
    ),
    "units are mixed by constants": (
        lambda m, x: m.b(m.a(x) @ torch.ones(3, 5)),
        {"a": L(4, 3, bias=False), "b": L(5, 2, bias=False)},
        X,
        "a.weight 0 ..., a.weight 1 ...., b.weight 0 .., b.weight 1 .....",
    ),
    "examples are mixed from the left": (
        lambda m, x: m.b(torch.ones(2, 2) @ m.a(x)),
        {"a": L(4, 3, bias=False), "b": L(3, 2, bias=False)},
        X,
        "a.weight 0 abc, a.weight 1 ...., b.weight 0 .., b.weight 1 abc",
    ),
    "units are mixed from the left": (
        lambda m, x: m.b((torch.ones(5, 3) @ m.a(x).mT).mT),
        {"a": L(4, 3, bias=False), "b": L(5, 2, bias=False)},
        X,
        "a.weight 0 ..., a.weight 1 ...., b.weight 0 .., b.weight 1 .....",
    ),
    "a weight on the left": (
        lambda m, x: m.b((m.w @ x.mT).mT),
        {"w": parameter(3, 4), "b": L(3, 2, bias=False)},
        X,
        "w 0 abc, w 1 ...., b.weight 0 .., b.weight 1 abc",
    ),
    "a vector as a matrix": (
        lambda m, x: m.b(F.linear(x, m.w.view(3, 4))),
        {"w": parameter(12), "b": L(3, 2, bias=False)},
        X,
        "w 0 ............, b.weight 0 .., b.weight 1 ...",
    ),
    "a weight for each head": (
        lambda m, x: m.b(torch.bmm(x.expand(2, 3, 4), m.w)),
        {"w": parameter(2, 4, 3), "b": L(3, 2, bias=False)},
        TOKENS,
        "w 0 .., w 1 ...., w 2 ..., b.weight 0 .., b.weight 1 ...",
    ),
    "a part of a weight": (
        lambda m, x: m.b(F.linear(x, m.w[1:])),
        {"w": parameter(4, 4), "b": L(3, 2, bias=False)},
        X,
        "w 0 abcd, w 1 ...., b.weight 0 .., b.weight 1 bcd",
    ),
    "a weight for all examples": (
        lambda m, x: m.b(torch.bmm(x, m.w[None])),
        {"w": parameter(4, 3), "b": L(3, 2, bias=False)},
        TOKENS,
        "w 0 ...., w 1 abc, b.weight 0 .., b.weight 1 abc",
    ),
    "units times a value of the input": (
        lambda m, x: m.b(m.a(x) * x[:, :1]),
        {"a": L(4, 3, bias=False), "b": L(3, 2, bias=False)},
        X,
        "a.weight 0 abc, a.weight 1 ...., b.weight 0 .., b.weight 1 abc",
    ),
    "units of two values": (
        lambda m, x: m.c(m.a(x) * m.b(x)),
        {"a": L(4, 3, bias=False), "b": L(4, 3, bias=False), "c": L(3, 2, bias=False)},
        X,
        "a.weight 0 abc, a.weight 1 ...., b.weight 0 abc, b.weight 1 ...., c.weight 0 .., c.weight 1 abc",
    ),
    "scaled and shifted": (
        lambda m, x: m.b(m.a(x) * m.s + m.p),
        {"a": L(4, 3, bias=False), "s": parameter(3), "p": parameter(1, 5, 1), "b": L(3, 2, bias=False)},
        torch.ones(1, 5, 4),
        "a.weight 0 abc, a.weight 1 ...., b.weight 0 .., b.weight 1 abc, s 0 abc",
    ),
    "a map of places and units": (
        lambda m, x: m.b(m.a(x) + m.p),
        {"a": L(4, 2, bias=False), "p": parameter(1, 3, 2), "b": L(2, 2, bias=False)},
        TOKENS,
        "a.weight 0 ab, a.weight 1 ...., b.weight 0 .., b.weight 1 ab, p 2 ab",
    ),
    "a map in one row": (
        lambda m, x: m.b(m.a(x) * m.p.flatten()),
        {"a": L(4, 6, bias=False), "p": parameter(2, 3), "b": L(6, 2, bias=False)},
        X,
        "a.weight 0 ......, a.weight 1 ...., b.weight 0 .., b.weight 1 ......, p 0 .., p 1 ...",
    ),
    "a constant is added": (
        lambda m, x: m.b(m.a(x) + torch.ones(3)),
        {"a": L(4, 3, bias=False), "b": L(3, 2, bias=False)},
        X,
        "a.weight 0 abc, a.weight 1 ...., b.weight 0 .., b.weight 1 abc",
    ),
    "an unknown operation": (
        lambda m, x: m.c(torch.fft.fft(m.a(x)).real + m.b(x)),
        {"a": L(4, 3, bias=False), "b": L(4, 3, bias=False), "c": L(3, 2, bias=False)},
        X,
        "a.weight 0 ..., a.weight 1 ...., b.weight 0 ..., b.weight 1 ...., c.weight 0 .., c.weight 1 ...",
    ),
    "an unknown operation on a weight": (
        lambda m, x: m.b(F.linear(x, torch.fft.fft(m.a.weight).real)),
        {"a": L(4, 3, bias=False), "b": L(3, 2, bias=False)},
        X,
        "a.weight 0 ..., a.weight 1 ...., b.weight 0 .., b.weight 1 ...",
    ),
    "a weight upside down": (
        lambda m, x: m.b(F.linear(x, m.w.flip(0))),
        {"w": parameter(3, 4), "b": L(3, 2, bias=False)},
        X,
        "w 0 ..., w 1 ...., b.weight 0 .., b.weight 1 ...",
    ),
    "a weight of two factors": (
        lambda m, x: m.b(F.linear(x, m.w @ m.v)),
        {"w": parameter(3, 4), "v": parameter(4, 4), "b": L(3, 2, bias=False)},
        X,
        "w 0 ..., w 1 ...., v 0 ...., v 1 ...., b.weight 0 .., b.weight 1 ...",
    ),
    "a weight that data scale in place": (
        lambda m, x: m.b(F.linear(x, (m.w * m.g).mul_(x[0]))),
        {"w": parameter(3, 4), "g": parameter(3, 1), "b": L(3, 2, bias=False)},
        X,
        "w 0 ..., w 1 ...., g 0 ..., b.weight 0 .., b.weight 1 ...",
    ),
    "softmax over a weight's columns": (
        lambda m, x: m.b(F.linear(x, m.w.softmax(1))),
        {"w": parameter(3, 4), "b": L(3, 2, bias=False)},
        X,
        "w 0 ..., w 1 ...., b.weight 0 .., b.weight 1 ...",
    ),
    "softmax over tokens": (
        lambda m, x: m.b(m.a(x).softmax(1)),
        {"a": L(4, 3, bias=False), "b": L(3, 2, bias=False)},
        TOKENS,
        "a.weight 0 abc, a.weight 1 ...., b.weight 0 .., b.weight 1 abc",
    ),
    "softmax over units": (
        lambda m, x: m.b(m.a(x).softmax(2)),
        {"a": L(4, 3, bias=False), "b": L(3, 2, bias=False)},
        TOKENS,
        "a.weight 0 ..., a.weight 1 ...., b.weight 0 .., b.weight 1 ...",
    ),
    "the sum of no tokens": (
        lambda m, x: m.b(m.a(x) + m.a(x)[:, 3:].sum(1, keepdim=True)),
        {"a": L(4, 3, bias=False), "b": L(3, 2, bias=False)},
        TOKENS,
        "a.weight 0 abc, a.weight 1 ...., b.weight 0 .., b.weight 1 abc",
    ),
    "softmax over no tokens": (
        lambda m, x: m.b(torch.cat([m.a(x), m.a(x)[:, 3:].softmax(1)], 1)),
        {"a": L(4, 3, bias=False), "b": L(3, 2, bias=False)},
        TOKENS,
        "a.weight 0 abc, a.weight 1 ...., b.weight 0 .., b.weight 1 abc",
    ),
    "a mean over tokens": (
        lambda m, x: m.b(m.a(x).mean(1)),
        {"a": L(4, 3, bias=False), "b": L(3, 2, bias=False)},
        TOKENS,
        "a.weight 0 abc, a.weight 1 ...., b.weight 0 .., b.weight 1 abc",
    ),
    "a mean over units": (
        lambda m, x: m.b(m.a(x) - m.a(x).mean(2, keepdim=True)),
        {"a": L(4, 3, bias=False), "b": L(3, 2, bias=False)},
        TOKENS,
        "a.weight 0 ..., a.weight 1 ...., b.weight 0 .., b.weight 1 ...",
    ),
    "the largest of all tokens, written to a tensor": (
        lambda m, x: m.b(written_to(torch.max, m.a(x), torch.empty(1, 3))),
        {"a": L(4, 3, bias=False), "b": L(3, 2, bias=False)},
        TOKENS,
        "a.weight 0 abc, a.weight 1 ...., b.weight 0 .., b.weight 1 abc",
    ),
    "tokens in order, written to a tensor": (
        lambda m, x: m.b(written_to(torch.sort, m.a(x), torch.empty(1, 3, 3))),
        {"a": L(4, 3, bias=False), "b": L(3, 2, bias=False)},
        TOKENS,
        "a.weight 0 abc, a.weight 1 ...., b.weight 0 .., b.weight 1 abc",
    ),
    "the larger of two": (
        lambda m, x: m.c(torch.max(m.a(x), m.b(x))),
        {"a": L(4, 2, bias=False), "b": L(4, 2, bias=False), "c": L(2, 2, bias=False)},
        X,
        "a.weight 0 ab, a.weight 1 ...., b.weight 0 ab, b.weight 1 ...., c.weight 0 .., c.weight 1 ab",
    ),
    "a norm over units": (
        lambda m, x: m.b(m.n(m.a(x))),
        {"a": L(4, 3, bias=False), "n": nn.LayerNorm(3), "b": L(3, 2, bias=False)},
        X,
        "a.weight 0 ..., a.weight 1 ...., n.weight 0 ..., n.bias 0 ..., b.weight 0 .., b.weight 1 ...",
    ),
    "a norm over no tokens": (
        lambda m, x: m.b(torch.cat([m.a(x), F.normalize(m.a(x)[:, 3:])], 1)),
        {"a": L(4, 3, bias=False), "b": L(3, 2, bias=False)},
        TOKENS,
        "a.weight 0 abc, a.weight 1 ...., b.weight 0 .., b.weight 1 abc",
    ),
    "a mean of all": (
        lambda m, x: m.b(m.a(x) - m.a(x).mean() + m.c(x).mean().softmax(0)),
        {"a": L(4, 3, bias=False), "b": L(3, 2, bias=False), "c": L(4, 2, bias=False)},
        TOKENS,
        "a.weight 0 ..., a.weight 1 ...., b.weight 0 .., b.weight 1 ..., c.weight 0 .., c.weight 1 ....",
    ),
    "a norm of each unit": (
        lambda m, x: m.b(m.n(m.a(x))),
        {"a": L(4, 3, bias=False), "n": nn.BatchNorm1d(3), "b": L(3, 2, bias=False)},
        X,
        "a.weight 0 abc, a.weight 1 ...., n.weight 0 abc, n.bias 0 abc, b.weight 0 .., b.weight 1 abc, "
        "n.running_mean 0 abc, n.running_var 0 abc",
    ),
    "a table": (
        lambda m, x: m.b(m.e(x) + m.a(m.e(x))),
        {"e": nn.Embedding(5, 3), "a": L(3, 3, bias=False), "b": L(3, 2, bias=False)},
        torch.zeros(1, 2, dtype=torch.long),
        "e.weight 1 abc, a.weight 0 abc, a.weight 1 abc, b.weight 0 .., b.weight 1 abc",
    ),
    "a unit is looked up": (
        lambda m, x: m.b(m.e((m.a(x) > 0).long()).mean(1)),
        {"a": L(4, 3, bias=False), "e": nn.Embedding(2, 4), "b": L(4, 2, bias=False)},
        X,
        "a.weight 0 ..., a.weight 1 ...., e.weight 1 abcd, b.weight 0 .., b.weight 1 abcd",
    ),
    "a unit is picked": (
        lambda m, x: m.c(m.a(x)[:, 1:2] * m.b(x)),
        {"a": L(4, 3, bias=False), "b": L(4, 1, bias=False), "c": L(1, 2, bias=False)},
        X,
        "a.weight 0 aaa, a.weight 1 ...., b.weight 0 a, b.weight 1 ...., c.weight 0 .., c.weight 1 a",
    ),
    "a token is picked": (
        lambda m, x: m.b(m.a(x)[:, 1]),
        {"a": L(4, 3, bias=False), "b": L(3, 2, bias=False)},
        TOKENS,
        "a.weight 0 abc, a.weight 1 ...., b.weight 0 .., b.weight 1 abc",
    ),
    "all of a slice": (
        lambda m, x: m.b(m.a(x)[:, 0:3]),
        {"a": L(4, 3, bias=False), "b": L(3, 2, bias=False)},
        X,
        "a.weight 0 abc, a.weight 1 ...., b.weight 0 .., b.weight 1 abc",
    ),
    "equal parts": (
        lambda m, x: m.b(m.a(x).chunk(2, 1)[0] + m.a(x).chunk(2, 1)[1]),
        {"a": L(4, 6, bias=False), "b": L(3, 2, bias=False)},
        X,
        "a.weight 0 abcabc, a.weight 1 ...., b.weight 0 .., b.weight 1 abc",
    ),
    "unequal parts": (
        lambda m, x: m.b(m.a(x).split((1, 2), 1)[1]),
        {"a": L(4, 3, bias=False), "b": L(2, 2, bias=False)},
        X,
        "a.weight 0 aaa, a.weight 1 ...., b.weight 0 .., b.weight 1 aa",
    ),
    "heads": (
        lambda m, x: m.b(m.a(x).view(2, 3, 2).transpose(1, 2).reshape(2, 6)),
        {"a": L(4, 6, bias=False), "b": L(6, 2, bias=False)},
        X,
        "a.weight 0 ababab, a.weight 1 ...., b.weight 0 .., b.weight 1 aaabbb",
    ),
    "heads and dimensions of one": (
        lambda m, x: m.b(m.a(x).view(1, 2, 3, 1, 2).transpose(2, 4).reshape(2, 1, 6)),
        {"a": L(4, 6, bias=False), "b": L(6, 2, bias=False)},
        X,
        "a.weight 0 ababab, a.weight 1 ...., b.weight 0 .., b.weight 1 aaabbb",
    ),
    "heads that go as a whole": (
        lambda m, x: m.b((m.a(x).view(2, 3, 2) * m.a(x).view(2, 3, 2).sum(2, keepdim=True)).flatten(1)),
        {"a": L(4, 6, bias=False), "b": L(6, 2, bias=False)},
        X,
        "a.weight 0 aabbcc, a.weight 1 ...., b.weight 0 .., b.weight 1 aabbcc",
    ),
    "tokens and units in one dimension": (
        lambda m, x: m.b(m.a(x).flatten(1)),
        {"a": L(4, 2, bias=False), "b": L(6, 2, bias=False)},
        TOKENS,
        "a.weight 0 ab, a.weight 1 ...., b.weight 0 .., b.weight 1 ababab",
    ),
    "a product of values": (
        lambda m, x: m.c(torch.cat([m.a(x) @ m.b(x).mT, m.b(x)], 2)),
        {"a": L(4, 2, bias=False), "b": L(4, 2, bias=False), "c": L(5, 2, bias=False)},
        TOKENS,
        "a.weight 0 aa, a.weight 1 ...., b.weight 0 aa, b.weight 1 ...., c.weight 0 .., c.weight 1 aaaaa",
    ),
    "written over": (
        lambda m, x: m.c(over(m.a(x)) + m.b(x)),
        {"a": L(4, 3, bias=False), "b": L(4, 3, bias=False), "c": L(3, 2, bias=False)},
        X,
        "a.weight 0 abc, a.weight 1 ...., b.weight 0 def, b.weight 1 ...., c.weight 0 .., c.weight 1 def",
    ),
}
"""Name -> the network's function, its parts, an example, and the letters of each dimension."""
