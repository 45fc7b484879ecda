"""What is zero for all data, by constants, cut connections and functions of them; and what only the example says.

A network is held against its derivatives in double precision, as in `tests.graph.test_gates`.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from tests.graph.dependence import by_gradients, by_masks
from tests.graph.kinds import Net
from tests.graph.test_gates import depends, gated, mask_of, used

ZEROS = torch.zeros(3)


def assert_right(model: nn.Module, mask: pb.Mask, *, exactly: bool = True) -> None:
    """Connected if the output depends on the input, or also if that is not known; nothing that serves is dead."""
    truth, serving = depends(model, mask), used(model, mask)
    for example in (torch.ones(1, 4), -torch.ones(1, 4), torch.randn(1, 4)):
        found = pb.connectivity(model.float(), mask, example, paths=False)
        assert found.connected == truth or (found.connected and not exactly)
        for name, expected in serving.items():
            assert not bool((expected & ~found.effective_mask[name]).any()), name


# What the data choose


def choosing(function: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    """A choice between what some layers give, times what another one gives."""
    layers = {name: nn.Linear(4, 3, bias=False) for name in ("gate", "up", "other", "chooser")}
    return Net(lambda net, x: net.down(function(net, x) * net.up(x)), **layers, down=nn.Linear(3, 2, bias=False))


def ordered(net: Any, x: Tensor) -> Tensor:
    """Indices that depend on the data."""
    return net.chooser(x).argsort(1)  # type: ignore[no-any-return]


CHOICES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "where": lambda net, x: torch.where(net.chooser(x) > 0, net.gate(x), 1.0),
    "where of all": lambda net, x: torch.where(x.sum(1, keepdim=True) > 0, net.gate(x), 1.0),
    "where otherwise": lambda net, x: torch.where(net.chooser(x) > 0, 1.0, net.gate(x)),
    "where zero": lambda net, x: torch.where(net.chooser(x) > 0, net.gate(x), 0.0),
    "where zero itself": lambda net, x: torch.where(net.gate(x) == 0, 1.0, net.gate(x)),
    "where two": lambda net, x: torch.where(net.chooser(x) > 0, net.gate(x), net.other(x)),
    "masked fill": lambda net, x: net.gate(x).masked_fill(net.chooser(x) > 0, 2.0),
    "masked fill by one": lambda net, x: net.gate(x).masked_fill(x.sum() > 0, 2.0),
    "masked fill by a tensor": lambda net, x: net.gate(x).masked_fill(net.chooser(x) > 0, torch.tensor(2.0).to(x)),
    "masked fill by the data": lambda net, x: net.gate(x).masked_fill(net.chooser(x) > 0, net.other(x)[0, 0]),
    "masked fill of zeros": lambda net, x: net.gate(x).masked_fill(net.gate(x) == 0, 1.0),
    "masked fill in place": lambda net, x: net.gate(x).masked_fill_(net.chooser(x) > 0, 2.0),
    "the largest": lambda net, x: (h := net.other(x)).masked_fill(h < h.topk(2)[0][:, -1:], 0.0),
}

INDEXED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "gather": lambda net, x: torch.cat([net.gate(x), net.other(x)], 1).gather(1, ordered(net, x) + 1),
    "take": lambda net, x: torch.cat([net.gate(x), net.other(x)], 1).take(ordered(net, x) + 1),
    "index select": lambda net, x: torch.cat([net.gate(x), net.other(x)], 1).index_select(1, ordered(net, x)[0] + 1),
    "index": lambda net, x: torch.cat([net.gate(x), net.other(x)], 1)[:, ordered(net, x)[0] + 1],
    "index fill": lambda net, x: net.gate(x).index_fill(1, ordered(net, x)[0, :2], 1.0),
    "index copy": lambda net, x: net.gate(x).index_copy(1, ordered(net, x)[0, :2], net.other(x)[:, :2]),
    "index put": lambda net, x: net.gate(x).index_put((torch.tensor(0), ordered(net, x)[0, :2]), net.other(x)[0, 0]),
    "scatter": lambda net, x: net.gate(x).scatter(1, ordered(net, x)[:, :2], 1.0),
    "index of a pool": lambda net, x: torch.cat([net.gate(x), net.other(x)], 1).gather(
        1, F.max_pool1d(net.chooser(x), 3, 1, 1, return_indices=True)[1]
    ),
}


@pytest.mark.parametrize("cut", ["gate", "other", "chooser"])
@pytest.mark.parametrize("choice", [*CHOICES, *INDEXED])
def test_the_example_does_not_choose_for_all_data(choice: str, cut: str) -> None:
    model = choosing((CHOICES | INDEXED)[choice])
    kept = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    kept[f"{cut}.weight"][:] = False
    # of two equal values, and of a condition that is always the same, derivatives see less than is said
    assert_right(model, pb.Mask(kept), exactly=choice in CHOICES and cut == "gate")


@pytest.mark.parametrize("value", [0.01, 0.1])
def test_no_value_of_a_weight_chooses(value: float) -> None:
    model = Net(
        lambda net, x: net.b(F.linear(x, torch.where(net.a.weight.abs() > 0.05, net.a.weight, 0.0))),
        a=nn.Linear(4, 3, bias=False),
        b=nn.Linear(3, 2, bias=False),
    )
    nn.init.constant_(model.a.weight, value)  # type: ignore[arg-type, union-attr]
    keep = torch.tensor([[True] * 4, [False] * 4, [True, False, True, False]])
    found = pb.connectivity(model, {"a.weight": keep, "b.weight": torch.ones(2, 3, dtype=torch.bool)}, torch.ones(1, 4))
    assert found.effective_mask["a.weight"].equal(keep)
    assert found.effective_mask["b.weight"].any(0).tolist() == [True, False, True]
    assert not found.computed


def test_no_value_of_a_weight_says_what_passes() -> None:
    model = Net(lambda net, x: net.b(torch.where(net.a.weight[0] > 0, x, 0.0)), a=nn.Linear(4, 1), b=nn.Linear(4, 2))
    nn.init.constant_(model.a.weight, -1)  # type: ignore[arg-type, union-attr]
    assert pb.connectivity(model, {"b.weight": torch.ones(2, 4, dtype=torch.bool)}, torch.ones(1, 4)).connected


def test_a_constant_counts_as_it_was_when_it_was_used() -> None:
    def run(net: Any, x: Tensor) -> Any:
        ones = torch.ones(3)
        y = net.a(x) * ones
        ones.zero_()
        return net.b(y + ones)

    model = Net(run, a=nn.Linear(4, 3, bias=False), b=nn.Linear(3, 2))
    assert pb.connectivity(model, {"b.weight": torch.ones(2, 3, dtype=torch.bool)}, torch.ones(1, 4)).connected


# Functions of a gate


OF_ONE: dict[str, Callable[[Tensor], Tensor]] = {
    "2 ** t": lambda t: 2.0**t,
    "t ** 0": lambda t: t.pow(0),
    "t ** zeros": lambda t: t.pow(ZEROS),
    "t ** twos": lambda t: t.pow(ZEROS + 2),
    "t ** 3": lambda t: t**3,
    "hardtanh": F.hardtanh,
    "hardtanh without zero": lambda t: F.hardtanh(t, 0.1, 1.0),
    "elu": F.elu,
    "elu + 1": lambda t: F.elu(t) + 1,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "softplus": F.softplus,
    "log sigmoid": F.logsigmoid,
    "cosine": torch.cos,
    "expm1": torch.expm1,
    "prelu": lambda t: F.prelu(t, torch.tensor([0.2], dtype=t.dtype)),
    "rrelu": F.rrelu,
    "clamp": lambda t: t.clamp(0, 1),
    "clamp at 0": lambda t: t.clamp(min=0),
    "clamp without zero": lambda t: t.clamp(min=0.5),
    "maximum": lambda t: torch.maximum(t, torch.zeros_like(t)),
    "minimum": lambda t: torch.minimum(t, torch.ones_like(t)),
    "minimum without zero": lambda t: torch.minimum(t, -torch.ones_like(t)),
    "threshold": lambda t: F.threshold(t, 0.1, 0.0),
    "threshold without zero": lambda t: F.threshold(t, 0.1, 1.0),
    "nan to num": torch.nan_to_num,
    "atan2": lambda t: torch.atan2(t, torch.ones_like(t)),
    "atan2 of minus one": lambda t: torch.atan2(t, -torch.ones_like(t)),
    "hypot": lambda t: torch.hypot(t, torch.ones_like(t)),
    "remainder": lambda t: torch.remainder(t, 2),
    "lerp": lambda t: torch.lerp(t, 2 * t, 0.3),
    "t + 0": lambda t: t + 0.0,
    "1 - t": lambda t: 1 - t,
    "where": lambda t: torch.where(t > 0, t, 0.1 * t),
    "leaving a part": lambda t: torch.where(torch.tensor([True, False, True]), t, 1.0),
    "logsumexp": lambda t: t.logsumexp(1, keepdim=True),
    "product of nothing": lambda t: t[:, :0].prod(1, keepdim=True),
    "product": lambda t: t.prod(1, keepdim=True),
    "product of ones": lambda t: (t + 1).prod(1, keepdim=True),
    "norm": lambda t: t.norm(dim=1, keepdim=True),
    "median": lambda t: t.median(1, keepdim=True)[0],
    "softmax": lambda t: t.softmax(1),
    "cumsum": lambda t: t.cumsum(1),
    "cumprod": lambda t: t.cumprod(1),
    "cummax": lambda t: t.cummax(1)[0],
    "sort": lambda t: t.sort(1)[0],
    "topk": lambda t: t.topk(3)[0],
    "interpolation": lambda t: F.interpolate(t[:, None], scale_factor=2, mode="linear")[:, 0, ::2],
    "fold": lambda t: F.fold(F.unfold(t.view(1, 1, 1, 3), (1, 2)), (1, 3), (1, 2)).flatten(1),
    "scatter add": lambda t: t.scatter_add(1, torch.tensor([[0, 1]]), t[:, :2]),
    "scatter add to ones": lambda t: torch.ones_like(t).scatter_add(1, torch.tensor([[0, 1]]), t[:, :2]),
    "index add": lambda t: torch.zeros_like(t).index_add(1, torch.tensor([0, 0, 2]), t),
    "average pool": lambda t: F.avg_pool1d(t[:, None], 3, 1, 1)[:, 0],
    "layer norm": lambda t: F.layer_norm(t, (3,)),
    "group norm": lambda t: F.group_norm(t, 1),
    "instance norm": lambda t: F.instance_norm(t[:, None].expand(1, 2, 3).contiguous())[:, 0],
    "batch norm": lambda t: F.batch_norm(t, ZEROS.to(t), torch.ones(3).to(t)),
    "batch norm with means": lambda t: F.batch_norm(t, torch.ones(3).to(t), torch.ones(3).to(t)),
    "rms norm": lambda t: F.rms_norm(t, (3,)),
    "padding by ones": lambda t: F.pad(t[:, :2], (1, 0), value=1.0),
    "complex": lambda t: (z := torch.complex(t, t), z.imag)[1],
    "transposed in place": lambda t: torch.stack([t, t]).transpose_(0, 1)[:, 0],
    "a buffer": lambda t: torch.zeros_like(t).copy_(t),
}
"""Of a gate: some are zero where it is, and some are not."""

CHANGING = {"layer norm", "group norm", "instance norm", "rms norm"}
"""Those whose statistics are no path, though the output depends on them."""


@pytest.mark.parametrize("name", OF_ONE)
def test_functions_of_a_gate(name: str) -> None:
    torch.manual_seed(0)
    model = gated(lambda a, b: OF_ONE[name](a) * b, bias=False)
    for kind in ("no gate", "half a gate") if name not in CHANGING else ("no gate",):
        assert_right(model, mask_of(model, kind))
    assert not pb.connectivity(model.float(), mask_of(model, "no gate"), torch.ones(1, 4)).unknown


@pytest.mark.parametrize("name", sorted(CHANGING - {"rms norm"}))
def test_a_mean_that_is_taken_away_leaves_no_zeros(name: str) -> None:
    model = gated(lambda a, b: OF_ONE[name](a) * b, bias=False)
    found = pb.connectivity(model, mask_of(model, "half a gate"), torch.ones(1, 4))
    assert found.effective_mask["up.weight"].all()


def test_no_threshold_is_out_of_reach() -> None:
    model = gated(lambda a, b: F.threshold(a, 1e6, 0.0) * b, bias=False)
    found = pb.connectivity(model, mask_of(model, "half a gate"), torch.ones(1, 4))
    assert found.effective_mask["up.weight"].any(1).tolist() == [False, True, True]


def test_positions_are_rows_of_a_table() -> None:
    model = Net(
        lambda net, x: net.head(x * net.table(torch.arange(1, 3)).flatten()),
        table=nn.Embedding(3, 2),
        head=nn.Linear(4, 2),
    )
    kept = {"table.weight": torch.tensor([[1, 1], [1, 0], [0, 1]]) > 0, "head.weight": torch.ones(2, 4) > 0}
    found = pb.connectivity(model, kept, torch.ones(1, 4))
    assert not found.unknown
    assert found.effective_mask["table.weight"].int().tolist() == [[0, 0], [1, 0], [0, 1]]
    assert found.effective_mask["head.weight"].any(0).tolist() == [True, False, False, True]


OF_TWO: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product of a stack": lambda a, b: torch.stack([a, b]).prod(0),
    "addcdiv": lambda a, b: torch.addcdiv(torch.zeros_like(a), a, b.exp()),
    "fmod": lambda a, b: torch.fmod(a, b.exp()),
    "remainder": lambda a, b: torch.remainder(a, b.exp()),
    "maximum": torch.maximum,
    "clamp by another": lambda a, b: a.clamp(min=b),
    "addcmul": lambda a, b: torch.addcmul(torch.zeros_like(a), a, b),
    "addcmul to ones": lambda a, b: torch.addcmul(torch.ones_like(a), a, b),
    "no part": lambda a, b: torch.add(a, b, alpha=0) * b,
    "baddbmm without a base": lambda a, b: torch.baddbmm(b[:, :, None], a[:, :, None], b[:, :1, None], beta=0)[..., 0],
    "baddbmm of a base": lambda a, b: torch.baddbmm(a[:, :, None], b[:, :, None], b[:, :1, None], alpha=0)[..., 0],
    "addbmm": lambda a, b: torch.addbmm(torch.zeros(3, 3).to(a), a[:, :, None], b[:, None]).sum(0)[None],
    "addr": lambda a, b: torch.addr(torch.zeros(3, 3).to(a), a[0], b[0]).sum(0)[None],
    "vdot": lambda a, b: torch.vdot(a[0], b[0]).expand(1, 3),
    "bilinear": lambda a, b: F.bilinear(a, b, torch.ones(3, 3, 3).to(a)),
    "a kernel": lambda a, b: F.conv1d(b[:, :, None], a.view(3, 1, 1), groups=3)[..., 0],
    "complex numbers": lambda a, b: torch.view_as_real(
        torch.view_as_complex(a[:, :2].contiguous()) * torch.view_as_complex(b[:, :2].contiguous())
    ).repeat(1, 2)[:, :3],
    "times zero": lambda a, b: (a * 0 + a) * b,
    "times a tensor of zero": lambda a, b: (b * torch.tensor(0.0) + a) * b,
    "halves in place": lambda a, b: halves(torch.cat([a, b], 1)),
    "a part in place": lambda a, b: part(b, a),
    "parts in a buffer": lambda a, b: torch.cat([buffer(a), b], 1)[:, :3] * b,
}


def halves(t: Tensor) -> Tensor:
    """A gate and values in one tensor, of which the values are changed in place."""
    gate, values = t[:, :3], t[:, 3:]
    values.relu_()
    return torch.tanh(gate) * values


def part(t: Tensor, gate: Tensor) -> Tensor:
    """A part of the values is multiplied with the gate in place, and the rest is left out."""
    view = t[:, :2]
    view.mul_(gate[:, :2])
    return F.pad(t[:, :2], (0, 1))


def buffer(gate: Tensor) -> Tensor:
    """Two thirds of the gate, and what nothing is written into."""
    room = torch.zeros_like(gate)
    room[:, 1:] = gate[:, 1:]
    return room


@pytest.mark.parametrize("kind", ["no gate", "no values", "half of both"])
@pytest.mark.parametrize("name", OF_TWO)
def test_functions_of_a_gate_and_values(name: str, kind: str) -> None:
    torch.manual_seed(0)
    model = gated(OF_TWO[name], bias=False)
    assert_right(model, mask_of(model, kind))
    assert not pb.connectivity(model.float(), mask_of(model, kind), torch.ones(1, 4)).unknown


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell])
def test_recurrent_layers_without_a_candidate(layer: type[nn.Module]) -> None:
    """All that is written into the state is zero."""
    cell = issubclass(layer, nn.RNNCellBase)

    def run(net: Any, x: Tensor) -> Any:
        state = net.core(x[:, :2]) if cell else net.core(x.view(2, 1, 2))[0][-1]
        return net.head(state[0] if isinstance(state, tuple) else state)

    model = Net(run, core=layer(2, 3, bias=False), head=nn.Linear(3, 2))
    kept = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters() if p.dim() > 1}
    assert_right(model, pb.Mask(kept))
    for name, keep in kept.items():
        if name.startswith("core"):
            keep[6:9] = False
    assert_right(model, pb.Mask(kept))
    assert not pb.connectivity(model.float(), kept, torch.ones(1, 4)).connected


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_recurrent_layers_without_biases(layer: type[nn.Module]) -> None:
    """Whose first dimension is the batch: torch swaps it in place."""
    model = Net(
        lambda net, x: net.head(net.core(x.view(1, 2, 2))[0][:, -1]),
        core=layer(2, 3, bias=False, batch_first=True),
        head=nn.Linear(3, 2),
    )
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        kept = {n: torch.rand(p.shape, generator=generator) < 0.4 for n, p in model.named_parameters() if p.dim() > 1}
        assert_right(model, pb.Mask(kept))


# What is forbidden

FIRST = torch.tensor([True, True, False, False])
ODD = torch.tensor([True, False, True, False])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.masked_fill(FIRST, -math.inf),
        lambda x: x.masked_fill(FIRST, -math.inf).masked_fill(ODD, 0.0),
        lambda x: x.masked_fill(FIRST, -math.inf).masked_fill((x > 0) & ODD, -math.inf),
        lambda x: torch.where(ODD, x.masked_fill(FIRST, -math.inf), 1.0),
        lambda x: torch.where(x > 0, x.masked_fill(FIRST, -math.inf), x),
        lambda x: torch.where(x > 0, x, x.masked_fill(FIRST, -math.inf)),
        lambda x: (x + 0).masked_fill_(FIRST, -math.inf).masked_fill_(FIRST, 0.0),
        lambda x: (x + 0).masked_fill_(FIRST, -math.inf).masked_fill_(ODD, 0.0),
        lambda x: x.masked_fill(FIRST, -math.inf)[:, x[0].argsort()],
        lambda x: torch.baddbmm(
            torch.zeros(4).to(x).masked_fill(FIRST, -math.inf).view(1, 1, 4), torch.ones(1, 1, 1).to(x), x[None], beta=0
        )[0],
    ],
)
def test_what_no_longer_is_forbidden_passes(function: Callable[[Tensor], Tensor]) -> None:
    model = Net(
        lambda net, x: net.b(function(net.a(x)).softmax(1)),
        a=nn.Linear(4, 4, bias=False),
        b=nn.Linear(4, 2, bias=False),
    )
    kept = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    assert_right(model, pb.Mask(kept))


@pytest.mark.parametrize(("where", "value"), [(ODD, 0.0), (FIRST & ODD, -math.inf), (FIRST & ODD, 0.0)])
def test_what_stays_forbidden_does_not_pass(where: Tensor, value: float) -> None:
    def function(x: Tensor) -> Tensor:
        return x.masked_fill(FIRST, -math.inf).masked_fill(where, value).softmax(1)

    assert by_masks(function) == by_gradients(function)


def test_what_data_forbid_besides_leaves_what_is_forbidden() -> None:
    def function(x: Tensor) -> Tensor:
        return x.masked_fill(FIRST & ODD, -math.inf).masked_fill((x > 0) & FIRST, -math.inf).softmax(1)

    assert by_masks(function)[0] == by_gradients(function)[0] == [False] * 4
