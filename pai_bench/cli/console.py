"""What all verbs print by, and the exit codes."""

import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from pai_bench.support.failures import described

if TYPE_CHECKING:
    from rich.console import Console

    from pai_bench.results import Store

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

FAILED, USER_ERROR, INTERRUPTED = 1, 2, 130


def make_console() -> "Console":
    """A console that does not break lines in a log at 80 columns."""
    from rich.console import Console

    shown = Console()
    width = None if shown.is_terminal else max(shown.width, 160)
    file: Any = Output(sys.stdout)
    return Console(file=file, width=width, highlight=False)  # numbers and paths are not coloured


class Output:
    """A text file that nobody may read any more, or whose disk is full, which is no reason to end a sweep.

    What cannot be written is lost, with one word on the standard error where the disk is full.
    """

    def __init__(self, file: TextIO | None) -> None:
        """None is what Python has in place of a file that was closed before it began."""
        self._file = open(os.devnull, "w", encoding="utf-8") if file is None else file  # noqa: SIM115  # open to the end
        self._lost = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        """As of any file."""
        return self._tried(lambda: self._file.write(text)) or len(text)

    def flush(self) -> None:
        """As of any file."""
        self._tried(self._file.flush)

    def _tried(self, what: Callable[[], Result]) -> Result | None:
        if self._lost:
            return None
        try:
            return what()
        except (OSError, ValueError) as error:  # the last of a file that is closed
            self._lost = True
            reason = getattr(error, "strerror", None) or error
            # whoever reads no more, such as `head`, has enough
            level = logging.INFO if isinstance(error, BrokenPipeError) else logging.WARNING
            logger.log(level, "nothing more can be written to the standard output (%s); the work goes on", reason)
            with suppress(OSError, ValueError):  # or else Python would complain at its end
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._file.fileno())
                os.close(null)
            return None


def print_failure(console: "Console", what: str, model: str, error: Exception) -> None:
    """A line about a criterion that failed on a network, while the others go on."""
    logger.debug("%s failed on %s", what, model, exc_info=error)
    line = f"{what} failed on {model}: {described(error)}"
    console.print(line, style="red", markup=False)


def print_table(console: "Console", title: str, rows: list[list[str]]) -> None:
    """A table of a report on the terminal."""
    from rich.markup import escape
    from rich.table import Table

    head, *body = rows
    table = Table(title=escape(title), title_justify="left")
    for i, column in enumerate(head):
        table.add_column(column, justify="right" if i else "left")
    for row in body:
        table.add_row(*map(escape, row))
    console.print(table)


def print_report(console: "Console", store: "Store", path: Path, **options: Any) -> Path:
    """Write the report of `store` to `path`, showing how far it is, and say where it stands, which is returned."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("report"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        from pai_bench.report.page import write_report

        task = progress.add_task("", total=None)  # as long as results are read
        path = write_report(
            store, path, on_progress=lambda done, total: progress.update(task, completed=done, total=total), **options
        )
    console.print(f"report: {path}", markup=False)
    return path
