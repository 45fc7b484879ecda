"""Worker processes, and what one of them is asked before trials run: what a network that is not ours may crash on."""

import logging
import os
import pickle
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import IO, Any

import torch

from pai_bench import children
from pai_bench.catalog import Catalog, Inspection, inspect_network, resolve
from pai_bench.children import BEAT
from pai_bench.data import DataSet
from pai_bench.experiment.sources import ModelSource
from pai_bench.failures import place_of_crash
from pai_bench.plan import Sweep, Trial

logger = logging.getLogger(__name__)

SILENCE = 120.0
"""Seconds without a sign of life after which a worker is taken for stopped, and ended."""

PATIENCE = 5.0
"""Seconds that a worker is given to end."""

LONGEST = 2**16
"""Bytes that are read of what a process has written as it crashed."""

Network = tuple[str, str]
"""The names of a data set and of a network."""


@dataclass
class Worker:
    """A process that runs one cell after the other, and the line to it."""

    process: subprocess.Popen[bytes]
    line: Connection
    crash: IO[bytes] | None = None
    """Where it writes what it was doing when it crashed."""
    cell: list[Trial] = field(default_factory=list)
    ready: bool = False
    """Whether it has read the sweep."""
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
            if self.line.poll(BEAT):
                message, silent = self.line.recv(), 0.0
            elif self.has_ended():
                raise EOFError
            elif (silent := silent + BEAT) >= SILENCE:
                self.end_silent()
        return message

    def has_ended(self) -> bool:
        """Whether the process has died and said all; what it has started may still hold the line to it open."""
        return self.process.poll() is not None and not self.line.poll()

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
        return f"killed by signal {-code}{place_of_crash(text)}"

    def close(self) -> None:
        """Close all that is shared with the process."""
        self.line.close()
        if self.crash is not None:
            self.crash.close()


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


class Apart:
    """A process beside this one that inspects the networks of a sweep and measures their steps.

    Where that ends it, it is started again, and the others go on. It becomes the first worker.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.fit = sweep, True
        """Whether such a process can read the sweep."""
        self.places: dict[str, int] = {}
        self._worker: Worker | None = None
        self._identities: list[str] = []
        self._known: dict[Network, Inspection] = {}

    def inspect(self, sweep: Sweep, data: DataSet, model: ModelSource) -> Inspection:
        """As `inspect_network`, which is called here for our own networks, and where no process can read the sweep."""
        network = data.name, model.name
        if network not in self._known and not model.is_own:
            self._begin()
        found = self._known.get(network)
        return inspect_network(sweep, data, model) if found is None else found

    def ask(self, question: str, trial: Trial, *arguments: object) -> Any:
        """The answer to a question that `pai_bench.execution.worker` knows, about a trial."""
        if (worker := self._begin()) is None:
            raise RuntimeError("no process can be started to measure in")
        try:
            worker.line.send(("ask", (question, self.places[trial.identity], arguments)))
            outcome, answer = worker.receive()
        except (EOFError, OSError):
            self._worker = None
            raise RuntimeError(f"the process that ran {trial.model} died ({worker.ended()})") from None
        if outcome == "error":
            raise RuntimeError(answer)
        return answer

    def hand_over(self) -> Worker | None:
        """The process, if it runs and has made the same trials, for whoever ends it then."""
        worker, self._worker = self._worker, None
        if worker is not None and self._identities != list(self.places):
            end([worker])
            return None
        return worker

    def close(self) -> None:
        """End the process; another question starts it again."""
        if self._worker is not None:
            end([self._worker])
            self._worker = None

    def _begin(self) -> Worker | None:
        """The process, which has read the sweep; None where none can."""
        while self._worker is None and self.fit:
            with children.interrupts_deferred():
                self._worker = start(self.sweep, self._known, torch.get_num_threads())
            self._await(self._worker)
        return self._worker

    def _await(self, worker: Worker) -> None:
        """Wait until a process has read the sweep; if a network ends it, remember that."""
        inspected: tuple[Network, Inspection] | None = None
        try:
            kind, content = worker.receive()
            while kind == "inspects":
                inspected = content
                kind, content = worker.receive()
        except (EOFError, OSError):
            self._worker = None
            how = worker.ended()
            self.fit = inspected is not None
            if inspected is not None:
                (data, model), known = inspected
                self._known[data, model] = known
                logger.warning("model %s ends the process that runs it on %s (%s)", model, data, how)
            return
        if kind == "ready":
            self._identities, found = content
            self._known |= found
        else:
            logger.info("another process cannot read this sweep: %s", content)
            self.fit = False
            self.close()


def start(sweep: Sweep, known: Mapping[Network, Inspection], threads: int) -> Worker:
    """A process that reads a sweep by itself, but for what is known of its networks."""
    content = pickle.dumps((sweep, logging.getLogger().level, dict(known)))
    crash = tempfile.TemporaryFile()  # noqa: SIM115  # read and closed when the process has ended
    try:
        worker = Worker(*children.start("pai_bench.execution.worker", threads, crash.fileno()), crash)
    except BaseException:  # an interrupt, too
        crash.close()
        raise
    with suppress(OSError):  # if it is dead, its line says so when it is read
        worker.line.send_bytes(content)
    return worker


def close(catalogs: Iterable[Catalog]) -> None:
    """End the processes of some catalogs."""
    for catalog in catalogs:
        if catalog.elsewhere is not None:
            catalog.elsewhere.close()


def prepared(sweep: Sweep) -> Catalog:
    """`resolve`, with a process beside this one for networks and criteria that are not ours, and may end it.

    Whoever calls this is to `close` it.
    """
    if not (sweep.has_foreign_code and sweep.by_name and children.can_start()):
        return resolve(sweep)
    apart = Apart(sweep)
    try:
        catalog = resolve(sweep, apart.inspect)
    except BaseException:
        apart.close()
        raise
    apart.places = {trial.identity: place for place, trial in enumerate(catalog.trials)}
    catalog.elsewhere = apart if apart.fit else None
    return catalog
