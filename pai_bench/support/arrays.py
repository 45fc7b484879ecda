"""Tensors from arrays and lists, hints for what cannot become one, and the device and precision of new tensors."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pai_bench.support.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")

MAX_LABELS = 10
"""Labels that a message lists at most."""


def on_cpu(function: Callable[P, R]) -> Callable[P, R]:
    """`function` with new tensors on the processor, unless it says otherwise, whatever default the caller has set."""

    @functools.wraps(function)
    def wrapper(*arguments: P.args, **options: P.kwargs) -> R:
        if torch.get_default_device().type == "cpu":
            return function(*arguments, **options)
        with torch.device("cpu"):
            return function(*arguments, **options)

    return wrapper


def with_torch_defaults(function: Callable[P, R]) -> Callable[P, R]:
    """`function` with new tensors in single precision and on the processor, whatever default the caller has set.

    A result that is stored may not depend on what is not stored.
    """

    @functools.wraps(function)
    def wrapper(*arguments: P.args, **options: P.kwargs) -> R:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            return on_cpu(function)(*arguments, **options)
        finally:
            torch.set_default_dtype(before)

    return wrapper


@on_cpu
def as_tensor(value: Any, what: str) -> Tensor:
    """`value` as a tensor, which shares the memory of an array if it can; an error about `what` it is if it cannot."""
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, (list, tuple)) and not hasattr(value, "__array__"):
        raise UserError(f"{what} must be a tensor or an array, not {type(value).__name__}{hint_for(value)}")
    try:
        array = np.asarray(value)
        shared = array.flags.writeable and all(stride >= 0 for stride in array.strides)
        return torch.from_numpy(array if shared else array.copy())
    except (ValueError, TypeError, RuntimeError) as error:  # rows of several lengths, texts, tensors of another device
        raise UserError(f"{what} must be a tensor or an array of numbers: {error}") from error


def hint_for(value: Any) -> str:
    """How to get inputs and targets out of an object that holds them; empty for other objects."""
    if isinstance(value, DataLoader):
        return "; inputs, targets = next(iter(loader)) takes a batch of it"
    if isinstance(value, Dataset):
        return "; inputs, targets = next(iter(torch.utils.data.DataLoader(dataset, batch_size=len(dataset)))) takes all"
    if hasattr(value, "score_batch"):  # one of our own
        return "; data.score_batch(100, seed=0) draws a batch of it"
    return ""


def list_labels(labels: Tensor) -> str:
    """The different labels, in order, the first few of many."""
    different = torch.unique(labels).tolist()
    more = f" and {len(different) - MAX_LABELS:,} more" if len(different) > MAX_LABELS else ""
    return ", ".join(map(str, different[:MAX_LABELS])) + more
