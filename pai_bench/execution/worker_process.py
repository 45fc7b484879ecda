"""A worker process on its parent's side: start it, receive its messages, end it. `execution.worker` runs in it."""

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
from pai_bench.support.logs import level_to_send, log_received
from pai_bench.support.processes import HEARTBEAT

logger = logging.getLogger(__name__)

SILENCE = 120.0
"""Seconds without a message after which a worker must have been stopped, and is ended."""

PATIENCE = 10.0
"""Seconds that a worker has to end by itself, and to save before what it trains."""

LONGEST = 2**16
"""Bytes that are read of a crash report."""


@dataclass(eq=False)
class Worker:
    """A process that runs one cell after the other, and the connection to it."""

    process: subprocess.Popen[bytes]
    connection: Connection
    crash: IO[bytes] | None = None
    """Where `faulthandler` writes in which line it crashed."""
    device: str = "auto"
    """Where it runs trials."""
    cell: list[Trial] = field(default_factory=list)
    finished: set[str] = field(default_factory=set)
    """The trials of its cell of which it has sent the records, by identity."""
    ready: bool = False
    """Whether it has read the data of its first cell."""
    since: float = 0.0
    """When it began with its cell."""
    silent: float = 0.0
    """Seconds without a message in which this process has waited for one."""

    @property
    def unfinished(self) -> list[Trial]:
        """The trials of its cell that are still to be run."""
        return [trial for trial in self.cell if trial.identity not in self.finished]

    def begin(self, cell: list[Trial]) -> None:
        """Note that it is to run a cell; an empty one if it has none."""
        self.cell, self.finished, self.since, self.silent = cell, set(), time.perf_counter(), 0.0

    def send(self, message: tuple[str, Any]) -> None:
        """Send a message. If the process is dead, its connection says so when it is read."""
        with suppress(OSError):
            self.connection.send(message)

    def receive(self) -> tuple[str, Any]:
        """The next message that is no heartbeat, and no log record; an EOFError or OSError if the process is dead."""
        message: tuple[str, Any] = ("alive", None)
        self.silent = 0.0
        while message[0] in ("alive", "log"):
            if self.connection.poll(HEARTBEAT):
                message, self.silent = self.connection.recv(), 0.0
                if message[0] == "log":
                    log_received(message[1])
            elif self.has_ended():
                raise EOFError
            else:
                self.add_silence(HEARTBEAT)
        return message

    def has_ended(self) -> bool:
        """Whether the process has died and all its messages are read, also where a child of it holds the connection."""
        return self.process.poll() is not None and not self.connection.poll()

    def add_silence(self, seconds: float) -> None:
        """Count `seconds` in which no message came, and end the process if there were none for `SILENCE`."""
        self.silent += seconds
        if self.silent >= SILENCE:
            logger.warning("a worker process has sent no message for %.0f s and is killed", SILENCE)
            self.process.kill()
            self.silent = 0.0

    def ended(self) -> str:
        """How the process has ended, in words, once it has."""
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


def start(execution: Execution, data: Mapping[str, DataSet], threads: int, device: str | None = None) -> Worker:
    """A process that runs trials as `execution` says, or on another `device`.

    It is sent the `data` that it cannot load by a name.
    """
    settings = {f.name: getattr(execution, f.name) for f in fields(Execution)}  # without the sweep's axes
    execution = Execution(**settings | ({} if device is None else {"device": device}))
    content = pickle.dumps((level_to_send(), execution, dict(data)))  # torch would share memory
    crash = tempfile.TemporaryFile()  # noqa: SIM115  # read and closed when the process has ended
    try:
        worker = Worker(
            *processes.start("pai_bench.execution.worker", threads, crash.fileno()), crash, execution.device
        )
    except BaseException:  # an interrupt, too
        crash.close()
        raise
    with suppress(OSError):  # if it is dead, its connection says so when it is read
        worker.connection.send_bytes(content)
    return worker


def end(workers: Sequence[Worker]) -> None:
    """End some workers, each at the latest after `PATIENCE`."""
    for worker in workers:
        worker.process.terminate()  # before it sees that nobody listens
        worker.close()
    for worker in workers:
        try:
            worker.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:  # it is stopped
            worker.process.kill()
            worker.process.wait()
