"""Memory: how much is free, whether it was short, and how the processor's is kept between training steps."""

import ctypes
import functools
import os
import sys
from pathlib import Path, PurePath

import torch
from torch.utils.weak import WeakTensorKeyDictionary

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 32 * 2**20
"""The largest threshold that glibc accepts."""

UNKNOWN = 2**62
"""Bytes that are free where the system does not say."""

CONTAINERS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Folder, limit, usage, and the part of it that is page cache, by version of control groups."""


@functools.cache
def keep_freed_memory() -> None:
    """Let this process keep the memory that tensors give back, for the next ones, on Linux with glibc.

    By default, glibc returns large blocks to the system, and every step has to have its pages made again: 74,000 page
    faults, a tenth of the time, in a step of VGG-11 at 32 x 32 and a batch of 128. The process keeps its peak of
    memory until it ends, so this is for processes that are there to train.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_MMAP_THRESHOLD, LARGEST)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


OUT_OF_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED")
"""In messages of the processor's allocator and of CUDA's libraries, which have no error type of their own."""


recorded_tensors: "WeakTensorKeyDictionary" = WeakTensorKeyDictionary()
"""Tensors that a recorded CUDA graph writes to -> a weak reference to the object that replays it.

A graph writes to the memory that it was recorded with, even if that is shared by now, to be copied when written to.
"""


def is_recorded(tensor: torch.Tensor) -> bool:
    """Whether a graph that is still in use writes to `tensor`, so that its memory must not be shared."""
    if not recorded_tensors:  # a lookup takes longer
        return False
    replayer = recorded_tensors.get(tensor)
    return replayer is not None and replayer() is not None


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory was short, of a device or of the processor."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def free_bytes(device: torch.device) -> int:
    """Free memory: without swapping, and within what a container may use."""
    if device.type == "cuda":
        # torch keeps some for its next tensors
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return min(free_on_machine(), free_in_container())


def free_on_machine() -> int:
    """Free memory of the system, with the page cache, which it can give up."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, ValueError, KeyError):
        try:
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError, AttributeError):  # a system that does not say
            return UNKNOWN


def free_in_container() -> int:
    """Free memory of all control groups that hold this process, of version 2 or 1, with the page cache."""
    free = UNKNOWN
    for (root, limit, used, cache), path in zip(CONTAINERS, own_groups(), strict=True):
        for folder in (root / path, *(root / path).parents[: len(path.parts)]):
            try:
                used_bytes = int((folder / used).read_text())
                fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                free = min(free, int((folder / limit).read_text()) - used_bytes + int(fields[cache]))
            except (OSError, ValueError, KeyError):  # none of this version, or without a limit
                continue
    return free


def own_groups() -> tuple[PurePath, PurePath]:
    """The control groups of this process, of version 2 and of version 1 for memory, below their roots."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):  # a system without them
        lines = []
    groups = dict.fromkeys(("", "memory"), PurePath())  # by controller, which version 2 has none of
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        groups |= dict.fromkeys(controllers.split(","), PurePath(path.lstrip("/")))
    return groups[""], groups["memory"]
