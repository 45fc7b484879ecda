"""The verb `run`."""

import argparse
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pai_bench.cli.console import FAILED, INTERRUPTED, make_console, print_report
from pai_bench.experiment import recipe
from pai_bench.experiment.sweep import Sweep

if TYPE_CHECKING:
    from rich.console import Console

    from pai_bench.experiment.resolve import Catalog
    from pai_bench.experiment.trial import Trial
    from pai_bench.results import Record

logger = logging.getLogger(__name__)


def run(given: argparse.Namespace) -> int:
    """``pai-bench run``."""
    from pai_bench.execution.backend import find_backend
    from pai_bench.execution.probe import close, prepared
    from pai_bench.experiment.resolve import Catalog
    from pai_bench.support.memory import keep_freed_memory
    from pai_bench.training.protocol import DEFAULT

    find_backend(given.backend)  # before data are read
    keep_freed_memory()
    console, catalogs = make_console(), list[tuple[Catalog, str]]()
    try:
        with console.status("reading data and building networks"):
            grids = sweeps(given)
            if any(sweep.learning_rate is not None and sweep.protocol is None for sweep, _ in grids):
                logger.warning("without --protocol, the learning rate is that of Adam (%s); short is SGD", DEFAULT)
            for sweep, out in grids:
                catalogs.append((prepared(sweep), out))
                if len(grids) > 1:  # a process for each would be many
                    close([catalogs[-1][0]])
        return run_or_plan(console, catalogs, given)
    finally:
        close(catalog for catalog, _ in catalogs)


def run_or_plan(console: "Console", catalogs: "list[tuple[Catalog, str]]", given: argparse.Namespace) -> int:
    """Run some sweeps, or say what that would cost."""
    from pai_bench.report.summary import plural
    from pai_bench.report.tables import duration

    if getattr(given, "dry_run", False):
        seconds: list[float] = []
        planned: dict[str, set[str]] = {}  # grids may share trials
        for catalog, out in catalogs:
            missing = print_plan(console, catalog, out, retry_failed=getattr(given, "retry_failed", False))
            before = planned.setdefault(out, set())
            missing = [trial for trial in missing if trial.identity not in before]
            before |= {trial.identity for trial in missing}
            if missing:
                seconds.append(print_estimate(console, catalog, missing, given.backend))
        if len(seconds) > 1:
            console.print(f"about {duration(sum(seconds))} for all {len(catalogs)} grids")
        return 0
    try:
        failed = run_grids(console, catalogs, given)
    except KeyboardInterrupt:
        say_how_to_go_on(console, catalogs)
        return INTERRUPTED
    if failed:
        console.print(f"{plural(failed, 'trial')} failed; --retry-failed runs them again", style="red")
    return FAILED if failed else 0


def run_grids(console: "Console", catalogs: "list[tuple[Catalog, str]]", given: argparse.Namespace) -> int:
    """Run sweeps, and show what came of those that go into one results folder; the number of failed trials."""
    from pai_bench.cli.progress import Display
    from pai_bench.execution import run_catalogs
    from pai_bench.results import Store

    retry = getattr(given, "retry_failed", False)
    options: dict[str, Any] = {"listener": Display(console), "command": given.command, "backend": given.backend}
    made = run_catalogs(catalogs, retry_failed=retry, **options)
    failed = 0
    for out in dict.fromkeys(out for _, out in catalogs):
        # grids may share trials, the dense ones above all
        found = {one.identity: one for (_, of), part in zip(catalogs, made, strict=True) if of == out for one in part}
        print_tables(console, list(found.values()))
        print_report(console, Store(out), Path(out) / "report.md")
        failed += sum(record.status == "failed" for record in found.values())
    return failed


def say_how_to_go_on(console: "Console", catalogs: "list[tuple[Catalog, str]]") -> None:
    """One line after an interrupt: what is stored, and what the same command will do."""
    wanted = {(Path(out).resolve(), trial.identity) for catalog, out in catalogs for trial in catalog.trials}
    stored = sum(os.path.isfile(Path(out) / "trials" / f"{identity}.json") for out, identity in wanted)
    where = " and ".join(dict.fromkeys(out for _, out in catalogs))
    line = f"interrupted: {stored} of {len(wanted)} trials are stored in {where}; the same command runs the rest"
    console.print(line, markup=False)


def sweeps(given: argparse.Namespace) -> list[tuple[Sweep, str]]:
    """The sweeps that a command line asks for, each with its results folder."""
    flags = {key: value for key, value in vars(given).items() if key in recipe.KEYS}
    quick = recipe.load("quick").grids[0] if "quick" in given else {}
    grids = recipe.load(given.recipe, replaced={*quick, *flags}).grids if "recipe" in given else [{}]
    made = []
    for grid in grids:
        keys = grid | quick | flags
        out = keys.pop("out", "results")
        made.append((Sweep(**keys), out))
    return made


def print_plan(console: "Console", catalog: "Catalog", out: str, *, retry_failed: bool) -> "list[Trial]":
    """Show the trials of a sweep, and which of them are stored already; those that are not."""
    from pai_bench.execution import run_again
    from pai_bench.results import Store

    trials = Path(out) / "trials"
    records = list(Store(out)) if os.path.isdir(trials) and any(trials.glob("*.json")) else []
    stored = {r.identity for r in records if not run_again(r, catalog, retry_failed=retry_failed)}
    stored |= {trial.identity for trial in catalog.trials if trial.former and trial.former.identity in stored}
    for trial in catalog.trials:
        mark = "stored" if trial.identity in stored else "to run"
        console.print(f"{mark}  {trial.identity}", markup=False)
    missing = [trial for trial in catalog.trials if trial.identity not in stored]
    console.print(f"{len(catalog.trials)} trials, {len(missing)} to run on {catalog.device}")
    return missing


def print_estimate(console: "Console", catalog: "Catalog", missing: "list[Trial]", backend: str) -> float:
    """Show what the `missing` trials will cost, after measuring some steps and scores; the seconds."""
    from pai_bench.execution.estimate import estimate
    from pai_bench.experiment.runner import Runner
    from pai_bench.report.tables import duration, size

    with console.status("measuring some steps and scores"):
        found = estimate(Runner(catalog), missing, backend)
    parts = {"training": found.training, "evaluation": found.evaluation, "scoring": found.scoring}
    each = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts.items())
    console.print(f"about {duration(found.seconds)} on this machine ({each}), {found.plan}")
    line = f"about {size(found.memory)} of memory, and {size(found.disk)} in the results folder"
    console.print(line)
    for text in found.failed:
        console.print(f"not measured: {text}", markup=False, style="red")
    return found.seconds


def print_tables(console: "Console", records: "list[Record]") -> None:
    """Accuracy by criterion and sparsity, for each network and data set."""
    from rich.markup import escape
    from rich.table import Table

    from pai_bench.report import tables
    from pai_bench.report.summary import comparisons, plural
    from pai_bench.results import as_frame

    for comparison in comparisons(as_frame(records)):
        head, *body = tables.accuracy(comparison)
        title = f"{comparison.title}: test accuracy in %, mean ± standard deviation, {plural(comparison.seeds, 'seed')}"
        table = Table()
        for i, column in enumerate(head):
            table.add_column(column, justify="right" if i else "left")
        for row in body:
            table.add_row(*map(escape, row))
        console.print(title, markup=False)
        console.print(table)
        if any(comparison.rows.effective_sparsity > 0):
            console.print("in brackets: effective sparsity, of weights removed or on no path")
        for line in tables.remarks(comparison):
            console.print(line, markup=False)
