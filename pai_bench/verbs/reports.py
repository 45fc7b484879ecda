"""The verbs `report` and `compare`: from stored results to documents."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pai_bench.errors import UserError
from pai_bench.verbs.console import make_console, print_report

if TYPE_CHECKING:
    from pai_bench.store import Store


def report(given: argparse.Namespace) -> int:
    """``pai-bench report``."""
    from pai_bench.store import Store, archive

    store = Store(given.results)
    suffix = {"csv": "csv", "latex": "tex", "html": "html", "markdown": "md"}[given.format]
    path = Path(getattr(given, "output", store.home / f"report.{suffix}"))
    if given.format == "markdown":
        timings = Path(given.timings) if "timings" in given else None
        console = make_console()
        print_report(console, store, path, x=given.x, suffix=given.figures, timings=timings)
        if "records" in given:
            count = archive.pack(store.path, path.parent / archive.NAME)
            console.print(f"records: {path.parent / archive.NAME}, {count}", highlight=False, markup=False)
        return 0
    if "timings" in given:
        raise UserError("--timings goes into the markdown report, not into a table of another --format")
    write_tables(store, given.format, path)
    make_console().print(f"report: {path}", highlight=False, markup=False)
    return 0


def write_tables(store: "Store", form: str, path: Path) -> None:
    """The table of all metrics in another format."""
    from pai_bench.report.metrics import FORMATS
    from pai_bench.report.summary import comparisons
    from pai_bench.store import as_frame

    records = sorted(store, key=lambda record: record.identity)
    if not records:
        raise UserError(f"results folder {store.shown} has no readable trials that could stand in a table")
    write([store], path, FORMATS[form](comparisons(as_frame(records))))


def write(stores: "Sequence[Store]", path: Path, text: str) -> None:
    """Write a document, not among results, or say why that cannot be done."""
    for store in stores:
        store.refuse(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"the report cannot be written to {path} ({error.strerror or error})") from error


def compare(given: argparse.Namespace) -> int:
    """``pai-bench compare``."""
    from rich.markup import escape
    from rich.table import Table

    from pai_bench.report import versus
    from pai_bench.store import Store

    stores = [Store(given.before), Store(given.after)]
    before, after = (list(store) for store in stores)
    for store, records in zip(stores, (before, after), strict=True):
        if not records:
            raise UserError(f"results folder {store.shown} has no readable trials")
    found, console = versus.changes(before, after), make_console()
    if found:
        head, *body = versus.table(found)
        table = Table()
        for i, column in enumerate(head):
            table.add_column(column, justify="right" if 3 <= i < len(head) - 1 else "left")
        for row in body:
            table.add_row(*map(escape, row))
        console.print(table)
    console.print(versus.verdict(found, before, after), highlight=False, markup=False)
    if "output" in given:
        left_out = [f"{s.path / name} is left out: {why}" for s in stores for name, why in sorted(s.left_out.items())]
        write(stores, Path(given.output), versus.page(before, after, left_out))
        console.print(f"report: {given.output}", highlight=False, markup=False)
    return 0
