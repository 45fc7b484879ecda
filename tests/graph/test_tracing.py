"""What is written down of a forward pass, and the state of torch in it and after it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.graph.tracing import Trace, trace
from tests.graph.kinds import Net


def flags() -> dict[str, object]:
    """Which fused kernels torch may take, and whether it computes gradients."""
    backends: Any = torch.backends
    return {
        "encoder": backends.mha.get_fastpath_enabled(),
        "attention": backends.cuda.flash_sdp_enabled(),
        "recurrent": backends.mkldnn.enabled,
        "recurrent on a GPU": backends.cudnn.enabled,
        "gradients": torch.is_grad_enabled(),
    }


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("recurrent", [False, True])
def test_nothing_is_fused_during_a_trace_and_everything_after_it(recurrent: bool, fails: bool) -> None:
    seen: list[dict[str, object]] = []

    def run(net: Any, x: Tensor) -> Tensor:
        seen.append(flags())
        if fails:
            raise pb.UserError("no")
        return net.a(x)  # type: ignore[no-any-return]

    model, before = Net(run, a=nn.Linear(4, 3), r=nn.GRU(2, 2) if recurrent else nn.ReLU()), flags()
    if fails:
        with pytest.raises(pb.UserError, match=r"^no$"):
            trace(model, torch.zeros(1, 4))
    else:
        trace(model, torch.zeros(1, 4))
    off = {"encoder", "attention", "gradients", *(["recurrent", "recurrent on a GPU"] if recurrent else [])}
    assert [{name for name in before if not found[name]} for found in seen] == [off]
    assert flags() == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def traced(function: Callable[[Any, Tensor], Any], **layers: nn.Module) -> Trace:
    return trace(Net(function, **layers).eval(), torch.zeros(2, 4))


def test_operations_are_named_with_their_modules_and_what_they_do() -> None:
    found = traced(
        lambda net, x: net.b(net.a(x)).relu_().view(-1), a=nn.Sequential(nn.Linear(4, 3), nn.ReLU()), b=nn.Linear(3, 2)
    )
    assert [str(operation) for operation in found.operations if operation.name != "t"] == [
        "addmm in 'a.0'",
        "relu in 'a.1'",
        "addmm in 'b'",
        "relu",
        "view",
    ]
    kinds = {
        (o.name, o.module): (o.in_place, o.is_view, o.pointwise, o.copies_view, o.random) for o in found.operations
    }
    assert kinds["relu", "a.1"] == (False, False, True, False, False)
    assert kinds["relu", ""] == (True, False, True, False, False)
    assert kinds["view", ""] == (False, True, False, False, False)
    assert kinds["addmm", "b"] == (False, False, False, False, False)


def test_functions_that_are_not_taken_apart_are_named_with_their_modules() -> None:
    def run(_net: Any, x: Tensor) -> Tensor:
        F.one_hot(torch.tensor(x.long().tolist()), 3)
        return F.normalize(x)

    found = traced(lambda net, x: net.a(x), a=nn.Sequential(nn.ReLU(), Net(run)))
    named = [str(one) for one in found.operations if one.name in ("normalisation", "one_hot", "_local_scalar_dense")]
    assert named == ["_local_scalar_dense in 'a.1'", "one_hot in 'a.1'", "normalisation in 'a.1'"]


def test_copies_of_views_and_random_numbers() -> None:
    found = traced(lambda net, x: torch.squeeze_copy(F.dropout(x, training=True)) * torch.rand(4))
    flags_of = {o.name: (o.copies_view, o.random) for o in found.operations}
    assert flags_of["squeeze"] == (True, False)
    assert flags_of["rand"] == (False, True)


@pytest.mark.parametrize(
    ("function", "gates"),
    [
        (lambda net, x: net.a(x) + x, False),
        (lambda net, x: torch.cat([net.a(x), x]), False),
        (lambda net, x: net.a(x) * net.g, False),
        (lambda net, x: net.a(x) * x, True),
        (lambda net, x: F.glu(net.a(x)), True),
        (lambda net, x: net.a(x).prod(1), True),
        (lambda net, x: net.a(x).cumprod(1), True),
        (lambda net, x: net.g.prod(0) + net.a(x), False),
        (lambda net, x: torch.where(x > 0, net.a(x), x), True),
    ],
)
def test_whether_a_value_may_stop_another_one(function: Callable[[Any, Tensor], Any], gates: bool) -> None:
    model = Net(function, a=nn.Linear(4, 4))
    model.register_parameter("g", nn.Parameter(torch.ones(4)))
    assert trace(model, torch.zeros(2, 4)).has_gates is gates


@pytest.mark.parametrize(
    ("function", "dims"),
    [
        (lambda x: F.normalize(x), (1,)),
        (lambda x: F.normalize(x, 2.0), (1,)),
        (lambda x: F.normalize(x, 2.0, 0), (0,)),
        (lambda x: F.normalize(x, dim=-1), (-1,)),
        (lambda x: F.normalize(x, 2.0, (0, 2)), (0, 2)),  # type: ignore[arg-type]
        (lambda x: F.rms_norm(x, (3, 4)), (-2, -1)),
        (lambda x: F.rms_norm(x, normalized_shape=(4,)), (-1,)),
        (lambda x: F.local_response_norm(x, 2), (1,)),
        (lambda x: F.local_response_norm(x, 2, 0.1, 0.5), (1,)),
    ],
)
def test_dimensions_over_which_statistics_are_taken(function: Callable[[Tensor], Tensor], dims: Sequence[int]) -> None:
    (operation,) = trace(Net(lambda net, x: function(x)), torch.ones(2, 3, 4)).operations
    assert (operation.name, operation.arguments["dims"]) == ("normalisation", dims)
    of = operation
    assert (of.in_place, of.is_view, of.copies_view, of.pointwise, of.random) == (False,) * 5


def test_memories_that_are_written_after_they_were_read() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        read, only_written, viewed = net.a(x), torch.zeros(2, 4), torch.zeros(2, 4)
        y = read * 2
        read.zero_()
        viewed.view(-1).fill_(1.0)
        only_written.fill_(2.0)
        return torch.stack([y, only_written, viewed, read]).sum(0)

    found = traced(run, a=nn.Linear(4, 4))
    (memory,) = found.rewritten
    assert memory == found.memory(next(o.results[0] for o in found.operations if o.name == "addmm"))


@pytest.mark.parametrize(
    ("code", "passes"),
    [
        (lambda x: F.one_hot(x, 7), True),
        (lambda x: F.one_hot(x, num_classes=7), True),
        (lambda x: F.one_hot(input=x, num_classes=7), True),  # type: ignore[call-arg]  # as torch takes it
        (lambda x: F.one_hot(x, -1), False),
        (lambda x: F.one_hot(x), False),
    ],
)
def test_codes_of_a_known_number_of_classes(code: Callable[[Tensor], Tensor], passes: bool) -> None:
    model = Net(lambda net, x: net.b(code(x).float().flatten(1)), b=nn.Linear(14, 3))
    mask, tokens = {"b.weight": torch.ones(3, 14, dtype=torch.bool)}, torch.tensor([[6, 0]])
    if passes:
        assert pb.connectivity(model, mask, tokens).effective_density == 1
    else:
        with pytest.raises(pb.UserError, match="different things for different data"):
            pb.connectivity(model, mask, tokens)


@dataclass
class Output:
    logits: Tensor
    name: str = "of a dataclass"


@pytest.mark.parametrize(
    "output",
    [lambda y: (y,), lambda y: [y], lambda y: {"a": {"b": [y]}}, lambda y: Output(y)],
    ids=["tuple", "list", "mapping", "dataclass"],
)
def test_outputs_in_containers(output: Callable[[Tensor], Any]) -> None:
    model = Net(lambda net, x: output(net.a(x)), a=nn.Linear(4, 3))
    assert pb.connectivity(model, {"a.weight": torch.ones(3, 4).bool()}, torch.zeros(1, 4)).connected


@pytest.mark.parametrize("output", [None, "text", {"a": "text"}])
def test_outputs_without_a_tensor(output: Any) -> None:
    with pytest.raises(pb.UserError, match=f"^Net returns {type(output).__name__}, in which there is no tensor"):
        traced(lambda net, x: output)
