"""Reading values of a device. The host waits for all that is queued there, so it reads several at once."""

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
    numbers: list[Any] = torch.stack([value.to(values[0].device) for value in values]).tolist()
    return numbers


def equal(pairs: Iterable[tuple[Tensor, Tensor]]) -> list[bool]:
    """Whether the tensors of each pair have the same shape and values."""
    pairs = list(pairs)
    if on_host(*(tensor for pair in pairs for tensor in pair)):
        return [torch.equal(first, second) for first, second in pairs]
    comparable = [(first, second) for first, second in pairs if first.shape == second.shape]
    results = iter(read_scalars((first == second).all() for first, second in comparable))
    return [first.shape == second.shape and next(results) for first, second in pairs]


def counts(masks: Iterable[Tensor]) -> list[int]:
    """The number of ``True`` in each mask."""
    return read_scalars(mask.count_nonzero() if on_host(mask) else count(mask.reshape(-1)) for mask in masks)


WORDS = 128
"""So many times eight bytes of ones can be added without a carry."""


def count(mask: Tensor) -> Tensor:
    """The number of ``True`` in a flat mask; torch by itself would make an integer of eight bytes of each element."""
    aligned = len(mask) // (8 * WORDS) * 8 * WORDS
    if not aligned:
        return mask.sum()
    return packed(mask[:aligned]).sum() + mask[aligned:].sum()


def packed(mask: Tensor) -> Tensor:
    """The sums (bytes) of a flat mask over groups that follow each other, eight in every ``8 * WORDS`` places."""
    mask = mask.contiguous() if mask.storage_offset() % 8 == 0 else mask.clone()  # words begin at whole words
    return mask.view(torch.int64).view(-1, WORDS).sum(1).view(torch.uint8)
