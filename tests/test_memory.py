"""Whether memory was short, and how much there is."""

import pytest
import torch

from pai_bench.memory import free_bytes, no_memory


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
    assert no_memory(error) is short


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
