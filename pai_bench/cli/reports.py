"""The verbs `report` and `compare`: from stored results to documents."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pai_bench.cli.console import make_console, print_report, print_table
from pai_bench.support import outfile
from pai_bench.support.errors import UserError

if TYPE_CHECKING:
    from pai_bench.results import Store


def report(arguments: argparse.Namespace) -> int:
    """``pai-bench report``."""
    from pai_bench.results import Store, archive

    store, console = Store(arguments.results), make_console()
    output = store.report_folder if arguments.output is None else Path(arguments.output)
    if not os.path.isdir(output):
        outfile.check(output, "the report")
    store.check_report_path(output)
    form = format_of(output, arguments.format)
    if os.path.isdir(output):
        output = output / f"report{SUFFIXES[form][0]}"
        store.check_report_path(output)
        outfile.check(output, "the report")
    if store.archived and arguments.output is None and output.exists():
        raise UserError(
            f"{output} lies beside its records, which hold no masks: not all of its figures could be made again; name "
            "another place with -o, or this one to replace it"
        )
    if form != "markdown":
        for flag in ("timings", "records", "margin"):
            if getattr(arguments, flag) not in (None, False):
                raise UserError(f"--{flag} goes with the markdown report, not with a table as {form}")
        write_tables(store, form, output, all_versions=arguments.all_versions)
        console.print(f"report: {output}")
        return 0
    timings = None if arguments.timings is None else Path(arguments.timings)
    options = {"x": arguments.x, "suffix": arguments.figures, "all_versions": arguments.all_versions}
    options |= {"margin": arguments.margin}
    output = print_report(console, store, output, timings=timings, **options)
    if arguments.records:
        records = output.with_name(archive.NAME)
        console.print(f"records: {records}, {archive.pack(store.path, records)}")
    return 0


SUFFIXES = {
    "markdown": (".md", ".markdown"),
    "csv": (".csv",),
    "json": (".json",),
    "latex": (".tex",),
    "html": (".html", ".htm"),
}
"""Format -> the suffixes of its files, the usual one first."""


def format_of(path: Path, form: str | None = None) -> str:
    """The format of a report: `form`, or that of the suffix of its file, or markdown."""
    suffix = path.suffix.lower()
    known = next((name for name, suffixes in SUFFIXES.items() if suffix in suffixes), None)
    if os.path.isdir(path):
        return form or "markdown"
    if form and known and form != known:
        raise UserError(f"{path} has the suffix of {known}, not of --format {form}; leave one of them out")
    if suffix and not (form or known):
        accepted = ", ".join(suffixes[0] for suffixes in SUFFIXES.values())
        raise UserError(f"no report is written as {suffix} ({path}); known are {accepted}, or give --format")
    return form or known or "markdown"


def write_tables(store: "Store", form: str, path: Path, *, all_versions: bool) -> None:
    """The table of all metrics in another format, of the newest version of each criterion or of all."""
    from pai_bench.report.metrics import FORMATS
    from pai_bench.report.summary import comparisons
    from pai_bench.report.versions import newest
    from pai_bench.results import as_frame

    records = sorted(store, key=lambda record: record.identity)
    if not records:
        raise UserError(f"results folder {store.label} has no readable trials that could stand in a table")
    shown = records if all_versions else newest(records)[0]
    outfile.write(path, FORMATS[form](comparisons(as_frame(shown))), "the report")


def compare(arguments: argparse.Namespace) -> int:
    """``pai-bench compare``."""
    from pai_bench.report import folder_diff
    from pai_bench.results import Store

    stores, output = [Store(arguments.before), Store(arguments.after)], arguments.output
    before, after = (list(store) for store in stores)
    for store, records in zip(stores, (before, after), strict=True):
        if not records:
            raise UserError(f"results folder {store.label} has no readable trials")
    if output is not None:
        outfile.check(output, "the comparison")
        for store in stores:
            store.check_report_path(Path(output))
        if format_of(Path(output)) != "markdown":
            raise UserError(f"a comparison is written as markdown, to a .md file, not to {output}")
    changes, console = folder_diff.changes(before, after), make_console()
    if changes:
        print_table(console, folder_diff.table(changes), numbers=slice(3, -1))
    console.print(folder_diff.verdict(changes, before, after))
    if output is not None:
        left_out = [f"{s.label / name} is left out: {why}" for s in stores for name, why in sorted(s.left_out.items())]
        outfile.write(output, folder_diff.page(changes, before, after, left_out), "the report")
        console.print(f"report: {output}")
    return 0
