"""The input and output of scoring: `Batch` and `Scores`."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pai_bench.support.arrays import as_tensor, hint_for
from pai_bench.support.errors import UserError

Scores = dict[str, Tensor]
"""Parameter name -> saliency, of the parameter's shape and device. The highest are kept."""

Loss = Callable[[Any, Tensor], Tensor]
"""A function of the network's output and the targets that returns a scalar: the mean over the examples."""


@dataclass(frozen=True)
class Batch:
    """Labelled examples: `inputs` of shape (N, ...) and class indices `targets` of shape (N,).

    * `loss`: a function of the network's output and the targets that returns a scalar, for networks that do not return
      logits of shape (N, classes). Then `targets` may be any tensor of N rows.
    * `batches`: number of score batches of equal size that the examples are divided into, in their order. Each goes
      through the network by itself, and L is the mean of their losses.

    NumPy arrays become tensors, those of float64 in torch's default type. Raises `UserError` for an empty batch, for
    targets that are not N class indices, and for N that `batches` does not divide.
    """

    inputs: Tensor
    targets: Tensor
    loss: Loss | None = None
    batches: int = 1

    def __post_init__(self) -> None:
        for role in ("inputs", "targets"):
            tensor = as_tensor(value := getattr(self, role), f"the batch's {role}")
            if tensor is not value and tensor.dtype is torch.float64:  # NumPy's default
                tensor = tensor.to(torch.get_default_dtype())
            object.__setattr__(self, role, tensor)
        if self.inputs.dim() == 0 or len(self.inputs) == 0:
            raise UserError("the batch is empty")
        size, shape, dtype = len(self.inputs), tuple(self.targets.shape), self.targets.dtype
        if self.loss is None:
            if shape != (size,) or dtype.is_floating_point or dtype.is_complex or dtype is torch.bool:
                raise UserError(f"targets must be {size} class indices, one per input, not {dtype} of shape {shape}")
            object.__setattr__(self, "targets", self.targets.long())
        elif shape[:1] != (size,):
            raise UserError(f"targets must have {size} rows, one per input, not the shape {shape}")
        if self.batches < 1 or size % self.batches:
            raise UserError(f"{size} examples cannot be divided into {self.batches} score batches of equal size")

    def __iter__(self) -> Iterator[Tensor]:
        yield self.inputs
        yield self.targets

    def to(self, device: torch.device | str) -> "Batch":
        """The same examples on `device`."""
        return dataclasses.replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))

    def split(self, size: int | None = None) -> "list[Batch]":
        """The score batches, each divided into micro-batches of at most `size` examples: views, in order."""
        whole = len(self.inputs) // self.batches
        return [
            dataclasses.replace(self, inputs=self.inputs[i:j], targets=self.targets[i:j], batches=1)
            for start in range(0, len(self.inputs), whole)
            for i in range(start, start + whole, size or whole)
            for j in [min(i + (size or whole), start + whole)]
        ]


BatchLike = Batch | tuple[Tensor | np.ndarray, Tensor | np.ndarray]


def as_batch(batch: BatchLike, loss: Loss | None = None) -> Batch:
    """A `Batch` from a `Batch` or an ``(inputs, targets)`` tuple, with `loss` if it is not None."""
    if isinstance(batch, Batch):
        return batch if loss is None else dataclasses.replace(batch, loss=loss)
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise UserError(f"a batch is a Batch or a tuple (inputs, targets), not {type(batch).__name__}{hint_for(batch)}")
    return Batch(*batch, loss=loss)  # type: ignore[arg-type]  # __post_init__ converts arrays
