"""What all verbs print by, and the exit codes."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pai_bench.failures import described

if TYPE_CHECKING:
    from rich.console import Console

    from pai_bench.store import Store

logger = logging.getLogger(__name__)

FAILED, USER_ERROR, INTERRUPTED = 1, 2, 130


def make_console() -> "Console":
    """A console that does not break lines in a log at 80 columns."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 160))


def print_failure(console: "Console", what: str, model: str, error: Exception) -> None:
    """A line about a criterion that failed on a network, while the others go on."""
    logger.debug("%s failed on %s", what, model, exc_info=error)
    line = f"{what} failed on {model}: {described(error)}"
    console.print(line, style="red", highlight=False, markup=False)


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
            store, path, told=lambda done, total: progress.update(task, completed=done, total=total), **options
        )
    console.print(f"report: {path}", highlight=False, markup=False)
    return path
