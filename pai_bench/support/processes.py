"""Processes of Python beside this one: how they start and end."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import FrameType

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""By which libraries let themselves be told how many threads to use."""


ENDING = (signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
"""Signals that ask a process to end: of a batch system, or of a terminal that is closed."""


HEARTBEAT = 5.0
"""Seconds between two signs of life of a process to its parent."""


@contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """A block that SIGTERM and SIGHUP end as an interrupt does, so that what is at work is put in order.

    One that is ignored, as SIGHUP by ``nohup``, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    taken = [number for number, handler in before.items() if handler is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """A block that an interrupt does not break off: the handler of its signal is called at its end.

    Blocking the signal would not do: the system then gives it to another thread, and Python calls the handler in the
    main thread all the same. Nothing is changed in other threads, in which no handler is called, nor where the signal
    is ignored, ends the process, or has a handler that is not Python's.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDING)}
    handlers = {number: handler for number, handler in found.items() if callable(handler)}
    pending: list[tuple[int, FrameType | None]] = []
    for number in handlers:
        signal.signal(number, lambda *interrupt: pending.append(interrupt))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if pending:
            handlers[signal.Signals(pending[0][0])](*pending[0])


def start(module: str, threads: int, *files: int) -> tuple[subprocess.Popen[bytes], Connection]:
    """A process that runs `module` on so many `threads`, and the connection to it.

    It has the open `files`, too, which its arguments name behind the connection.

    Unlike those of `multiprocessing`, it does not run the program that started it again. To lose no process by an
    interrupt, note it in the same `interrupts_deferred` block.
    """
    path = os.pathsep.join(part or os.getcwd() for part in sys.path if isinstance(part, str))
    connection, theirs = Pipe()
    process = None
    try:
        with interrupts_deferred(), theirs, interrupts_blocked():
            given = [theirs.fileno(), *files]
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *map(str, given)],
                pass_fds=given,
                stdin=subprocess.DEVNULL,
                env=os.environ | dict.fromkeys(THREADS, str(threads)) | {"PYTHONPATH": path},
            )
    except BaseException:  # an interrupt that came meanwhile, too
        connection.close()
        if process is not None:
            process.kill()
            process.wait()
        raise
    return process, connection


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """A block in which processes that this thread starts are deaf to interrupts from their first moment.

    An interrupt is for the process that started them, which ends them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def connection_to_parent() -> Connection:
    """The other end of the connection, for a process that was started so; it ends when its parent has ended."""
    follow(os.getppid())
    return Connection(int(sys.argv[1]))


def follow(parent: int) -> None:
    """Be deaf to interrupts, which are for the parent, and end when that has ended, in the middle of work too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # what came meanwhile is ignored, too
    threading.Thread(target=leave_with, args=[parent], daemon=True).start()


def leave_with(parent: int) -> None:
    """End this process when its parent has ended without a word, as by a signal."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def can_start() -> bool:
    """Whether another process can be started as above."""
    return os.name == "posix" and bool(sys.executable)
