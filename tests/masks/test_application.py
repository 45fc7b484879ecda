"""Masks applied in place: the values, and how many operations that takes."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pai_bench.masks.application import MaskEnforcer, narrow_, zero_
from pai_bench.support import transfers


class Names(TorchDispatchMode):
    """Writes down the operations of torch."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def example() -> tuple[list[Tensor], list[Tensor]]:
    weights = [torch.arange(1.0, 5.0), -torch.ones(2, 2, dtype=torch.float64)]
    return weights, [torch.tensor([True, False, True, False]), torch.eye(2, dtype=torch.bool)]


def test_whatever_is_removed_becomes_zero() -> None:
    weights = [torch.tensor([torch.nan, 1.0, -torch.inf])]
    zero_(weights, [torch.tensor([True, False, True])])
    assert weights[0].tolist() == [0.0, 1.0, 0.0]


def test_removed_weights_become_zero_in_one_operation_for_all_layers() -> None:
    weights, masks = example()
    enforce = MaskEnforcer(weights, masks)
    with Names() as names:
        enforce()
    assert names.seen == ["_foreach_mul_"]
    assert weights[0].tolist() == [1, 0, 3, 0]
    assert weights[1].tolist() == [[-1, 0], [0, -1]]
    enforce.replace([~mask for mask in masks])
    enforce()
    assert not any(weight.any() for weight in weights)
    MaskEnforcer([], [])()  # a network may have nothing to enforce


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_a_mask_is_narrowed(order: torch.memory_format, far: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if far:  # as on a GPU
        monkeypatch.setattr(transfers, "on_host", lambda *_tensors: False)
    weight = torch.arange(1.0, 17.0).view(1, 4, 2, 2).to(memory_format=order)
    first, second = (torch.arange(16).view(1, 4, 2, 2) % step == 0 for step in (2, 4))
    narrow_(weight, first, None)
    assert weight.flatten().tolist() == [1, 0, 3, 0, 5, 0, 7, 0, 9, 0, 11, 0, 13, 0, 15, 0]
    with Names() as names:
        narrow_(weight, second, first)
    assert ("mul_" in names.seen) is (far or not weight.is_contiguous())  # or else only what is removed is written
    assert weight.flatten().tolist() == [1, 0, 0, 0, 5, 0, 0, 0, 9, 0, 0, 0, 13, 0, 0, 0]


@pytest.mark.parametrize(("at_once", "operations"), [(False, ["masked_fill_"] * 2), (True, ["_foreach_mul_"])])
def test_layers_on_a_gpu_are_enforced_one_after_the_other_unless_they_are_many(
    at_once: bool, operations: list[str]
) -> None:
    with FakeTensorMode():
        weights = [tensor.to("cuda") for tensor in (torch.ones(4), torch.ones(2, 2))]
        masks = [weight > 0 for weight in weights]
        enforce = MaskEnforcer(weights, masks, all_at_once=at_once) if at_once else MaskEnforcer(weights, masks)
        with Names() as names:
            enforce()
    assert names.seen == operations
