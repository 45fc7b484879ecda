"""Private copies: which memory they share, what shows a change of a network, and their data types."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pai_bench as pb
from pai_bench.networks.private_copy import (
    convert_for_scoring,
    copied,
    fingerprints,
    float_dtypes,
    has_default_copy,
    private_copy,
    scoring_dtype,
    shared,
    still_shared,
)


def network() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout())


def test_memory_is_shared_until_somebody_writes() -> None:
    tensor = torch.arange(4.0)
    twin = shared(tensor)
    assert still_shared(twin)
    tensor.add_(1)
    assert still_shared(twin)  # nobody has written to it
    assert twin.tolist() == [0, 1, 2, 3]
    twin.add_(2)
    assert not still_shared(twin)
    assert (tensor.tolist(), twin.tolist()) == ([1, 2, 3, 4], [2, 3, 4, 5])


@pytest.mark.parametrize(
    "tensor",
    [torch.arange(8.0)[2:6], torch.from_numpy(np.arange(4.0)), torch.ones(1).expand(4), torch.ones(4).to_sparse()],
    ids=["a view", "of numpy", "expanded", "sparse"],
)
def test_other_memory_is_copied_at_once(tensor: Tensor) -> None:
    twin = shared(tensor)
    assert not still_shared(twin)
    assert torch.equal(twin.to_dense(), tensor.to_dense())


def test_gradients_and_modes_of_a_copy() -> None:
    model = network()
    for mode in ("train", "eval"):
        twin: Any = private_copy(model, ["0.weight"], mode, {"0.weight": torch.ones(3, 4)})
        assert {name for name, parameter in twin.named_parameters() if parameter.requires_grad} == {"0.weight"}
        assert twin[0].weight.tolist() == [[1.0] * 4] * 3
        assert torch.equal(twin[0].bias, model[0].bias)
        assert [module.training for module in twin.modules()] == [False, False, mode == "train", False]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_only_scored_parameters_need_values() -> None:
    model = network()
    model[0] = nn.Linear(4, 3, device="meta")
    with pytest.raises(pb.UserError, match=r"^'0\.weight' is on the device meta"):
        private_copy(model, ["0.weight"], "eval")
    private_copy(model, ["1.weight"], "eval")


class Own(nn.Parameter):
    """Gives itself when it is copied."""

    def __deepcopy__(self, memo: Any) -> "Own":
        return self


def test_a_parameter_that_gives_itself_as_its_copy_is_named() -> None:
    model = network()
    model[0].bias = Own(torch.zeros(3))
    for module, name in ((model, "0.bias"), (model[0], "bias")):
        with pytest.raises(pb.UserError, match=rf"^'{name}', a Own, gives itself when it is copied"):
            private_copy(module, [], "eval")


class Failing(nn.Linear):
    def __deepcopy__(self, memo: Any) -> "Failing":
        raise TypeError("not me")


def test_a_network_that_cannot_be_copied_is_named() -> None:
    with pytest.raises(pb.UserError, match=r"^Sequential cannot be copied for scoring: not me$"):
        copied(nn.Sequential(Failing(2, 2)))


def test_a_copy_has_what_the_network_has() -> None:
    model = network()
    model.notes, model.empty, model.ordered = {"a": [1]}, {}, OrderedDict()
    model.steps = [model[0], "b"]
    twin: Any = copied(model)
    assert (twin.notes, twin.empty, twin.ordered) == ({"a": [1]}, {}, OrderedDict())
    assert type(twin.ordered) is OrderedDict
    assert twin.notes["a"] is not model.notes["a"]
    assert twin.empty is not model.empty
    assert twin.steps[0] is twin[0]
    twin.register_forward_hook(lambda *_given: None)
    assert not model._forward_hooks


@pytest.mark.parametrize("keep", [lambda h: h, lambda h: [1, h], lambda h: {"h": h}, lambda h: (h,)])
def test_what_a_forward_pass_has_left_is_copied_without_its_graph(keep: Callable[[Tensor], Any]) -> None:
    model = network().eval()
    model.last = keep(model(torch.ones(2, 4)))
    twin: Any = copied(model)
    last = twin.last
    found = last if isinstance(last, Tensor) else list(last.values() if isinstance(last, dict) else last)[-1]
    assert found.grad_fn is None
    assert torch.equal(found, model(torch.ones(2, 4)))


CHANGES: dict[str, tuple[str, Callable[[Any], object]]] = {
    "mode": ("2", lambda m: m[2].eval()),
    "mode of all": ("Sequential", lambda m: setattr(m, "training", False)),
    "hook": ("0", lambda m: m[0].register_forward_hook(lambda *_given: None)),
    "hook before": ("1", lambda m: m[1].register_forward_pre_hook(lambda *_given: None)),
    "values": ("0.weight", lambda m: m[0].weight.detach().zero_()),
    "frozen": ("0.bias", lambda m: m[0].bias.requires_grad_(False)),
    "another": ("1.weight", lambda m: setattr(m[1], "weight", nn.Parameter(torch.ones(3)))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_shows_where_it_was_made(change: str) -> None:
    model = network()
    before = fingerprints(model)
    assert list(before) == ["Sequential", "0", "0.weight", "0.bias", "1", "1.weight", "1.bias", "2"]
    assert fingerprints(model) == before
    name, make = CHANGES[change]
    make(model)
    after = fingerprints(model)
    assert [key for key in before if before[key] != after[key]] == [name]


@pytest.mark.parametrize(
    ("dtype", "option", "expected"),
    [
        (torch.float16, None, torch.float32),
        (torch.bfloat16, None, torch.float32),
        (torch.float32, None, torch.float32),
        (torch.float64, None, torch.float64),
        (torch.float16, "float64", torch.float64),
        (torch.float32, "float64", torch.float64),
        (torch.float64, "float32", torch.float32),
        (torch.int64, "float64", torch.int64),
    ],
)
def test_data_types_of_scoring(dtype: torch.dtype, option: str | None, expected: torch.dtype) -> None:
    assert scoring_dtype(torch.ones(1).to(dtype), option) is expected


def test_a_copy_is_converted_where_it_has_to_be() -> None:
    model = network()
    assert not convert_for_scoring(copy.deepcopy(model), None)
    assert float_dtypes(model) == {torch.float32}
    assert convert_for_scoring(model, "float64")
    assert float_dtypes(model) == {torch.float64}
    assert model[1].running_mean.dtype is torch.float64
    assert model[1].num_batches_tracked.dtype is torch.int64
    model.register_parameter("table", nn.Parameter(torch.arange(3), requires_grad=False))
    assert float_dtypes(model) == {torch.float64}


class Restored(nn.Linear):
    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]


class Made(nn.Linear):
    def __new__(cls, *args: Any) -> "Made":
        return super().__new__(cls)


@pytest.mark.parametrize(
    ("cls", "default"),
    [
        *((cls, True) for cls in (nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.MultiheadAttention, nn.Sequential)),
        *((cls, False) for cls in (nn.LSTM, Restored, Made, Failing)),
    ],
)
def test_which_layers_are_copied_part_by_part(cls: type[nn.Module], default: bool) -> None:
    assert has_default_copy(cls) is default
