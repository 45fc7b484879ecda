"""Device-true timing and peak memory."""

import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

PROC = Path("/proc/self")


@dataclass
class Measurement:
    """Wall-clock seconds of a block, and if it was measured, the peak of memory beyond what was there before."""

    seconds: float = 0.0
    peak_bytes: int | None = None


def synchronise(device: torch.device) -> None:
    """Wait until `device` has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def measured(device: torch.device, *, memory: bool | None = None) -> Iterator[Measurement]:
    """Measure a block on `device`.

    Memory is that of torch's allocator on CUDA, by default. For the CPU it is the resident memory of the process, as
    Linux counts it; only where it is asked for, since the block then starts without memory at hand and takes longer.
    """
    result = Measurement()
    synchronise(device)
    wanted = device.type == "cuda" if memory is None else memory
    before = reset_peak(device) if wanted else None
    start = time.perf_counter()
    yield result
    synchronise(device)
    result.seconds = time.perf_counter() - start
    if before is not None and (peak := peak_bytes(device)) is not None:
        result.peak_bytes = max(0, peak - before)


def reset_peak(device: torch.device) -> int | None:
    """Forget earlier peaks of memory; the bytes in use now, or None if they cannot be known."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)  # or else freed memory, kept for later, would be used without being seen
        (PROC / "clear_refs").write_text("5")
    except (OSError, AttributeError):  # not Linux, not its usual library, or not allowed
        return None
    return resident("VmRSS")


def peak_bytes(device: torch.device) -> int | None:
    """The peak of memory since `reset_peak`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident("VmHWM")


def resident(field: str) -> int | None:
    """A field of the process's memory status, in bytes."""
    try:
        lines = (PROC / "status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith(field + ":")]
    return int(found[0][1]) * 1024 if found else None


@dataclass(frozen=True)
class Timing:
    """Repeated measurements of one piece of work, each beside one of its floor, if it has one."""

    seconds: tuple[float, ...]
    floors: tuple[float, ...] = ()
    peak_bytes: int | None = None
    floor_peak_bytes: int | None = None
    cold: bool = False
    """Whether there was no warm-up."""

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)

    @property
    def iqr(self) -> float:
        """Interquartile range of the seconds; 0 for a single measurement."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return high - low

    @property
    def ratio(self) -> float | None:
        """Median seconds over the floor's."""
        return self.median / statistics.median(self.floors) if self.floors else None


def repeat(
    work: Callable[[], Any],
    device: torch.device,
    *,
    floor: Callable[[], Any] | None = None,
    rounds: int = 5,
    budget: float = 30.0,
) -> Timing:
    """Do `work` up to `rounds` times after a warm-up, for about `budget` seconds but once at least.

    The `floor` is measured by turns with it, so that whatever else the machine does meets both. Memory is measured
    during the warm-up. What takes longer than the budget has none: it is measured once, cold.
    """
    found: dict[Callable[[], Any], list[Measurement]] = {work: []} if floor is None else {floor: [], work: []}
    begin = time.perf_counter()
    for i in range(rounds + 1):
        for what, measurements in found.items():
            with measured(device, memory=i == 0) as one:
                what()
            measurements.append(one)
        if time.perf_counter() - begin > budget:
            break
    cold = len(found[work]) == 1
    seconds = {what: tuple(one.seconds for one in measurements[not cold :]) for what, measurements in found.items()}
    return Timing(
        seconds[work],
        () if floor is None else seconds[floor],
        found[work][0].peak_bytes,
        None if floor is None else found[floor][0].peak_bytes,
        cold,
    )
