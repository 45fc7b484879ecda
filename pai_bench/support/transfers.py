"""What the host reads of a device: it waits for all that was queued there, so it reads several values at once."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def on_host(*tensors: Tensor) -> bool:
    """Whether the host reads `tensors` without waiting."""
    return all(tensor.device.type == "cpu" for tensor in tensors)


def read_scalars(scalars: Iterable[Tensor]) -> list[Any]:
    """The values of tensors of one element each, in any type and on any device, as Python's numbers."""
    values = list(scalars)
    if not values or on_host(*values):
        return [value.item() for value in values]
    if len({value.dtype for value in values}) > 1:  # or else integers would lose digits
        values = [value.double() for value in values]
    found: list[Any] = torch.stack([value.to(values[0].device) for value in values]).tolist()
    return found


def equal(pairs: Iterable[tuple[Tensor, Tensor]]) -> list[bool]:
    """Whether the tensors of each pair have the same shape and values."""
    both = list(pairs)
    if on_host(*(tensor for pair in both for tensor in pair)):
        return [torch.equal(one, other) for one, other in both]
    alike = [one.shape == other.shape for one, other in both]
    same = iter(read_scalars((one == other).all() for (one, other), fits in zip(both, alike, strict=True) if fits))
    return [fits and next(same) for fits in alike]


def counts(masks: Iterable[Tensor]) -> list[int]:
    """How many ``True`` each of some masks holds."""
    return read_scalars(mask.count_nonzero() if on_host(mask) else count(mask.reshape(-1)) for mask in masks)


WORDS = 128
"""So many times eight bytes of ones can be added without a carry."""


def count(mask: Tensor) -> Tensor:
    """How many ``True`` a flat mask holds; torch by itself would make an integer of eight bytes of each."""
    whole = len(mask) // (8 * WORDS) * 8 * WORDS
    if not whole:
        return mask.sum()
    return packed(mask[:whole]).sum() + mask[whole:].sum()


def packed(mask: Tensor) -> Tensor:
    """The sums (bytes) of a flat mask over groups that follow each other, eight in every ``8 * WORDS`` places."""
    mask = mask.contiguous() if mask.storage_offset() % 8 == 0 else mask.clone()  # words begin at whole words
    return mask.view(torch.int64).view(-1, WORDS).sum(1).view(torch.uint8)
