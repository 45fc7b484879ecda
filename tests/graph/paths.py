"""Paths through small networks, by hand: a graph of single values, built with loops over numpy arrays of nodes.

Written from the definitions of the layers and not from the code under test. An edge may carry a connection: the name of
a parameter and a flat index. A path runs from an input node to an output node.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import product

import numpy as np
import numpy.typing as npt
from torch import Tensor

Nodes = npt.NDArray[np.int64]
Masks = dict[str, npt.NDArray[np.bool_]]
Edge = tuple[int, int, tuple[str, int] | None]


class Graph:
    """Single values and what each is made of; nodes are numbered in an order in which they can be computed."""

    def __init__(self, masks: dict[str, Tensor]) -> None:
        self.masks: Masks = {name: mask.numpy() for name, mask in masks.items()}
        self.edges: list[Edge] = []
        self.size = 0

    def nodes(self, *shape: int) -> Nodes:
        """New values, made of nothing yet."""
        start, self.size = self.size, self.size + int(np.prod(shape))
        return np.arange(start, self.size).reshape(shape)

    def effective(self, inputs: Nodes, outputs: Nodes) -> tuple[dict[str, npt.NDArray[np.bool_]], int]:
        """Which connections lie on a path, and the number of paths."""
        ways_in, ways_out = defaultdict[int, int](int), defaultdict[int, int](int)
        for node in inputs.flat:
            ways_in[int(node)] = 1
        for node in outputs.flat:
            ways_out[int(node)] += 1
        ordered = sorted(self.edges, key=lambda edge: edge[1])
        for source, target, _ in ordered:
            ways_in[target] += ways_in[source]
        for source, target, _ in sorted(self.edges, key=lambda edge: -edge[0]):
            ways_out[source] += ways_out[target]
        found = {name: np.zeros(mask.shape, dtype=bool) for name, mask in self.masks.items()}
        for source, target, connection in self.edges:
            if connection is not None and ways_in[source] and ways_out[target]:
                found[connection[0]].flat[connection[1]] = True
        return found, sum(ways_in[int(node)] for node in outputs.flat)

    def connect(self, source: np.int64 | int, target: np.int64 | int, name: str | None = None, *index: int) -> None:
        """An edge, through the connection at `index` of a parameter if that is kept."""
        if name is None:
            self.edges.append((int(source), int(target), None))
        elif self.masks[name][index]:
            flat = int(np.ravel_multi_index(index, self.masks[name].shape))
            self.edges.append((int(source), int(target), (name, flat)))

    def merged(self, *parts: Nodes) -> Nodes:
        """Sums or products, element by element."""
        result = self.nodes(*parts[0].shape)
        for part in parts:
            for source, target in zip(part.flat, result.flat, strict=True):
                self.connect(source, target)
        return result

    def linear(self, name: str, x: Nodes, rows: slice = slice(None)) -> Nodes:
        """A linear layer along the last dimension, of some of its rows."""
        numbers = range(*rows.indices(len(self.masks[name])))
        result = self.nodes(*x.shape[:-1], len(numbers))
        for place in np.ndindex(x.shape[:-1]):
            for (o, row), i in product(enumerate(numbers), range(x.shape[-1])):
                self.connect(x[*place, i], result[*place, o], name, row, i)
        return result

    def conv(
        self, name: str, x: Nodes, *, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1
    ) -> Nodes:
        """A convolution of (channels, *places) in any number of dimensions."""
        kernel, dims = self.masks[name].shape[2:], x.ndim - 1
        sizes = [
            (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for n, k in zip(x.shape[1:], kernel, strict=True)
        ]
        result = self.nodes(len(self.masks[name]), *sizes)
        outs, ins = len(self.masks[name]) // groups, self.masks[name].shape[1]
        for o, i in product(range(len(result)), range(ins)):
            for place, tap in product(np.ndindex(*sizes), np.ndindex(*kernel)):
                at = [place[d] * stride - padding + tap[d] * dilation for d in range(dims)]
                if all(0 <= a < n for a, n in zip(at, x.shape[1:], strict=True)):
                    self.connect(x[o // outs * ins + i, *at], result[o, *place], name, o, i, *tap)
        return result

    def transposed(self, name: str, x: Nodes, *, stride: int = 1, padding: int = 0, groups: int = 1) -> Nodes:
        """A transposed convolution of (channels, *places)."""
        kernel = self.masks[name].shape[2:]
        sizes = [(n - 1) * stride - 2 * padding + k for n, k in zip(x.shape[1:], kernel, strict=True)]
        outs, ins = self.masks[name].shape[1], len(x) // groups
        result = self.nodes(outs * groups, *sizes)
        for i, o in product(range(len(x)), range(outs)):
            for place, tap in product(np.ndindex(x.shape[1:]), np.ndindex(*kernel)):
                at = [p * stride - padding + t for p, t in zip(place, tap, strict=True)]
                if all(0 <= a < n for a, n in zip(at, sizes, strict=True)):
                    self.connect(x[i, *place], result[i // ins * outs + o, *at], name, i, o, *tap)
        return result

    def pool(self, x: Nodes, kernel: int, *, stride: int, padding: int = 0, ceil: bool = False) -> Nodes:
        """Maximum or mean over windows of (channels, height, width)."""
        sizes = []
        for n in x.shape[1:]:
            over = n + 2 * padding - kernel
            size = -(-over // stride) + 1 if ceil else over // stride + 1
            # a window must begin inside the input or the padding before it
            sizes.append(size - 1 if ceil and (size - 1) * stride >= n + padding else size)
        result = self.nodes(len(x), *sizes)
        for c, place, tap in product(range(len(x)), list(np.ndindex(*sizes)), list(np.ndindex(kernel, kernel))):
            at = [p * stride - padding + t for p, t in zip(place, tap, strict=True)]
            if all(0 <= a < n for a, n in zip(at, x.shape[1:], strict=True)):
                self.connect(x[c, *at], result[c, *place])
        return result

    def mean(self, x: Nodes) -> Nodes:
        """A mean over all but the first dimension."""
        result = self.nodes(len(x))
        for c in range(len(x)):
            for source in x[c].flat:
                self.connect(source, result[c])
        return result

    def lstm(self, x: Nodes, suffix: str = "_l0", prefix: str = "") -> Nodes:
        """An LSTM over (time, features), from a state of zero."""
        hidden = len(self.masks[f"{prefix}weight_hh{suffix}"]) // 4
        h, c, outputs = None, None, []
        for step in x:
            gates = self._gates(step, h, prefix, suffix, 4, hidden)
            i, f, g, o = gates
            # at first, the forget gate multiplies a state that is zero
            c = self.merged(i, g) if c is None else self.merged(self.merged(f, c), self.merged(i, g))
            h = self.merged(o, c)
            outputs.append(h)
        return np.stack(outputs)

    def gru(self, x: Nodes, suffix: str = "_l0", prefix: str = "") -> Nodes:
        """A GRU with biases over (time, features), from a state of zero."""
        hidden = len(self.masks[f"{prefix}weight_hh{suffix}"]) // 3
        h, outputs = None, []
        for step in x:
            name = f"{prefix}weight_ih{suffix}"
            r, z, n = (self.linear(name, step, slice(k * hidden, (k + 1) * hidden)) for k in range(3))
            if h is None:
                new = self.merged(n, r)
                h = self.merged(z, new)
            else:
                name = f"{prefix}weight_hh{suffix}"
                hr, hz, hn = (self.linear(name, h, slice(k * hidden, (k + 1) * hidden)) for k in range(3))
                new = self.merged(n, self.merged(self.merged(r, hr), hn))
                h = self.merged(self.merged(z, hz), new, h)
            outputs.append(h)
        return np.stack(outputs)

    def _gates(
        self, step: Nodes, h: Nodes | None, prefix: str, suffix: str, count: int, hidden: int
    ) -> Iterator[Nodes]:
        for k in range(count):
            rows = slice(k * hidden, (k + 1) * hidden)
            part = self.linear(f"{prefix}weight_ih{suffix}", step, rows)
            yield part if h is None else self.merged(part, self.linear(f"{prefix}weight_hh{suffix}", h, rows))

    def attention(self, x: Nodes, heads: int, *, causal: bool = False, prefix: str = "") -> Nodes:
        """Self-attention over (time, features): torch's packed projection, softmax over the keys, output projection."""
        length, width = x.shape
        q, k, v = (
            self.linear(f"{prefix}in_proj_weight", x, slice(j * width, (j + 1) * width)).reshape(length, heads, -1)
            for j in range(3)
        )
        mixed = np.empty((length, heads, width // heads), dtype=np.int64)
        for head, i in product(range(heads), range(length)):
            keys = range(i + 1) if causal else range(length)
            scores = self.nodes(length)
            weights = self.nodes(length)
            for j in keys:
                for d in range(width // heads):
                    self.connect(q[i, head, d], scores[j])
                    self.connect(k[j, head, d], scores[j])
            for j, other in product(keys, keys):
                self.connect(scores[other], weights[j])
            mixed[i, head] = self.nodes(width // heads)
            for j, d in product(keys, range(width // heads)):
                self.connect(weights[j], mixed[i, head, d])
                self.connect(v[j, head, d], mixed[i, head, d])
        return self.linear(f"{prefix}out_proj.weight", mixed.reshape(length, width))
