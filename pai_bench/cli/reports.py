"""The verbs `report` and `compare`: from stored results to documents."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pai_bench.cli.console import make_console, print_report
from pai_bench.support import outfile
from pai_bench.support.errors import UserError

if TYPE_CHECKING:
    from pai_bench.results import Store


def report(given: argparse.Namespace) -> int:
    """``pai-bench report``."""
    from pai_bench.results import Store, archive

    store = Store(given.results)
    output = Path(given.output) if "output" in given else store.home
    if not os.path.isdir(output):
        outfile.check(output, "the report")
    store.refuse(output)
    everything = "all_versions" in given
    form = format_of(output, getattr(given, "format", None))
    if os.path.isdir(output):
        output = output / f"report{SUFFIXES[form][0]}"
        outfile.check(output, "the report")
    if store.archived and "output" not in given and output.exists():
        raise UserError(
            f"{output} lies beside its records, which hold no masks: not all of its figures could be made again; name "
            "another place with -o, or this one to replace it"
        )
    if form == "markdown":
        timings = Path(given.timings) if "timings" in given else None
        console = make_console()
        options = {"x": given.x, "suffix": given.figures, "timings": timings, "all_versions": everything}
        output = print_report(console, store, output, **options)
        if "records" in given:
            beside = output.with_name(archive.NAME)
            count = archive.pack(store.path, beside)
            console.print(f"records: {beside}, {count}", markup=False)
        return 0
    for flag in ("timings", "records"):
        if flag in given:
            raise UserError(f"--{flag} goes with the markdown report, not with a table as {form}")
    write_tables(store, form, output, all_versions=everything)
    make_console().print(f"report: {output}", markup=False)
    return 0


SUFFIXES = {"markdown": (".md", ".markdown"), "csv": (".csv",), "latex": (".tex",), "html": (".html", ".htm")}
"""Format -> the suffixes of its files, the usual one first."""


def format_of(path: Path, given: str | None = None) -> str:
    """The format of a report: the one that is `given`, or that of the suffix of its file, or markdown."""
    suffix = path.suffix.lower()
    known = next((form for form, suffixes in SUFFIXES.items() if suffix in suffixes), None)
    if os.path.isdir(path):
        return given or "markdown"
    if given and known and given != known:
        raise UserError(f"{path} has the suffix of {known}, not of --format {given}; leave one of them out")
    if suffix and not (given or known):
        accepted = ", ".join(suffixes[0] for suffixes in SUFFIXES.values())
        raise UserError(f"no report is written as {suffix} ({path}); known are {accepted}, or give --format")
    return given or known or "markdown"


def write_tables(store: "Store", form: str, path: Path, *, all_versions: bool = False) -> None:
    """The table of all metrics in another format, of the newest version of each criterion or of all."""
    from pai_bench.report.metrics import FORMATS
    from pai_bench.report.summary import comparisons
    from pai_bench.report.versions import newest
    from pai_bench.results import as_frame

    records = sorted(store, key=lambda record: record.identity)
    if not records:
        raise UserError(f"results folder {store.shown} has no readable trials that could stand in a table")
    shown = records if all_versions else newest(records)[0]
    write([store], path, FORMATS[form](comparisons(as_frame(shown))))


def write(stores: "Sequence[Store]", path: Path, text: str) -> None:
    """Write a document, not among results, or say why that cannot be done."""
    for store in stores:
        store.refuse(path)
    outfile.write(path, text, "the report")


def compare(given: argparse.Namespace) -> int:
    """``pai-bench compare``."""
    from rich.markup import escape
    from rich.table import Table

    from pai_bench.report import folder_diff
    from pai_bench.results import Store

    stores = [Store(given.before), Store(given.after)]
    before, after = (list(store) for store in stores)
    for store, records in zip(stores, (before, after), strict=True):
        if not records:
            raise UserError(f"results folder {store.shown} has no readable trials")
    if "output" in given:
        outfile.check(given.output, "the comparison")
        for store in stores:
            store.refuse(Path(given.output))
        if format_of(Path(given.output)) != "markdown":
            raise UserError(f"a comparison is written as markdown, to a .md file, not to {given.output}")
    found, console = folder_diff.changes(before, after), make_console()
    if found:
        head, *body = folder_diff.table(found)
        table = Table()
        for i, column in enumerate(head):
            table.add_column(column, justify="right" if 3 <= i < len(head) - 1 else "left")
        for row in body:
            table.add_row(*map(escape, row))
        console.print(table)
    console.print(folder_diff.verdict(found, before, after), markup=False)
    if "output" in given:
        left_out = [f"{s.shown / name} is left out: {why}" for s in stores for name, why in sorted(s.left_out.items())]
        write(stores, Path(given.output), folder_diff.page(before, after, left_out))
        console.print(f"report: {given.output}", markup=False)
    return 0
