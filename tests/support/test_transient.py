"""Which errors may pass."""

import errno
import os

import pytest
import torch

import pai_bench as pb
from pai_bench.support.transient import passes


def led_to(cause: Exception | None = None, context: Exception | None = None) -> Exception:
    """An error that was raised from a cause, or while another one was handled."""
    error = pb.UserError("it cannot be read")
    error.__context__ = context
    if cause is not None:
        error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("can't start new thread"),
        RuntimeError(f"unable to open file </torch_1>: {os.strerror(errno.EMFILE)} ({errno.EMFILE})"),
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
        TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
        *(OSError(code, os.strerror(code)) for code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)),
        *(OSError(code, os.strerror(code)) for code in (errno.ESTALE, errno.EIO)),
    ],
    ids=repr,
)
def test_what_others_use_up_and_network_file_systems_pass(error: Exception) -> None:
    assert passes(error)
    assert passes(led_to(cause=error))
    assert passes(led_to(context=error))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("no score today"),
        ZeroDivisionError(),
        pb.UserError("no memory for this"),
        TimeoutError("by the formula itself"),
        KeyboardInterrupt(),
        *(OSError(code, os.strerror(code)) for code in (errno.ENOENT, errno.EACCES, errno.ENOSPC, errno.EDQUOT)),
    ],
    ids=repr,
)
def test_the_own_errors_of_a_trial_stay(error: BaseException) -> None:
    assert not passes(error)


def test_an_error_whose_context_is_suppressed_or_that_is_its_own_cause() -> None:
    error = ValueError("from none")
    error.__context__, error.__suppress_context__ = MemoryError(), True
    assert not passes(error)
    error.__cause__ = error
    assert not passes(error)
