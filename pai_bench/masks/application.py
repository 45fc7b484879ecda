"""Masks applied to weights in place: once, cut by cut, or after every training step."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from pai_bench.masks.selection import positions
from pai_bench.support import transfers
from pai_bench.support.torch_internals import foreach_mul_


@torch.no_grad()
def zero_(weights: Iterable[Tensor], removed: Iterable[Tensor]) -> None:
    """Set `weights` to exactly 0.0, in place, where `removed` (bool, of their shapes) is True; NaN and infinity too."""
    for weight, where in zip(weights, removed, strict=True):
        weight.masked_fill_(where, 0.0)


@torch.no_grad()
def narrow_(weight: Tensor, mask: Tensor, previous: Tensor | None) -> None:
    """Multiply `weight` with `mask` in place, where it is already zero outside of the `previous` mask, if there is one.

    A schedule of many cuts removes few weights in each, so only these are written on a processor.
    """
    if previous is None or not transfers.on_host(weight) or not weight.is_contiguous():
        weight.mul_(mask)
    else:
        weight.view(-1)[positions((mask ^ previous).reshape(-1))] = 0


class MaskEnforcer:
    """Sets removed weights to zero, again and again: all layers in one call, or on CUDA one layer after the other.

    A mask of the weights' dtype is five times faster than a bool one on a processor. On CUDA a step of a small network
    is bound by memory, of which a bool mask takes a quarter; with `all_at_once`, for many small layers, it is not used.
    """

    def __init__(self, weights: Sequence[Tensor], masks: Sequence[Tensor], *, all_at_once: bool = False) -> None:
        self.weights = list(weights)
        self._by_layer = not all_at_once and any(weight.device.type == "cuda" for weight in weights)
        dtypes = [torch.bool if self._by_layer else weight.dtype for weight in weights]
        self.masks = [  # as they are applied: inverted, for a bool mask
            torch.empty_like(weight, dtype=dtype, requires_grad=False)
            for weight, dtype in zip(weights, dtypes, strict=True)
        ]
        self.replace(masks)

    def replace(self, masks: Sequence[Tensor]) -> None:
        """Enforce other `masks` of the same weights, written into the same memory, which a recorded step refers to."""
        for own, mask in zip(self.masks, masks, strict=True):
            own.copy_(~mask if self._by_layer else mask)

    def keeps(self) -> list[Tensor]:
        """The present masks: which weights are kept (bool)."""
        return [~mask if self._by_layer else mask.bool() for mask in self.masks]

    @torch.no_grad()
    def __call__(self) -> None:
        """Set the removed weights to zero."""
        if self._by_layer:
            zero_(self.weights, self.masks)
        elif self.weights:
            foreach_mul_(self.weights, self.masks)
