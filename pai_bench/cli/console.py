"""The console, tables and progress bars of all verbs, and the exit codes."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from pai_bench.support.errors import reason
from pai_bench.support.failures import described

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

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
    # text as it is: names may have brackets and colons, and numbers and paths are not coloured
    return Console(file=file, width=width, markup=False, emoji=False, highlight=False)


class Output:
    """A text file whose reader may have left, or whose disk may be full: what cannot be written is lost."""

    def __init__(self, file: TextIO | None) -> None:
        """None is what Python has in place of a file that was closed before it began."""
        self._file = open(os.devnull, "w", encoding="utf-8") if file is None else file  # noqa: SIM115  # open to the end
        self._lost = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        """As of any file."""
        return self._try(lambda: self._file.write(text)) or len(text)

    def flush(self) -> None:
        """As of any file."""
        self._try(self._file.flush)

    def _try(self, action: Callable[[], Result]) -> Result | None:
        if self._lost:
            return None
        try:
            return action()
        except (OSError, ValueError) as error:  # the last of a file that is closed
            self._lost = True
            # whoever reads no more, such as `head`, has enough
            level = logging.INFO if isinstance(error, BrokenPipeError) else logging.WARNING
            logger.log(
                level, "nothing more can be written to the standard output (%s); the work goes on", reason(error)
            )
            with suppress(OSError, ValueError):  # or else Python would complain at its end
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._file.fileno())
                os.close(null)
            return None


def print_failure(console: "Console", criterion: str, model: str, error: Exception) -> None:
    """A line about a criterion that failed on a network, while the others go on."""
    logger.debug("%s failed on %s", criterion, model, exc_info=error)
    console.print(f"{criterion} failed on {model}: {described(error)}", style="red")


def print_table(
    console: "Console",
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    numbers: slice = slice(1, None),
    failed: Callable[[Sequence[str]], object] = lambda _row: False,
    edge: bool = True,
) -> None:
    """A table whose first row is its head, `numbers` being the columns of them; rows that `failed` are red."""
    from rich.table import Table

    head, *body = rows
    table = Table(title=title or None, title_justify="left", show_edge=edge)
    for i, column in enumerate(head):
        table.add_column(column, justify="right" if i in range(len(head))[numbers] else "left", overflow="fold")
    for row in body:
        table.add_row(*row, style="red" if failed(row) else None)
    console.print(table)


def progress_bar(console: "Console", *labels: str, **options: Any) -> "Progress":
    """A bar of what is done, behind `labels`, and the time left; it is gone at the end. A file is given none."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    texts = (TextColumn(label, markup=False) for label in labels)
    columns = *texts, BarColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal, **options)


def print_report(console: "Console", store: "Store", path: Path, **options: Any) -> Path:
    """Write the report of `store` to `path`, showing how far it is, and say where it stands, which is returned."""
    with progress_bar(console, "report") as progress:
        from pai_bench.report.page import write_report

        task = progress.add_task("", total=None)  # as long as results are read

        def on_progress(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        path = write_report(store, path, on_progress=on_progress, **options)
    console.print(f"report: {path}")
    return path
