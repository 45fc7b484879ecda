"""Processes of Python beside this one: how they start and end."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import FrameType
from typing import Self

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Environment variables that say how many threads a library uses."""

TERMINATION = (signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
"""Signals that end a process: of a batch system, or of a terminal that is closed."""

ALARM = [signal.SIGALRM] if hasattr(signal, "SIGALRM") else []
"""The signal of `TimeLimit`."""

HEARTBEAT = 5.0
"""Seconds between two messages by which a process says that it is alive."""


@contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """A block that SIGTERM and SIGHUP end as an interrupt does, unless they are ignored, as SIGHUP by ``nohup``."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in TERMINATION if signal.getsignal(number) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


class TimeLimit:
    """A block that ends as by an interrupt when it has taken so many seconds; for the main thread. None: no limit."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds, self.is_reached = seconds, False

    def __enter__(self) -> Self:
        if self.seconds is not None:
            self._before = signal.signal(signal.SIGALRM, self._end)
            signal.setitimer(signal.ITIMER_REAL, max(self.seconds, 0.01))  # 0 is none
        return self

    def __exit__(self, *_error: object) -> None:
        if self.seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        self.is_reached = True
        raise KeyboardInterrupt


class Interrupts:
    """The interrupts that have come in a block of `interrupts_deferred`; true if there are some."""

    def __init__(self, handlers: Mapping[int, Callable[[int, FrameType | None], object]]) -> None:
        self._handlers = handlers
        self._pending: list[tuple[int, FrameType | None]] = []

    def __bool__(self) -> bool:
        return bool(self._pending)

    def add(self, number: int, frame: FrameType | None) -> None:
        """Another one has come."""
        self._pending.append((number, frame))

    def has(self, number: int) -> bool:
        """Whether one of this signal has come."""
        return any(number == other for other, _ in self._pending)

    def handle(self) -> None:
        """Call the handler of the first one, which mostly raises KeyboardInterrupt, and forget all."""
        pending, self._pending = self._pending, []
        if pending:
            self._handlers[pending[0][0]](*pending[0])


@contextmanager
def interrupts_deferred(*, first_only: bool = False) -> Iterator[Interrupts]:
    """A block that an interrupt does not break off: the handler of its signal is called at its end.

    The block is given the interrupts that have come, and may have them handled. With `first_only`, a second SIGINT, by
    which a user means it, breaks it off. Blocking the signal is not enough: the system then gives it to another thread,
    and Python calls the handler in the main thread all the same. Where the signal is ignored, or has no handler of
    Python's, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Interrupts({})
        return
    current = {number: signal.getsignal(number) for number in (signal.SIGINT, *TERMINATION, *ALARM)}
    handlers: dict[int, Callable[[int, FrameType | None], object]] = {
        number: handler for number, handler in current.items() if callable(handler) and ends(number, handler)
    }
    pending = Interrupts(handlers)

    def defer(number: int, frame: FrameType | None) -> None:
        if first_only and number == signal.SIGINT and pending.has(number):
            handlers[signal.Signals(number)](number, frame)
        pending.add(number, frame)

    for number in handlers:
        signal.signal(number, defer)
    try:
        yield pending
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        pending.handle()


def ends(number: int, handler: object) -> bool:
    """Whether a handler is of a signal that ends the process: SIGALRM is, if it is that of a time limit."""
    return number not in ALARM or isinstance(getattr(handler, "__self__", None), TimeLimit)


def start(module: str, threads: int, *files: int) -> tuple[subprocess.Popen[bytes], Connection]:
    """A process that runs `module` on so many `threads` and has the open `files`, and the connection to it.

    Its arguments are the descriptors of the connection and the files. Unlike those of `multiprocessing`, it does not
    run the main module again. To lose no process by an interrupt, store it in the same `interrupts_deferred` block.
    """
    path = os.pathsep.join(part or os.getcwd() for part in sys.path if isinstance(part, str))
    connection, theirs = Pipe()
    process = None
    try:
        with interrupts_deferred(), theirs, interrupts_blocked():
            descriptors = [theirs.fileno(), *files]
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *map(str, descriptors)],
                pass_fds=descriptors,
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
    """A block in which processes that this thread starts ignore interrupts: the process that started them ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def connection_to_parent() -> Connection:
    """The connection of a process that `start` started, which from now on ends when its parent has ended."""
    end_with_parent(os.getppid())
    return Connection(int(sys.argv[1]))


def end_with_parent(parent: int) -> None:
    """Ignore interrupts, which are for the parent, and end when that has ended, in the middle of work too."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # what came meanwhile is ignored, too
    threading.Thread(target=watch, daemon=True).start()


def can_start() -> bool:
    """Whether another process can be started."""
    return os.name == "posix" and bool(sys.executable)
