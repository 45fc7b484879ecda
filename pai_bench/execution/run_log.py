"""The log file of a sweep: how it was run, when each trial began and ended, and every message, as they happen."""

import logging
import os
import re
import socket
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from pai_bench.support.environment import commit, versions
from pai_bench.support.errors import UserError, reason
from pai_bench.support.failures import traceback_of
from pai_bench.support.logs import also_to

logger = logging.getLogger(__name__)

FOLDER = "logs"

KEPT = 20
"""Log files that a results folder keeps, the newest ones."""

FINISHED = 86_400.0
"""Age in seconds of the last line of a log from which no process can be writing to it any more."""


class RunLog(logging.Handler):
    """Writes what is logged in its context, and how it ended, to a new file in each folder that it is opened for."""

    def __init__(self) -> None:
        super().__init__()
        formatter = logging.Formatter(
            "%(asctime)s.%(msecs)03dZ %(process)d %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"
        )
        formatter.converter = time.gmtime
        self.setFormatter(formatter)
        self._files: dict[Path, int] = {}
        self._early: list[bytes] | None = []
        """What is logged before it is known whether there is anything to run."""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.callback(self._close_files)
        self._stack.enter_context(also_to(self))
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if self._early is None:
            logger.info("%s", ending(error))
        self._stack.close()

    def open(self, folders: Iterable[Path], command: str | None) -> None:
        """Begin a file in each of some results folders."""
        early, self._early = self._early or [], None
        now = datetime.now(UTC)
        host = re.sub(r"[^\w.-]", "_", socket.gethostname())[:50]
        for folder in {folder.resolve(): folder for folder in folders}.values():
            path = folder / FOLDER / f"{now:%Y%m%dT%H%M%S.%fZ}-{host}-{os.getpid()}.log"
            try:
                path.parent.mkdir(exist_ok=True)
                self._files[path] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            except OSError as error:
                self._give_up(path, error)
            remove_old(path.parent)
        for line in early:
            self._write(line)
        logger.info("command: %s", command or "(from Python)")
        revision, changed = commit()
        code = f", commit {revision}{' with changes' * bool(changed)}" if revision else ""
        logger.info("versions: %s%s", ", ".join(f"{name} {text}" for name, text in versions().items()), code)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = f"{self.format(record)}\n".encode("utf-8", "backslashreplace")
        except Exception:
            self.handleError(record)
            return
        if self._early is not None:
            self._early.append(line)
        self._write(line)

    def _write(self, line: bytes) -> None:
        for path, file in [*self._files.items()]:
            try:
                os.write(file, line)
            except OSError as error:
                self._give_up(path, error)

    def _give_up(self, path: Path, error: OSError) -> None:
        if (file := self._files.pop(path, None)) is not None:
            os.close(file)
        logger.warning("the log %s cannot be written (%s); the sweep continues without it", path, reason(error))

    def _close_files(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1])


def remove_old(folder: Path) -> None:
    """Remove all logs but the newest ones, and those that other processes may be writing to."""
    for path in sorted(folder.glob("*.log"))[:-KEPT]:
        with suppress(OSError):  # another process was faster
            if time.time() - path.stat().st_mtime > FINISHED:
                path.unlink()


def ending(error: BaseException | None) -> str:
    """How a sweep has ended, by the error that ended it."""
    if error is None:
        return "the sweep is over"
    if isinstance(error, KeyboardInterrupt):
        return "the sweep was interrupted"
    if isinstance(error, UserError):
        return f"the sweep has ended: {error}"
    return f"the sweep has ended by an error:\n{(traceback_of(error) or '').rstrip()}"
