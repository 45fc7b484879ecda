"""The verb `check`."""

import argparse
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pai_bench.cli.console import FAILED, make_console, print_table

if TYPE_CHECKING:
    from pai_bench.analyses.conformance import Result


def check(arguments: argparse.Namespace) -> int:
    """``pai-bench check``."""
    from rich.markup import escape

    from pai_bench.analyses.conformance import run_checks
    from pai_bench.report.summary import plural
    from pai_bench.scoring import get_criterion

    criterion, console, results = get_criterion(arguments.criterion), make_console(), []
    with console.status(escape(f"checking {criterion}")) as status:
        for result in run_checks(criterion):
            results.append(result)
            status.update(escape(f"checking {criterion}: {result.check} on {result.network}"))
    rows = [("check", "networks", "result", "message"), *check_rows(results)]
    print_table(console, rows, numbers=slice(0), failed=lambda row: row[-1])
    failed, total = sum(not result.passed for result in results), plural(len(results), "check")
    console.print(f"{criterion}: " + (f"{failed} of {total} failed" if failed else f"{total} passed"))
    return FAILED if failed else 0


def check_rows(results: "list[Result]") -> Iterator[tuple[str, str, str, str]]:
    """One row for the networks on which a check passed; then one for each error, with wherever it came up."""
    for name, group in itertools.groupby(results, key=lambda result: result.check):
        if passed := [result.network for result in group if result.passed]:
            yield name, ", ".join(passed), "passed", ""
    errors: dict[str, list[Result]] = {}
    for result in results:
        if not result.passed:
            errors.setdefault(result.pattern, []).append(result)
    for failed in errors.values():
        checks = ", ".join(dict.fromkeys(result.check for result in failed))
        networks = ", ".join(dict.fromkeys(result.network for result in failed))
        yield checks, networks, "failed", failed[0].error if len(failed) > 1 else failed[0].message
