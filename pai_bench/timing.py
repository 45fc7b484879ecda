"""Device-true timing and peak memory."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass
class Measurement:
    """Wall-clock seconds of a block, and the peak of device memory it took beyond what was there before."""

    seconds: float = 0.0
    peak_bytes: int | None = None


def synchronise(device: torch.device) -> None:
    """Wait until `device` has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def measured(device: torch.device) -> Iterator[Measurement]:
    """Measure a block on `device`. Peak memory is known on CUDA only."""
    result = Measurement()
    synchronise(device)
    before = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    start = time.perf_counter()
    yield result
    synchronise(device)
    result.seconds = time.perf_counter() - start
    if device.type == "cuda":
        result.peak_bytes = torch.cuda.max_memory_allocated(device) - before
