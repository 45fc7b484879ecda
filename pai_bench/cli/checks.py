"""The verb `check`."""

import argparse
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pai_bench.cli.console import FAILED, make_console

if TYPE_CHECKING:
    from pai_bench.analyses.conformance import Result


def check(given: argparse.Namespace) -> int:
    """``pai-bench check``."""
    from rich.markup import escape
    from rich.table import Table

    from pai_bench.analyses.conformance import run_checks
    from pai_bench.report.summary import plural
    from pai_bench.scoring import get_criterion

    criterion, console, results = get_criterion(given.criterion), make_console(), []
    with console.status(escape(f"checking {criterion}")) as status:
        for result in run_checks(criterion):
            results.append(result)
            status.update(escape(f"checking {criterion}: {result.check} on {result.network}"))
    table = Table()
    for column in ("check", "networks", "result", "message"):
        table.add_column(column, overflow="fold")
    for row in check_rows(results):
        table.add_row(*map(escape, row), style="red" if row[-1] else None)
    console.print(table)
    failed, total = sum(not result.passed for result in results), plural(len(results), "check")
    line = f"{criterion}: {failed} of {total} failed" if failed else f"{criterion}: {total} passed"
    console.print(line, markup=False)
    return FAILED if failed else 0


def check_rows(results: "list[Result]") -> Iterator[tuple[str, str, str, str]]:
    """One row for the networks on which a check passed; then one for each error, with wherever it came up."""
    for name, group in itertools.groupby(results, key=lambda result: result.check):
        if passed := [result.network for result in group if result.passed]:
            yield name, ", ".join(passed), "passed", ""
    errors: dict[str, list[Result]] = {}
    for result in results:
        if not result.passed:
            errors.setdefault(result.kind, []).append(result)
    for found in errors.values():
        first, several = found[0], len(found) > 1
        checks, networks = (", ".join(dict.fromkeys(names)) for names in zip(*map(where, found), strict=True))
        yield checks, networks, "failed", first.error if several else first.message


def where(result: "Result") -> tuple[str, str]:
    """The check and the network of a result."""
    return result.check, result.network
