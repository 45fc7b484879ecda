"""The verb `run`."""

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pai_bench.cli.console import FAILED, INTERRUPTED, make_console, print_report, print_table
from pai_bench.cli.parser import backend_name
from pai_bench.experiment import recipe
from pai_bench.experiment.sweep import Sweep
from pai_bench.support.durations import seconds_of

if TYPE_CHECKING:
    from rich.console import Console

    from pai_bench.experiment.resolve import Catalog
    from pai_bench.experiment.trial import Trial
    from pai_bench.results import Record

logger = logging.getLogger(__name__)


def run(arguments: argparse.Namespace) -> int:
    """``pai-bench run``."""
    from pai_bench.execution.backend import find_backend
    from pai_bench.execution.probe import close, prepared
    from pai_bench.execution.shards import keep_shard, parse_shard
    from pai_bench.experiment.resolve import Catalog
    from pai_bench.support.memory import keep_freed_memory
    from pai_bench.support.processes import TimeLimit
    from pai_bench.training.protocol import DEFAULT

    arguments.backend = backend_name(arguments)
    find_backend(arguments.backend)  # before data are read
    shard = None if arguments.shard is None else parse_shard(arguments.shard)
    limit = TimeLimit(None if arguments.time_limit is None else seconds_of(arguments.time_limit, "--time-limit"))
    keep_freed_memory()
    console, catalogs = make_console(), list[tuple[Catalog, str]]()
    try:
        with limit:
            with console.status("reading data and building networks"):
                grids = sweeps(arguments)
                if any(sweep.learning_rate is not None and sweep.protocol is None for sweep, _ in grids):
                    logger.warning("without --protocol, the learning rate is that of Adam (%s); short is SGD", DEFAULT)
                for sweep, out in grids:
                    catalogs.append((prepared(sweep), out))
                    if len(grids) > 1:  # a process for each would be many
                        close([catalogs[-1][0]])
                if shard is not None:
                    keep_shard([catalog for catalog, _ in catalogs], shard)
            return run_or_plan(console, catalogs, arguments)
    except KeyboardInterrupt:
        if not (limit.is_reached or catalogs):
            raise
        print_interruption(console, catalogs, f"time limit of {arguments.time_limit}" if limit.is_reached else None)
        return INTERRUPTED
    finally:
        close(catalog for catalog, _ in catalogs)


def run_or_plan(console: "Console", catalogs: "list[tuple[Catalog, str]]", arguments: argparse.Namespace) -> int:
    """Run some sweeps, or say what that would cost."""
    from pai_bench.report.summary import plural
    from pai_bench.report.tables import duration

    if arguments.shard is not None and not any(catalog.trials for catalog, _ in catalogs):
        console.print(f"shard {arguments.shard} has no trials: there are fewer than shards")
        return 0
    if arguments.dry_run:
        seconds: list[float] = []
        planned = set[tuple[str, str]]()  # grids may share trials
        for catalog, out in catalogs:
            missing = print_plan(console, catalog, out, retry_failed=arguments.retry_failed)
            missing = [trial for trial in missing if (out, trial.identity) not in planned]
            planned |= {(out, trial.identity) for trial in missing}
            if missing:
                seconds.append(print_estimate(console, catalog, missing, arguments.backend))
        if len(seconds) > 1:
            console.print(f"about {duration(sum(seconds))} for all {len(catalogs)} grids")
        return 0
    if failed := run_grids(console, catalogs, arguments):
        console.print(f"{plural(failed, 'trial')} failed; --retry-failed runs them again", style="red")
    if lacking := len(not_evaluated(catalogs)):
        text = f"{plural(lacking, 'network')} could not be evaluated; the same command tries again"
        console.print(text, style="red")
    return FAILED if failed or lacking else 0


def not_evaluated(catalogs: "Sequence[tuple[Catalog, str]]") -> set[tuple[str, str]]:
    """Folder and identity of the networks that lack metrics which their sweeps ask for."""
    from pai_bench.evaluation import get_metric, missing_metrics
    from pai_bench.results import Store

    found = set[tuple[str, str]]()
    for catalog, out in catalogs:
        metrics, store = [get_metric(name)[0] for name in catalog.sweep.metrics], Store(out)
        for name in {trial.identity for trial in catalog.trials} if metrics else ():
            record = store.read(name)
            if record is not None and record.status == "done" and missing_metrics(store, name, metrics):
                found.add((out, name))
    return found


def run_grids(console: "Console", catalogs: "list[tuple[Catalog, str]]", arguments: argparse.Namespace) -> int:
    """Run sweeps, and show what came of those that go into one results folder; the number of failed trials."""
    from pai_bench.cli.progress import Display
    from pai_bench.execution import run_catalogs
    from pai_bench.results import Store

    options: dict[str, Any] = {"retry_failed": arguments.retry_failed, "backend": arguments.backend}
    made = run_catalogs(catalogs, listener=Display(console), command=arguments.command, **options)
    by_folder: dict[str, dict[str, Record]] = {}  # and by identity: grids may share trials, the dense ones above all
    for (_, out), records in zip(catalogs, made, strict=True):
        by_folder.setdefault(out, {}).update({record.identity: record for record in records})
    for out, stored in by_folder.items():
        print_tables(console, list(stored.values()))
        print_report(console, Store(out), Path(out) / "report.md")
    return sum(record.status == "failed" for stored in by_folder.values() for record in stored.values())


def print_interruption(console: "Console", catalogs: "list[tuple[Catalog, str]]", limit: str | None) -> None:
    """One line after an interrupt, or at a time limit: what is stored, and what the same command will do."""
    from pai_bench.report.summary import plural
    from pai_bench.results.checkpoints import CheckpointFolder

    wanted = {(Path(out).resolve(), trial.identity) for catalog, out in catalogs for trial in catalog.trials}
    left = {(out, name) for out, name in wanted if not os.path.isfile(out / "trials" / f"{name}.json")}
    folders = dict.fromkeys(out for _, out in catalogs)
    where = " and ".join(folders) or "the results folder"
    checkpoints = [(Path(out).resolve(), one) for out in folders for one in CheckpointFolder(Path(out))]
    saved = len({(out, name) for out, one in checkpoints for name in one.trials} & left)
    stored = f"{len(wanted) - len(left)} of {len(wanted)} trials are stored in {where}"
    resumed = f", and {plural(saved, 'trial')} will resume from a checkpoint" if saved else ""
    console.print(f"{limit or 'interrupted'}: {stored}{resumed}; the same command runs the rest")


def sweeps(arguments: argparse.Namespace) -> list[tuple[Sweep, str]]:
    """The sweeps that a command line asks for, each with its results folder."""
    flags = {key: value for key, value in vars(arguments).items() if key in recipe.KEYS}
    if getattr(arguments, "quick", False):
        flags = recipe.load("quick").grids[0] | flags
    grids = recipe.load(arguments.recipe, replaced=flags).grids if arguments.recipe is not None else [{}]
    keys = [{"out": "results"} | grid | flags for grid in grids]
    return [(Sweep(**{key: grid[key] for key in grid if key != "out"}), grid["out"]) for grid in keys]


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
        console.print(f"{mark}  {trial.identity}")
    missing = [trial for trial in catalog.trials if trial.identity not in stored]
    console.print(f"{len(catalog.trials)} trials, {len(missing)} to run on {catalog.device}")
    if catalog.sweep.metrics:
        console.print(f"afterwards, not estimated: {', '.join(catalog.sweep.metrics)}")
    return missing


def print_estimate(console: "Console", catalog: "Catalog", missing: "list[Trial]", backend: str) -> float:
    """Show what the `missing` trials will cost, after measuring some steps and scores; the seconds."""
    from pai_bench.execution.estimate import estimate
    from pai_bench.experiment.runner import Runner
    from pai_bench.report.tables import duration, size

    with console.status("measuring some steps and scores"):
        cost = estimate(Runner(catalog), missing, backend)
    stages = ", ".join(f"{stage} {duration(getattr(cost, stage))}" for stage in ("training", "evaluation", "scoring"))
    console.print(f"about {duration(cost.seconds)} on this machine ({stages}), {cost.plan}")
    if structured := sum(trial.structured for trial in missing):
        console.print(f"less, as {structured} of the trials train smaller networks, which are counted as the dense one")
    console.print(f"about {size(cost.memory)} of memory, and {size(cost.disk)} in the results folder")
    for text in cost.failed:
        console.print(f"not measured: {text}", style="red")
    return cost.seconds


def print_tables(console: "Console", records: "list[Record]") -> None:
    """Accuracy by criterion and sparsity, for each network and data set."""
    from pai_bench.report import tables
    from pai_bench.report.summary import comparisons, plural
    from pai_bench.results import as_frame

    for comparison in comparisons(as_frame(records)):
        title = f"{comparison.title}: test accuracy in %, mean ± standard deviation, {plural(comparison.seeds, 'seed')}"
        console.print(title)
        print_table(console, tables.accuracy(comparison))
        if any(comparison.rows.effective_sparsity > 0):
            console.print("in brackets: effective sparsity, of weights removed or on no path")
        for remark in tables.remarks(comparison):
            console.print(remark)
