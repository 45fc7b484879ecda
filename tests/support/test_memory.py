"""Whether memory was short, and how much there is."""

import ctypes
import os
import sys
import weakref
from pathlib import Path, PurePath
from types import SimpleNamespace

import pytest
import torch

from pai_bench.support import memory, timing
from pai_bench.support.memory import UNKNOWN, free_bytes, is_out_of_memory


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), False),
        (ValueError("the layer is called ALLOC_FAILED"), False),
    ],
)
def test_what_says_that_memory_was_short(error: Exception, short: bool) -> None:
    assert is_out_of_memory(error) is short


def test_freed_memory_is_kept_by_what_glibc_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """malloc.h has M_TRIM_THRESHOLD -1 and M_MMAP_THRESHOLD -3; more than 32 MiB are refused."""
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library if name is None else None)
    monkeypatch.setattr(sys, "platform", "linux")
    memory.keep_freed_memory.__wrapped__()
    assert calls == [(-3, 32 * 2**20), (-1, 2**31 - 1)]  # a C int
    for platform, without in (("darwin", library), ("linux", SimpleNamespace())):
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setattr(ctypes, "CDLL", lambda _name, without=without: without)
        memory.keep_freed_memory.__wrapped__()
    assert len(calls) == 2


def test_memory_that_torch_keeps_for_itself_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"mem_get_info": (1000, 80_000), "memory_reserved": 700, "memory_allocated": 500}
    for name, value in found.items():
        monkeypatch.setattr(torch.cuda, name, lambda _device, value=value: value)
    assert free_bytes(torch.device("cuda", 1)) == 1200


@pytest.mark.gpu
def test_memory_that_was_given_back_on_a_gpu_is_free() -> None:
    device = torch.device("cuda")
    block = torch.empty(2**28, dtype=torch.uint8, device=device)
    held = free_bytes(device)
    del block
    assert free_bytes(device) - held >= 2**28


def written(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_memory_that_a_container_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By either version of control groups, the smaller of two; page cache is free. The machine itself has more."""
    new = {"memory.max": "1000\n", "memory.current": "700\n", "memory.stat": "anon 5\ninactive_file 200\n"}
    old = {"memory.limit_in_bytes": "2000", "memory.usage_in_bytes": "50"}
    old["memory.stat"] = "inactive_file 1\ntotal_inactive_file 3\n"
    folders = [written(tmp_path / "new", new), written(tmp_path / "old", old)]
    versions = [(folder, *names) for folder, (_, *names) in zip(folders, memory.CONTAINERS, strict=True)]
    monkeypatch.setattr(memory, "CONTAINERS", versions)
    assert memory.free_in_container() == 1000 - 700 + 200
    assert free_bytes(torch.device("cpu")) == 500
    (tmp_path / "new" / "memory.max").write_text("max\n")  # without a limit
    assert memory.free_in_container() == 2000 - 50 + 3
    (tmp_path / "old" / "memory.stat").write_text("cache 1\n")
    assert memory.free_in_container() == UNKNOWN
    assert free_bytes(torch.device("cpu")) == pytest.approx(memory.free_on_machine(), rel=0.2)


def test_memory_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "MemTotal:  9000 kB\nMemAvailable:     5000 kB\n"
    monkeypatch.setattr(Path, "read_text", lambda _path: told)
    assert memory.free_on_machine() == 5000 * 1024
    told = "MemTotal: 9000 kB\n"  # of an old kernel
    monkeypatch.setattr(os, "sysconf", {"SC_AVPHYS_PAGES": 7, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert memory.free_on_machine() == 7 * 4096

    def silent(_name: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", silent)
    assert memory.free_on_machine() == UNKNOWN


def test_the_group_of_a_process_and_those_above_it_may_have_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smallest counts, from the process's own group up to the root."""
    told = "5:cpu,memory:/box:1/own\n4:memory_other:/none\n0::/slice/unit\n"
    read = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path: told if str(path) == "/proc/self/cgroup" else read(path))
    assert memory.own_groups() == (PurePath("slice/unit"), PurePath("box:1/own"))
    new, old = tmp_path / "new", tmp_path / "old"
    groups = {new: 9000, new / "slice": 500, new / "slice/unit": 700, old: 9000, old / "box:1": 400}
    for folder, limit in groups.items():
        names = memory.CONTAINERS[folder.is_relative_to(old)][1:]
        stat = f"{names[2]} 10\n"
        written(folder, {names[0]: str(limit), names[1]: "50", "memory.stat": stat})
    versions = [(folder, *names) for folder, (_, *names) in zip((new, old), memory.CONTAINERS, strict=True)]
    monkeypatch.setattr(memory, "CONTAINERS", versions)
    assert memory.free_in_container() == 400 - 50 + 10
    (old / "box:1" / "memory.limit_in_bytes").unlink()
    assert memory.free_in_container() == 500 - 50 + 10
    (new / "slice" / "memory.max").write_text("9000")
    assert memory.free_in_container() == 700 - 50 + 10
    (new / "slice/unit" / "memory.max").unlink()
    assert memory.free_in_container() == 9000 - 50 + 10  # the root's, as a container sees its own
    told = "nonsense\n"
    assert memory.own_groups() == (PurePath(), PurePath())


def test_memory_that_a_graph_writes_to_is_known_as_long_as_the_graph_is_used() -> None:
    class Player:
        pass

    player, tensor, other = Player(), torch.zeros(2), torch.zeros(2)
    memory.recorded_tensors[tensor] = weakref.ref(player)
    assert memory.is_recorded(tensor)
    assert not memory.is_recorded(other)
    del player
    assert not memory.is_recorded(tensor)


def test_memory_of_a_process_as_linux_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(timing, "PROC", tmp_path)
    assert timing.resident("VmRSS") is None  # not Linux
    written(tmp_path / "self", {"status": "VmRSSX: 9 kB\nVmHWM:\t  20 kB\nVmRSS:\t  12 kB\n"})
    monkeypatch.setattr(timing, "PROC", tmp_path / "self")
    assert (timing.resident("VmRSS"), timing.resident("VmHWM"), timing.resident("Vm")) == (12 * 1024, 20 * 1024, None)
    with timing.measured(cpu, memory=True) as found:
        assert (tmp_path / "self" / "clear_refs").read_text() == "5"
    assert found.peak_bytes == 8 * 1024
    assert found.device_seconds is None
    written(tmp_path / "less", {"status": "VmHWM: 1 kB\nVmRSS: 12 kB\n"})
    monkeypatch.setattr(timing, "PROC", tmp_path / "less")
    with timing.measured(cpu, memory=True) as found:
        pass
    assert found.peak_bytes == 0  # never less than what was there
    with timing.measured(cpu) as found:
        pass
    assert found.peak_bytes is None  # of a processor only where it is asked for
    (tmp_path / "less" / "clear_refs").unlink()
    (tmp_path / "less" / "clear_refs").mkdir()  # not allowed
    with timing.measured(cpu, memory=True) as found:
        pass
    assert found.peak_bytes is None
    assert 0 < found.seconds < 60
