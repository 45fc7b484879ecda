"""Networks that count on places, sizes or values of units: nothing may be called free that cannot be removed."""

import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pai_bench as pb
from pai_bench.graph.flops import flops
from pai_bench.groups import GroupMask, Groups, find_groups, shrink
from pai_bench.groups.budget import Budget, keep_share
from pai_bench.groups.removable import difference, fill
from pai_bench.scoring import get_criterion
from tests.graph.kinds import Net
from tests.groups.made import some_kept
from tests.groups.networks import FEATURES, IMAGE, TOKENS, LastStep, filled

L = nn.Linear


def zeroed(layer: nn.Linear) -> nn.Linear:
    """A layer of zeros, as networks have at the end of residual branches."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def written(y: Tensor) -> Tensor:
    y = y.clone()
    y[:, [1]] = 0
    return y


class Buffered(nn.Module):
    """Multiplies with a buffer, and adds one that was expanded."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = L(5, 6), L(7, 3)
        self.register_buffer("matrix", torch.randn(6, 7))
        self.register_buffer("row", torch.ones(6).expand(2, 6))

    def forward(self, x: Tensor) -> Any:
        return self.b(torch.relu((self.a(x) + self.get_buffer("row")[0]) @ self.get_buffer("matrix")))


Case = tuple[Callable[[], nn.Module], tuple[int, ...]]

CASES: dict[str, Case] = {
    "places in a list": (lambda: Net(lambda m, x: m.b(m.a(x)[:, [0, 2]]), a=L(5, 6), b=L(2, 3)), FEATURES),
    "index_select": (
        lambda: Net(lambda m, x: m.b(m.a(x).index_select(1, torch.tensor([3, 1]))), a=L(5, 6), b=L(2, 3)),
        FEATURES,
    ),
    "index_fill": (
        lambda: Net(lambda m, x: m.b(m.a(x).index_fill(1, torch.tensor([1]), 0.0)), a=L(5, 6), b=L(6, 3)),
        FEATURES,
    ),
    "a place is written to": (lambda: Net(lambda m, x: m.b(written(m.a(x))), a=L(5, 6), b=L(6, 3)), FEATURES),
    "numbers by place": (
        lambda: Net(lambda m, x: m.b(torch.tanh((y := m.a(x)) + torch.arange(y.shape[1]))), a=L(5, 6), b=L(6, 3)),
        FEATURES,
    ),
    "roll before zeros": (
        lambda: Net(lambda m, x: m.b(torch.roll(m.a(x), 2, 1)), a=L(5, 6), b=zeroed(L(6, 3))),
        FEATURES,
    ),
    "zeros of the size of others": (
        lambda: Net(
            lambda m, x: m.d(torch.relu(m.c(torch.relu(h := m.a(x))) + torch.zeros(len(x), h.shape[1]))),
            a=L(5, 6),
            c=L(6, 6),
            d=L(6, 3),
        ),
        FEATURES,
    ),
    "ones like others": (
        lambda: Net(lambda m, x: m.c(torch.ones_like(m.a(x)) + m.b(x)), a=L(5, 6), b=L(5, 6), c=L(6, 3)),
        FEATURES,
    ),
    "a projected LSTM before an MLP": (
        lambda: Net(
            lambda m, x: m.b(torch.relu(m.a(m.r(x)[0][:, -1]))),
            r=nn.LSTM(5, 6, proj_size=3, batch_first=True),
            a=L(3, 8),
            b=L(8, 3),
        ),
        TOKENS,
    ),
    "a scalar beside the logits": (
        lambda: Net(lambda m, x: (m.b(torch.relu(y := m.a(x))), y.mean()), a=L(5, 6), b=L(6, 3)),
        FEATURES,
    ),
    "a product of two scalars": (
        lambda: Net(lambda m, x: m.b(torch.relu(m.a(x))) * (x.sum() * x.norm()), a=L(5, 6), b=L(6, 3)),
        FEATURES,
    ),
    "a learnt scalar": (
        lambda: Net(
            lambda m, x: m.b(torch.relu(m.a(x)) * m.t.exp()), a=L(5, 6), b=L(6, 3), t=nn.Parameter(torch.tensor(0.5))
        ),
        FEATURES,
    ),
    "the weight on the left": (
        lambda: Net(lambda m, x: m.b(torch.relu((m.w @ x.T).T)), w=nn.Parameter(torch.randn(6, 5)), b=L(6, 3)),
        FEATURES,
    ),
    "spectral norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(L(5, 6)), nn.ReLU(), L(6, 4), nn.ReLU(), L(4, 3)),
        FEATURES,
    ),
    "attention to other sizes": (
        lambda: Net(
            lambda m, x: m.o(m.a(m.e(x), m.k(x), m.k(x))[0]).mean(1),
            e=L(5, 12),
            k=L(5, 8),
            a=nn.MultiheadAttention(12, 4, kdim=8, vdim=8, batch_first=True),
            o=L(12, 3),
        ),
        TOKENS,
    ),
    "grouped and transposed, with biases": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 12, 3), nn.ConvTranspose2d(12, 8, 3, groups=4), nn.ReLU(), nn.Flatten(), L(512, 3)
        ),
        IMAGE,
    ),
    "buffers": (Buffered, FEATURES),
    "a bool beside the logits": (
        lambda: Net(lambda m, x: {"o": (y := m.b(torch.relu(m.a(x)))), "m": y > 0}, a=L(5, 6), b=L(6, 3)),
        FEATURES,
    ),
    "complex numbers": (
        lambda: Net(lambda m, x: m.b(torch.view_as_complex(m.a(x).view(-1, 3, 2)).abs()), a=L(5, 6), b=L(3, 3)),
        FEATURES,
    ),
    "one head beside a shortcut": (
        lambda: Net(
            lambda m, x: m.o(((m.q(y := m.a(x)) @ m.k(y).mT).softmax(-1) @ m.v(y) + y).mean(1)),
            **{"a": L(5, 6), "q": L(6, 4), "k": L(6, 4), "v": L(6, 6), "o": L(6, 3)},
        ),
        TOKENS,
    ),
    "a weight transposed before a convolution": (
        lambda: Net(
            lambda m, x: nn.functional.conv2d(torch.relu(m.a(x)), m.w.transpose(0, 1)).mean((2, 3)),
            a=nn.Conv2d(3, 6, 3),
            w=nn.Parameter(torch.randn(6, 6, 1, 1)),
        ),
        IMAGE,
    ),
    "a mask that is written to": (
        lambda: Net(
            lambda m, x: m.b(torch.relu(m.a(x) @ (m.w * m.mask).clamp_(max=0.3).T)),
            **{"a": L(5, 6), "w": nn.Parameter(torch.randn(7, 6)), "b": L(7, 3), "mask": nn.Buffer(torch.ones(7, 6))},
        ),
        FEATURES,
    ),
    "rows of a weight in another order": (
        lambda: Net(
            lambda m, x: m.b(torch.relu(x @ m.w[[3, 1, 0, 2]].T)),
            **{"w": nn.Parameter(torch.randn(4, 5)), "b": L(4, 3)},
        ),
        FEATURES,
    ),
    "columns of a weight in another order": (
        lambda: Net(
            lambda m, x: m.b(torch.relu(torch.relu(m.a(x)) @ m.w[:, [3, 1, 0, 2]].T)),
            **{"a": L(5, 4), "w": nn.Parameter(torch.randn(6, 4)), "b": L(6, 3)},
        ),
        FEATURES,
    ),
    "columns that do not stay zero": (
        lambda: Net(
            lambda m, x: m.b(torch.tanh(m.a(x)) @ m.w.exp().T), a=L(5, 6), b=L(7, 3), w=nn.Parameter(torch.randn(7, 6))
        ),
        FEATURES,
    ),
    "a spectrum": (lambda: Net(lambda m, x: m.b(torch.fft.rfft(m.a(x)).real), a=L(5, 6), b=L(4, 3)), FEATURES),
}


def made(case: Case) -> tuple[nn.Module, Groups, Tensor]:
    build, shape = case
    network, example = filled(build()), torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()
    return network, find_groups(network, example), example


@pytest.mark.parametrize("name", CASES)
def test_what_is_free_can_be_removed(name: str) -> None:
    network, groups, example = made(CASES[name])
    fill(network, torch.Generator().manual_seed(2))
    for share, seed in itertools.product((0.3, 0.6), range(4)):
        assert difference(network, GroupMask(groups, some_kept(groups, share, seed)), example) is None


@pytest.mark.parametrize("criterion", ["snap", "snap:gate=consumer", "3sp", "group:reduce=l2", "structured-random"])
@pytest.mark.parametrize(
    "name", [n for n in CASES if n not in ("a scalar beside the logits", "a bool beside the logits")]
)
def test_what_is_free_has_scores(name: str, criterion: str) -> None:
    network, groups, example = made(CASES[name])
    if groups.count:
        inputs = example.expand(2, *example.shape[1:])
        scores = get_criterion(criterion).score(network, (inputs, torch.tensor([0, 1])))
        assert isinstance(scores, Tensor)
        assert scores.shape == (groups.count,)


def test_what_is_left_of_attention() -> None:
    """Its own products count: each head's share of them goes with it."""
    network, groups, example = made(CASES["attention to other sizes"])
    order = torch.arange(groups.count)
    kept = GroupMask(groups, torch.ones(groups.count, dtype=torch.bool))
    heads = groups.gated.nonzero().flatten()
    budget = Budget(groups, torch.cat([heads[:2], order[~torch.isin(order, heads[:2])]]))
    for removed in (0, 1, 2):
        smaller = shrink(network, budget.kept(removed) if removed else kept)
        assert budget.left("flops", removed) == pytest.approx(flops(smaller, example).total, rel=1e-12)


def test_a_smaller_subclass_is_pickled() -> None:
    network = filled(nn.Sequential(LastStep(5, 6, batch_first=True), L(6, 3)))
    example = torch.randn(TOKENS, dtype=torch.float64)
    groups = find_groups(network, example)
    smaller = shrink(network, GroupMask(groups, torch.arange(6) < 4))
    again = pickle.loads(pickle.dumps(smaller))
    assert torch.equal(again(example), smaller(example))


def test_bad_input() -> None:
    network, groups, example = made(CASES["the weight on the left"])
    with pytest.raises(pb.UserError, match="shrink takes a GroupMask"):
        pb.shrink(network, pb.prune(network.float(), (example.float(), torch.tensor([0])), "random", 0.5))  # type: ignore[arg-type]
    with pytest.raises(pb.UserError, match="an example input is a tensor"):
        find_groups(network, [1, 2])  # type: ignore[arg-type]
    with pytest.raises(pb.UserError, match="the example input is empty"):
        find_groups(network, example[:0])
    with pytest.raises(pb.UserError, match="6 scores that are numbers"):
        keep_share(groups, torch.zeros(5), 0.5)
    with pytest.raises(pb.UserError, match="6 scores that are numbers"):
        keep_share(groups, torch.full((6,), torch.nan), 0.5)
    with pytest.raises(pb.UserError, match=r"another network: .* has shape None"):
        shrink(nn.Sequential(), groups.all_kept())
    with pytest.raises(pb.UserError, match="there are 6 groups, but the mask is of shape"):
        GroupMask(groups, torch.ones(5, dtype=torch.bool))
    with pytest.raises(pb.UserError, match=r"torch\.bool"):
        GroupMask(groups, torch.ones(6))
