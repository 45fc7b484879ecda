"""What a batch holds and refuses, and how it is divided."""

from typing import Any

import numpy as np
import pytest
import torch

import pai_bench as pb
from pai_bench.scoring.batch import as_batch

X, Y = torch.arange(12.0).view(6, 2), torch.arange(6) % 2


def summed(output: Any, targets: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = output.sum() + targets.sum()
    return found


def test_arrays_of_numpy_take_the_type_that_torch_has_by_default() -> None:
    assert pb.Batch(X.numpy().astype(np.float64), Y).inputs.dtype == torch.float32  # type: ignore[arg-type]
    assert pb.Batch(X.numpy().astype(np.float16), Y).inputs.dtype == torch.float16  # type: ignore[arg-type]
    assert pb.Batch(X.double(), Y).inputs.dtype == torch.float64
    assert pb.Batch(X, Y.to(torch.uint8)).targets.dtype == torch.long
    assert pb.Batch(X, Y.double(), summed).targets.dtype == torch.float64


@pytest.mark.parametrize(
    ("inputs", "targets", "options", "message"),
    [
        (X[:0], Y[:0], {}, "the batch is empty"),
        (torch.tensor(1.0), Y[:1], {}, "the batch is empty"),
        (X, Y[:5], {}, r"targets must be 6 class indices, one per input, not torch.int64 of shape \(5,\)"),
        (X, Y.view(6, 1), {}, r"not torch.int64 of shape \(6, 1\)"),
        (X, Y.float(), {}, r"not torch.float32 of shape \(6,\)"),
        (X, Y.bool(), {}, r"not torch.bool of shape \(6,\)"),
        (X, Y.to(torch.complex64), {}, r"not torch.complex64 of shape \(6,\)"),
        (X, Y[:5], {"loss": summed}, r"targets must have 6 rows, one per input, not the shape \(5,\)"),
        (X, Y, {"batches": 0}, "6 examples cannot be divided into 0 score batches of equal size"),
        (X, Y, {"batches": 4}, "6 examples cannot be divided into 4 score batches of equal size"),
    ],
)
def test_what_is_no_batch(inputs: torch.Tensor, targets: torch.Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(pb.UserError, match=message):
        pb.Batch(inputs, targets, **options)


def test_one_example_and_targets_of_any_form_for_a_loss_of_ones_own() -> None:
    assert len(pb.Batch(X[:1], Y[:1]).inputs) == 1
    assert pb.Batch(X, Y.view(6, 1).float(), summed).targets.shape == (6, 1)


@pytest.mark.parametrize(
    ("batches", "size", "sizes"),
    [
        (1, None, [6]),
        (1, 4, [4, 2]),
        (1, 6, [6]),
        (1, 9, [6]),
        (2, None, [3, 3]),
        (2, 2, [2, 1, 2, 1]),
        (3, 2, [2, 2, 2]),
        (6, 1, [1] * 6),
    ],
)
def test_a_batch_is_divided_in_order(batches: int, size: int | None, sizes: list[int]) -> None:
    parts = pb.Batch(X, Y, batches=batches).split(size)
    assert [len(part.inputs) for part in parts] == [len(part.targets) for part in parts] == sizes
    assert torch.equal(torch.cat([part.inputs for part in parts]), X)
    assert torch.equal(torch.cat([part.targets for part in parts]), Y)
    assert {part.batches for part in parts} == {1}


def test_what_stands_for_a_batch() -> None:
    batch = pb.Batch(X, Y)
    assert as_batch(batch) is batch
    assert as_batch(batch, summed).loss is summed
    found = as_batch((X, Y), summed)
    assert (found.inputs is X, found.loss) == (True, summed)
    inputs, targets = batch.to("meta")
    assert (inputs.device.type, targets.device.type) == ("meta", "meta")
    others: list[tuple[Any, str]] = [((X, Y, Y), "tuple"), (X, "Tensor"), (None, "NoneType")]
    for other, kind in others:
        with pytest.raises(pb.UserError, match=rf"a batch is a Batch or a tuple \(inputs, targets\), not {kind}"):
            as_batch(other)
