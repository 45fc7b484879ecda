"""Device-true timing and peak memory."""

import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

PROC = Path("/proc/self")

WARM_ROUNDS, WARM_SECONDS = 3, 0.5
"""Rounds of a warm-up, and its length: libraries choose their kernels, and a device's clock goes up."""

MIN_ROUNDS, MAX_ROUNDS, MEASURED_SECONDS = 5, 20, 1.0
"""Rounds that are measured at least, if there is time, and at most, and for how many seconds."""


@dataclass
class Measurement:
    """Wall-clock seconds of a block, and what else was measured of it."""

    seconds: float = 0.0
    peak_bytes: int | None = None
    """Of memory, beyond what was in use before."""
    device_seconds: float | None = None
    """On CUDA, between the first and the last work on the device."""


def synchronise(device: torch.device) -> None:
    """Wait until `device` has done all that was queued."""
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
    before = reset_peak(device) if memory or (memory is None and device.type == "cuda") else None
    start, first = time.perf_counter(), record_event(device)
    yield result
    last = record_event(device)
    synchronise(device)
    result.seconds = time.perf_counter() - start
    if first is not None and last is not None:
        result.device_seconds = first.elapsed_time(last) / 1000
    if before is not None and (peak := peak_bytes(device)) is not None:
        result.peak_bytes = max(0, peak - before)


def record_event(device: torch.device) -> torch.cuda.Event | None:
    """An event in the queue of a CUDA device, which gives the time between it and another one."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


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
    values = [line.split()[1] for line in lines if line.startswith(field + ":")]
    return int(values[0]) * 1024 if values else None


@dataclass(frozen=True)
class Timing:
    """Repeated measurements of one piece of work, each beside one of its floor, if it has one."""

    seconds: tuple[float, ...]
    floors: tuple[float, ...] = ()
    peak_bytes: int | None = None
    floor_peak_bytes: int | None = None
    cold: bool = False
    """Whether there was no warm-up."""
    device_seconds: float | None = None
    """Median seconds on the device, where it has its own time."""
    floor_device_seconds: float | None = None

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)

    @property
    def iqr(self) -> float:
        """Interquartile range of the seconds; 0 for a single measurement."""
        return interquartile_range(self.seconds)

    @property
    def ratio(self) -> float | None:
        """Median seconds over the floor's."""
        return self.median / statistics.median(self.floors) if self.floors else None


def interquartile_range(values: Sequence[float]) -> float:
    """The interquartile range of some values; 0 for a single one."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def repeat(
    work: Callable[[], Any],
    device: torch.device,
    *,
    floor: Callable[[], Any] | None = None,
    rounds: int | None = None,
    budget: float = 30.0,
) -> Timing:
    """Measure `work` after a warm-up, `rounds` times, or `MIN_ROUNDS` times and more within `MEASURED_SECONDS`.

    Each round measures the `floor` as well, so that what else the machine does affects both. Memory is that of the
    second round of the warm-up, where there is one: the first may get workspaces that are kept. No round but the first
    begins after `budget` seconds; what takes longer has no warm-up, except on CUDA, where it always has.
    """
    tasks = [work] if floor is None else [floor, work]
    begin, warm, timed = time.perf_counter(), list[list[Measurement]](), list[list[Measurement]]()
    least, most = (MIN_ROUNDS, MAX_ROUNDS) if rounds is None else (rounds, rounds)

    def elapsed() -> float:
        return time.perf_counter() - begin

    def measure_all(*, memory: bool) -> list[Measurement]:
        measurements = []
        for task in tasks:
            with measured(device, memory=memory) as measurement:
                task()
            measurements.append(measurement)
        return measurements

    def is_warm() -> bool:
        if elapsed() + 2 * elapsed() / len(warm) > budget:  # the rest is for measuring
            return True
        ready = len(warm) >= WARM_ROUNDS, elapsed() >= WARM_SECONDS
        # a processor has its clock up, and its libraries have little to find out
        return all(ready) if device.type == "cuda" else len(warm) > 1 and any(ready)

    def is_done(start: float) -> bool:
        if elapsed() > budget:
            return bool(timed) or device.type != "cuda"
        return len(timed) >= least and (len(timed) >= most or elapsed() - start >= MEASURED_SECONDS)

    while not warm or not is_warm():
        warm.append(measure_all(memory=len(warm) < 2))
    start = elapsed()
    while not is_done(start):
        timed.append(measure_all(memory=False))
    seconds, device_seconds = [], []
    for rounds_of_task in zip(*(timed or warm), strict=True):
        seconds.append(tuple(measurement.seconds for measurement in rounds_of_task))
        values = [m.device_seconds for m in rounds_of_task if m.device_seconds is not None]
        device_seconds.append(statistics.median(values) if values else None)
    peaks = [measurement.peak_bytes for measurement in warm[:2][-1]]
    if floor is None:
        return Timing(seconds[0], (), peaks[0], None, not timed, device_seconds[0])
    return Timing(seconds[1], seconds[0], peaks[1], peaks[0], not timed, device_seconds[1], device_seconds[0])
