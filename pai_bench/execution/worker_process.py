"""A worker process, as its parent sees it: how it starts, is heard, and ends. `execution.worker` is what runs in it."""

import logging
import os
import pickle
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from multiprocessing.connection import Connection
from typing import IO, Any

from pai_bench.data import DataSet
from pai_bench.experiment.sweep import Execution
from pai_bench.experiment.trial import Trial
from pai_bench.support import processes
from pai_bench.support.failures import crash_location
from pai_bench.support.processes import HEARTBEAT

logger = logging.getLogger(__name__)

SILENCE = 120.0
"""Seconds without a sign of life after which a worker is taken for stopped, and ended."""

PATIENCE = 5.0
"""Seconds that a worker is given to end."""

LONGEST = 2**16
"""Bytes that are read of what a process has written as it crashed."""


@dataclass
class Worker:
    """A process that runs one cell after the other, and the connection to it."""

    process: subprocess.Popen[bytes]
    connection: Connection
    crash: IO[bytes] | None = None
    """Where it writes what it was doing when it crashed."""
    cell: list[Trial] = field(default_factory=list)
    ready: bool = False
    """Whether it has read the data of its first cell."""
    since: float = 0.0
    """When it began with its cell."""
    heard: float = field(default_factory=time.monotonic)
    """When it gave its last sign of life."""

    def receive(self) -> tuple[str, Any]:
        """The next message that is no mere sign of life; an EOFError or OSError if the process has died.

        One that gives no sign of life for `SILENCE` is ended.
        """
        message: tuple[str, Any] = ("alive", None)
        silent = 0.0  # by what was waited for: while this process is stopped, nothing is
        while message[0] == "alive":
            if self.connection.poll(HEARTBEAT):
                message, silent = self.connection.recv(), 0.0
            elif self.has_ended():
                raise EOFError
            elif (silent := silent + HEARTBEAT) >= SILENCE:
                self.end_silent()
        return message

    def has_ended(self) -> bool:
        """Whether the process has died and said all; what it has started may still hold the connection to it open."""
        return self.process.poll() is not None and not self.connection.poll()

    def end_silent(self) -> None:
        """End the process, which has been stopped."""
        logger.warning("a worker process has given no sign of life for %.0f s and is ended", SILENCE)
        self.process.kill()

    def ended(self) -> str:
        """How it has ended, after it has."""
        code = self.process.wait()
        text = "" if self.crash is None else os.pread(self.crash.fileno(), LONGEST, 0).decode("utf-8", "replace")
        self.close()
        if code >= 0:
            return f"exit code {code}"
        if text:
            logger.debug("what a worker process was doing when it died:\n%s", text)
        return f"killed by signal {-code}{crash_location(text)}"

    def close(self) -> None:
        """Close all that is shared with the process."""
        self.connection.close()
        if self.crash is not None:
            self.crash.close()


def start(execution: Execution, data: Mapping[str, DataSet], threads: int) -> Worker:
    """A process that runs trials as `execution` says; it is given the `data` that it cannot load by a name."""
    how = Execution(**{f.name: getattr(execution, f.name) for f in fields(Execution)})  # without the sweep's axes
    content = pickle.dumps((logging.getLogger().level, how, dict(data)))  # torch would share memory with the process
    crash = tempfile.TemporaryFile()  # noqa: SIM115  # read and closed when the process has ended
    try:
        worker = Worker(*processes.start("pai_bench.execution.worker", threads, crash.fileno()), crash)
    except BaseException:  # an interrupt, too
        crash.close()
        raise
    with suppress(OSError):  # if it is dead, its connection says so when it is read
        worker.connection.send_bytes(content)
    return worker


def end(workers: Sequence[Worker]) -> None:
    """End some workers, each at the latest after `PATIENCE`."""
    for worker in workers:
        worker.close()
        worker.process.terminate()
    for worker in workers:
        try:
            worker.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:  # one that is stopped does not hear
            worker.process.kill()
            worker.process.wait()
