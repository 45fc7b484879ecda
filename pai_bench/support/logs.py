"""Log records on their way: also to a handler that wants more than is shown, and from a worker to its parent."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

PACKAGE = logging.getLogger("pai_bench")
ROOT = logging.getLogger()

SENT = ("name", "levelno", "levelname", "created", "msecs", "process")
"""What another process is told of a record, besides its text."""


class _Tap(logging.Handler):
    """In place of the package's handlers: gives records to more `receivers`, and on to those handlers as before."""

    def __init__(self) -> None:
        super().__init__()
        self.receivers: list[logging.Handler] = []
        self.before = PACKAGE

    def install(self) -> None:
        """Take the place of the package's handlers."""
        level = min(PACKAGE.getEffectiveLevel(), logging.INFO)
        self.before = before = logging.Logger(PACKAGE.name, PACKAGE.level)
        before.handlers, before.parent, before.propagate = PACKAGE.handlers, PACKAGE.parent, PACKAGE.propagate
        PACKAGE.handlers, PACKAGE.propagate = [self], False
        PACKAGE.setLevel(level)

    def uninstall(self) -> None:
        """Make the package's logger what it was."""
        PACKAGE.handlers, PACKAGE.propagate = self.before.handlers, self.before.propagate
        PACKAGE.setLevel(self.before.level)

    def emit(self, record: logging.LogRecord) -> None:
        for receiver in [*self.receivers]:
            receiver.handle(record)
        if self._is_shown(record):
            self.before.callHandlers(record)

    def _is_shown(self, record: logging.LogRecord) -> bool:
        """Whether the record would have been made without the tap: by the level of the first logger that has one."""
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None and logger is not PACKAGE and not logger.level:
            logger = logger.parent
        return logger is not PACKAGE or record.levelno >= self.before.getEffectiveLevel()


class _OthersTap(logging.Handler):
    """Gives the receivers what other packages log."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] != PACKAGE.name:
            for receiver in [*_TAP.receivers]:
                receiver.handle(record)


_TAP, _OTHERS, _LOCK = _Tap(), _OthersTap(), threading.Lock()


@contextmanager
def also_to(receiver: logging.Handler) -> Iterator[None]:
    """A block in which `receiver` gets what the package logs from the level info on, and what others show.

    What is shown elsewhere stays the same, and so does the configuration of logging after the block.
    """
    with _LOCK:
        if not _TAP.receivers:
            _TAP.install()
            if ROOT.handlers:  # with its first handler, logging would count as configured
                ROOT.addHandler(_OTHERS)
        _TAP.receivers.append(receiver)
    try:
        yield
    finally:
        with _LOCK:
            _TAP.receivers.remove(receiver)
            if not _TAP.receivers:
                ROOT.removeHandler(_OTHERS)
                _TAP.uninstall()


class Sender(logging.Handler):
    """Sends records as messages of the type ``log`` to another process, in which `log_received` logs them."""

    def __init__(self, send: Callable[[tuple[str, object]], None]) -> None:
        super().__init__()
        self._send, self._process = send, os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        if os.getpid() != self._process:  # a child of it, which must not write into its connection
            if logging.lastResort is not None:
                logging.lastResort.handle(record)
            return
        try:
            content = {key: getattr(record, key) for key in SENT} | {"msg": self.format(record)}
            with suppress(OSError):  # the other process has gone
                self._send(("log", content))
        except Exception:
            self.handleError(record)


def level_to_send() -> int:
    """The level from which records of another process are of use here."""
    return min(PACKAGE.getEffectiveLevel(), logging.INFO)


def log_received(content: dict[str, Any]) -> None:
    """Log a record that another process has sent."""
    record = logging.makeLogRecord(content)
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
