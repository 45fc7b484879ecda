"""Scores of groups, beside the gates that they are defined by, in float64."""

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.graph.flops import flops
from pai_bench.groups import Axis, GroupMask, Groups, find_groups, shrink
from pai_bench.masks import OneShot
from pai_bench.scoring import Batch, Criterion, MaskedModel, Scores, get_criterion
from pai_bench.scoring.structured import GroupScorer, score_groups
from pai_bench.support.errors import CriterionError, UserError
from tests.graph.kinds import Net
from tests.groups.made import made as with_groups
from tests.groups.networks import filled

PLAIN = [
    "mlp",
    "convolutions and flatten",
    "identity shortcut",
    "projected shortcut",
    "padded shortcut",
    "depthwise",
    "grouped",
    "concatenation",
    "channel shuffle",
    "squeeze and excite",
]
"""Networks whose layers are modules with one weight each."""


def made(name: str) -> tuple[nn.Module, Groups, tuple[Tensor, Tensor]]:
    """A network by its name, its groups, and a batch of six examples."""
    network, groups, inputs = with_groups(name, 6)
    return network, groups, (inputs, torch.arange(6) % network(inputs).shape[1])


def group_scores(text: str, network: nn.Module, batch: Any) -> Tensor:
    found = get_criterion(text).score(network, batch)
    assert isinstance(found, Tensor)
    return found


def times_inputs(factors: Tensor, _module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0] * factors,)


def times_output(factors: Tensor, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return output * factors


@contextmanager
def hooks(network: nn.Module, groups: Groups, gates: Tensor, axes: Any, *, of_inputs: bool) -> Iterator[None]:
    """Every unit's gate multiplies what its layers give, or what they read."""
    handles = []
    for name, dim in ((axis.name, axis.dim) for axis in axes if axis in groups.by_axis):
        of = groups.by_axis[Axis(name, dim)]
        factors = torch.where(of >= 0, gates[of.clamp(min=0)], 1.0)
        module = network.get_submodule(name.rpartition(".")[0])
        if of_inputs and isinstance(module, nn.Conv2d):
            factors = factors.repeat(module.groups)
        shape = (-1, 1, 1) if isinstance(module, nn.Conv2d) else (-1,)
        if of_inputs:
            handles.append(module.register_forward_pre_hook(functools.partial(times_inputs, factors.view(shape))))
        else:
            handles.append(module.register_forward_hook(functools.partial(times_output, factors.view(shape))))
    yield
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("gate", ["producer", "consumer"])
def test_snap_is_the_derivative_by_a_gate(name: str, gate: str) -> None:
    network, groups, (inputs, targets) = made(name)
    gates = torch.ones(groups.count, dtype=torch.float64, requires_grad=True)
    axes = groups.consumers if gate == "consumer" else groups.roots
    with hooks(network, groups, gates, axes, of_inputs=gate == "consumer"):
        loss = F.cross_entropy(network(inputs), targets)
    (expected,) = torch.autograd.grad(loss, gates)
    found = group_scores(f"snap:gate={gate}", network, (inputs, targets))
    torch.testing.assert_close(found, expected.abs(), rtol=1e-10, atol=1e-14)
    assert float(found.max()) > 1e-4


def test_snap_without_biases_and_of_several_roots() -> None:
    network, groups, (inputs, targets) = made("projected shortcut")
    loss = F.cross_entropy(network(inputs), targets)
    names = [("c", "b", "p"), ("weight", "bias")]
    parameters = {f"{n}.{k}": network.get_parameter(f"{n}.{k}") for n in names[0] for k in names[1]}
    grads = dict(zip(parameters, torch.autograd.grad(loss, [*parameters.values()]), strict=True))
    rows = {n: (parameters[n] * grads[n]).detach() for n in parameters}
    weight = {n: rows[f"{n}.weight"].flatten(1).sum(1) for n in names[0]}
    both = {n: weight[n] + rows[f"{n}.bias"] for n in names[0]}
    order = groups.by_axis[Axis("c.weight", 0)]
    stream = groups.by_axis[Axis("b.weight", 0)]
    for options, inner, joined in (
        ("", both["c"].abs(), (both["b"] + both["p"]).abs()),
        (":tied=sum", both["c"].abs(), both["b"].abs() + both["p"].abs()),
        (":tied=max", both["c"].abs(), torch.maximum(both["b"].abs(), both["p"].abs())),
        (":bias=false", weight["c"].abs(), (weight["b"] + weight["p"]).abs()),
    ):
        found = group_scores("snap" + options, network, (inputs, targets))
        torch.testing.assert_close(found[order], inner, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(found[stream], joined, rtol=1e-10, atol=1e-14)


def test_a_layer_that_adds_to_what_it_reads_is_a_root() -> None:
    """Of h + relu(c(h)), both layers have a gate behind the bias; one that is used once is not recurrent."""
    layers = {"a": nn.Linear(6, 5), "c": nn.Linear(5, 5), "d": nn.Linear(5, 3)}
    network = filled(Net(lambda m, x: m.d((h := m.a(x)) + F.relu(m.c(h))), **layers))
    a, c, d = (network.get_submodule(name) for name in "acd")
    inputs, targets = torch.randn(20, 6, dtype=torch.float64), torch.arange(20) % 3
    first, second = torch.ones(2, 5, dtype=torch.float64, requires_grad=True).unbind()
    h = first * a(inputs)
    loss = F.cross_entropy(d(h + F.relu(second * c(h))), targets)
    biases = a.get_parameter("bias"), c.get_parameter("bias")
    of_a, of_c, *of_biases = torch.autograd.grad(loss, (first, second, *biases))
    without = sum((g - b.detach() * of for g, b, of in zip((of_a, of_c), biases, of_biases, strict=True)), 0 * of_a)
    assert not bool(find_groups(network, inputs[:1]).gated.any())
    for options, expected in (
        ("", (of_a + of_c).abs()),
        (":gate=consumer", (of_a + of_c).abs()),  # equal with ReLU: the change of the loss without the unit
        (":tied=sum", of_a.abs() + of_c.abs()),
        (":tied=max", torch.maximum(of_a.abs(), of_c.abs())),
        (":bias=false", without.abs()),
    ):
        found = group_scores("snap" + options, network, (inputs, targets))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_a_weight_that_makes_and_reads_a_unit_has_one_gate_for_both() -> None:
    """Of a decoder with the encoder's weight, the factor multiplies the slice in both."""
    network = filled(
        Net(
            lambda m, x: m.o(F.relu(F.linear(F.relu(m.a(x)), m.a.weight.t(), m.s))),
            a=nn.Linear(6, 5),
            s=nn.Parameter(torch.ones(6)),
            o=nn.Linear(6, 3),
        )
    )
    a, o = (network.get_submodule(name) for name in "ao")
    weight, bias, other = a.get_parameter("weight"), a.get_parameter("bias"), network.get_parameter("s")
    inputs, targets = torch.randn(20, 6, dtype=torch.float64), torch.arange(20) % 3
    gates = torch.ones(5, dtype=torch.float64, requires_grad=True)
    rows = gates.view(-1, 1) * weight
    decoded = F.linear(F.relu(F.linear(inputs, rows, gates * bias)), rows.t(), other)
    (expected,) = torch.autograd.grad(F.cross_entropy(o(F.relu(decoded)), targets), gates)
    found = group_scores("snap", network, (inputs, targets))
    torch.testing.assert_close(found, expected.abs(), rtol=1e-10, atol=1e-14)
    rows = gates.view(-1, 1) * weight
    decoded = F.linear(F.relu(F.linear(inputs, rows, bias)), rows.t(), other)
    (expected,) = torch.autograd.grad(F.cross_entropy(o(F.relu(decoded)), targets), gates)
    for options in (":bias=false", ":gate=consumer"):
        found = group_scores("snap" + options, network, (inputs, targets))
        torch.testing.assert_close(found, expected.abs(), rtol=1e-10, atol=1e-14)


def test_the_gate_of_a_hidden_unit_stands_behind_its_output() -> None:
    network, groups, (inputs, targets) = made("LSTM, 1 layers, 1 directions")
    cell, gates = network.get_submodule("r"), torch.ones(6, dtype=torch.float64, requires_grad=True)
    w_ih, w_hh, b_ih, b_hh = (cell.get_parameter(f"{n}_l0") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    h = c = torch.zeros(len(inputs), 6, dtype=torch.float64)
    for step in inputs.unbind(1):
        i, f, g, o = (step @ w_ih.T + b_ih + h @ w_hh.T + b_hh).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = gates * o.sigmoid() * c.tanh()
    (expected,) = torch.autograd.grad(F.cross_entropy(network.get_submodule("o")(h), targets), gates)
    found = group_scores("snap", network, (inputs, targets))
    torch.testing.assert_close(found[groups.by_axis[Axis("o.weight", 1)]], expected.abs(), rtol=1e-10, atol=1e-14)


def test_the_gate_of_a_head_stands_behind_its_output() -> None:
    network, groups, (inputs, targets) = made("attention of one's own")
    gates = torch.ones(3, dtype=torch.float64, requires_grad=True)
    n, t, _ = inputs.shape
    q, k, v = network.get_submodule("qkv")(inputs).view(n, t, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
    heads = (q @ k.mT / 2).softmax(-1) @ v * gates.view(3, 1, 1)
    out = network.get_submodule("o")(heads.transpose(1, 2).flatten(2)).mean(1)
    (expected,) = torch.autograd.grad(F.cross_entropy(out, targets), gates)
    found = group_scores("snap", network, (inputs, targets))
    torch.testing.assert_close(found[groups.by_axis[Axis("o.weight", 1)][::4]], expected.abs(), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", [*PLAIN, "attention of one's own"])
def test_3sp_divides_by_what_the_network_saves_without_a_group(name: str) -> None:
    network, groups, (inputs, targets) = made(name)
    left = [len(groups.by_axis[a].unique()) for a in groups.roots if a in groups.by_axis]
    assert min(left) > 1
    saved, example = [], inputs[:1]
    for group in range(groups.count):
        kept = torch.arange(groups.count) != group
        saved.append(flops(network, example).total - flops(shrink(network, GroupMask(groups, kept)), example).total)
    scores = group_scores("3sp", network, (inputs, targets))
    plain = group_scores("3sp:compute_aware=false", network, (inputs, targets))
    torch.testing.assert_close(plain, group_scores("snap:bias=false", network, (inputs, targets)))
    torch.testing.assert_close(scores, plain / torch.tensor(saved, dtype=torch.float64), rtol=1e-10, atol=0)


def test_3sp_counts_its_own_rows_alone_if_asked_to() -> None:
    network, _, batch = made("mlp")
    own = group_scores("3sp:compute_aware=false", network, batch) / group_scores("3sp:cost=own", network, batch)
    expected = torch.cat([torch.full((8,), 2.0 * 5), torch.full((7,), 2.0 * 8)]).double()
    torch.testing.assert_close(own, expected)


def test_random_scores_are_those_of_the_seed() -> None:
    network, groups, batch = made("mlp")
    scores = group_scores("structured-random:seed=3", network, batch)
    assert scores.shape == (15,)
    assert torch.equal(scores, group_scores("structured-random:seed=3", network, batch))
    by_default, score = group_scores("structured-random:seed=0", network, batch), get_criterion("structured-random")
    assert torch.equal(by_default, score_groups(score, network, batch))
    with GroupScorer(score, network, groups) as scorer:  # type: ignore[arg-type]
        assert torch.equal(by_default, scorer.score(Batch(*batch)))
    assert not torch.equal(scores, group_scores("structured-random:seed=4", network, batch))
    assert bool(((scores >= 0) & (scores < 1)).all())


def test_scoring_leaves_the_network_as_it_is() -> None:
    network, _, batch = made("convolutions and flatten")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.random.get_rng_state()
    group_scores("snap", network.train(), batch)
    group_scores("structured-random", network, batch)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert network.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert math.isfinite(float(batch[0].sum()))


@pytest.mark.parametrize("name", ["projected shortcut", "grouped", "LSTM, 1 layers, 1 directions"])
def test_a_criterion_of_single_weights_over_the_rows_of_a_group(name: str) -> None:
    network, groups, batch = made(name)
    for of, options in (("magnitude", ""), ("snip:micro_batch=3", ""), ("grasp", ":of.temperature=3")):
        single: Scores = get_criterion(of + options.replace("of.", "")).score(network, batch)
        rows: list[list[Tensor]] = [[] for _ in range(groups.count)]
        for axis in groups.roots:
            if axis in groups.by_axis:
                score = single[axis.name].transpose(0, axis.dim)
                for group, row in zip(groups.by_axis[axis].tolist(), score, strict=True):
                    if group >= 0:
                        rows[group].append(row.flatten())
        joined = [torch.cat(parts) for parts in rows]
        for reduce, expected in (
            ("sum", [part.sum() for part in joined]),
            ("l2", [part.square().sum().sqrt() for part in joined]),
            ("mean", [part.mean() for part in joined]),
            ("gate", [part.sum().abs() for part in joined]),
        ):
            if reduce == "gate" and of.startswith("snip"):
                continue  # below
            text = f"group:of={of.replace(':', ':of.')}{options}:reduce={reduce}"
            found = group_scores(text, network, batch)
            torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-14)
            assert str(get_criterion(text)) == str(get_criterion(str(get_criterion(text))))


@pytest.mark.parametrize("of", ["snip", "iter-snip:of.bn=eval", "force:of.bn=eval", "snip-it"])
@pytest.mark.parametrize("name", ["projected shortcut", "grouped", "convolutions and flatten"])
def test_the_gate_of_snip_and_its_kind_is_snap(name: str, of: str) -> None:
    network, _, batch = made(name)
    loss = F.cross_entropy(network(batch[0]), batch[1]).item() if of == "snip-it" else 1.0
    found = group_scores(f"group:of={of}:reduce=gate", network, batch)
    torch.testing.assert_close(found * loss, group_scores("snap:bias=false", network, batch), rtol=1e-10, atol=1e-14)


def test_gates_of_scores_that_are_never_negative_are_their_sums() -> None:
    network, _, batch = made("projected shortcut")
    for of in ("magnitude", "synflow"):
        sums, gates = (group_scores(f"group:of={of}:reduce={reduce}", network, batch) for reduce in ("sum", "gate"))
        torch.testing.assert_close(gates, sums, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("group", 1),
        ("group:reduce=gate", 2),
        ("group:reduce=gate:accumulate=score", 3),
        ("snap", 1),
        ("snap:accumulate=score", 2),
        ("cnip:accumulate=score", 2),
    ],
)
def test_scores_that_were_once_others_count_as_another_version(text: str, version: int) -> None:
    assert get_criterion(text).configuration(OneShot())["revision"] == version


def test_3sp_by_the_norm_of_its_rows() -> None:
    network, groups, (inputs, targets) = made("projected shortcut")
    loss = F.cross_entropy(network(inputs), targets)
    weights = [network.get_parameter(f"{n}.weight") for n in ("c", "b", "p")]
    gradients = torch.autograd.grad(loss, weights)
    squares = [(w * g).detach().square().sum((1, 2, 3)) for w, g in zip(weights, gradients, strict=True)]
    found = group_scores("3sp:reduce=l2:compute_aware=false", network, (inputs, targets))
    expected = {"c": squares[0].sqrt(), "b": (squares[1] + squares[2]).sqrt()}
    for layer, norm in expected.items():
        torch.testing.assert_close(found[groups.by_axis[Axis(f"{layer}.weight", 0)]], norm, rtol=1e-10, atol=0)
    ratio = found / group_scores("3sp:reduce=l2", network, (inputs, targets))
    gates, divided = (group_scores(text, network, (inputs, targets)) for text in ("snap:bias=false", "3sp"))
    plain = gates / divided
    torch.testing.assert_close(ratio, plain, rtol=1e-10, atol=0)


def test_a_structured_criterion_of_a_structured_one_is_refused() -> None:
    with pytest.raises(UserError, match="scores groups itself"):
        get_criterion("group:of=snap")
    with pytest.raises(UserError, match="option of magnitude"):
        get_criterion("group:of=magnitude:of.temperature=3")
    for option in ("ties=keep", "biases=true"):
        with pytest.raises(UserError, match="ties and biases of single weights have no meaning for groups"):
            get_criterion(f"group:of=magnitude:of.{option}")


def test_the_mode_of_batch_norm_is_that_of_the_inner_criterion() -> None:
    message = r"^group:of=snip: snip, which gives the scores, has bn=eval; write of\.bn=train in the place of bn=train$"
    with pytest.raises(UserError, match=message):
        get_criterion("group:of=snip:bn=train")
    for text in ("group:of=snip:of.bn=train", "group:of=snip:of.bn=train:bn=train", "group:of=magnitude:bn=train"):
        assert get_criterion(str(get_criterion(text))) == get_criterion(text)


def test_scores_of_single_weights_are_not_to_be_had_of_a_structured_criterion() -> None:
    network, _, batch = made("mlp")
    refused = "scores whole units, not single weights"
    with pytest.raises(CriterionError, match=refused), pb.Pruner(network, "snap") as pruner:
        pruner.cut(batch, 0.5)
    with pytest.raises(CriterionError, match=refused):
        pb.prune(network, batch, "random", 0.5, variant="quota:snap")

    @dataclass(frozen=True)
    class Nested(Criterion):
        def score(self, model: MaskedModel, batch: Batch) -> Scores:
            return get_criterion("snap").score(model, batch)

    with pytest.raises(CriterionError, match=refused):
        Nested().score(network, batch)  # type: ignore[arg-type]  # as callers do
