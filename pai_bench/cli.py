"""The command line: one function per verb, which calls and prints. Arguments are in `pai_bench.arguments`."""

import argparse
import dataclasses
import io
import itertools
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from pai_bench import recipe
from pai_bench.arguments import parser
from pai_bench.environment import command
from pai_bench.errors import UserError
from pai_bench.plan import Sweep

if TYPE_CHECKING:
    from rich.console import Console

    from pai_bench.catalog import Catalog
    from pai_bench.conformance import Result
    from pai_bench.registry import Plugin
    from pai_bench.store import Record

FAILED, USER_ERROR, INTERRUPTED = 1, 2, 130


def run(given: argparse.Namespace) -> int:
    """``pai-bench run``."""
    from pai_bench.catalog import resolve
    from pai_bench.report.summary import plural

    grids = sweeps(given)
    console = make_console()
    with console.status("reading data and building networks"):
        catalogs = [(resolve(sweep), out) for sweep, out in grids]
    if getattr(given, "dry_run", False):
        for catalog, out in catalogs:
            print_plan(console, catalog, out)
        return 0
    try:
        failed = sum(run_folder(console, catalogs, out, given) for out in dict.fromkeys(out for _, out in catalogs))
    except KeyboardInterrupt:
        say_how_to_go_on(console, catalogs)
        return INTERRUPTED
    if failed:
        console.print(f"{plural(failed, 'trial')} failed; --retry-failed runs them again", style="red")
    return FAILED if failed else 0


def run_folder(console: "Console", catalogs: "list[tuple[Catalog, str]]", out: str, given: argparse.Namespace) -> int:
    """Run the sweeps that go into one results folder; the number of failed trials."""
    from pai_bench.progress import Display
    from pai_bench.report.page import write_report
    from pai_bench.runner import run_catalog
    from pai_bench.store import Store

    retry = getattr(given, "retry_failed", False)
    records: dict[str, Record] = {}  # grids may share trials, the dense ones above all
    for catalog in (catalog for catalog, folder in catalogs if folder == out):
        made = run_catalog(catalog, out, retry_failed=retry, listener=Display(console), command=given.command)
        records |= {record.identity: record for record in made}
    path = write_report(Store(out), Path(out) / "report.md")
    print_tables(console, list(records.values()))
    console.print(f"report: {path}", highlight=False, markup=False)
    return sum(record.status == "failed" for record in records.values())


def say_how_to_go_on(console: "Console", catalogs: "list[tuple[Catalog, str]]") -> None:
    """One line after an interrupt: what is stored, and what the same command will do."""
    wanted = {(out, trial.identity) for catalog, out in catalogs for trial in catalog.trials}
    stored = sum((Path(out) / "trials" / f"{identity}.json").is_file() for out, identity in wanted)
    where = " and ".join(dict.fromkeys(out for _, out in catalogs))
    line = f"interrupted: {stored} of {len(wanted)} trials are stored in {where}; the same command runs the rest"
    console.print(line, highlight=False, markup=False)


def sweeps(given: argparse.Namespace) -> list[tuple[Sweep, str]]:
    """The sweeps that a command line asks for, each with its results folder."""
    flags = {key: value for key, value in vars(given).items() if key in recipe.KEYS}
    grids = recipe.load(given.recipe) if "recipe" in given else [{}]
    quick = recipe.load("quick")[0] if "quick" in given else {}
    made = []
    for grid in grids:
        keys = grid | quick | flags
        out = keys.pop("out", "results")
        made.append((Sweep(**keys), out))
    return made


def print_plan(console: "Console", catalog: "Catalog", out: str) -> None:
    """The trials of a sweep, and which of them are stored already."""
    stored = {path.stem for path in (Path(out) / "trials").glob("*.json")}
    for trial in catalog.trials:
        mark = "stored" if trial.identity in stored else "to run"
        console.print(f"{mark}  {trial.identity}", highlight=False, markup=False)
    missing = sum(trial.identity not in stored for trial in catalog.trials)
    console.print(f"{len(catalog.trials)} trials, {missing} to run on {catalog.device}", highlight=False)


def print_tables(console: "Console", records: "list[Record]") -> None:
    """Accuracy by criterion and sparsity, for each network and data set."""
    from rich.markup import escape
    from rich.table import Table

    from pai_bench.report import tables
    from pai_bench.report.summary import comparisons, plural
    from pai_bench.store import as_frame

    for comparison in comparisons(as_frame(records)):
        head, *body = tables.accuracy(comparison)
        title = f"{comparison.title}: test accuracy in %, mean ± standard deviation, {plural(comparison.seeds, 'seed')}"
        table = Table()
        for i, column in enumerate(head):
            table.add_column(column, justify="right" if i else "left")
        for row in body:
            table.add_row(*map(escape, row))
        console.print(title, highlight=False, markup=False)
        console.print(table)
        if any(comparison.rows.effective_sparsity > 0):
            console.print("in brackets: effective sparsity, of weights removed or on no path", highlight=False)
        for line in tables.disconnections(comparison):
            console.print(line, highlight=False, markup=False)


def report(given: argparse.Namespace) -> int:
    """``pai-bench report``."""
    from pai_bench.report.page import write_report
    from pai_bench.store import Store

    store = Store(given.results)
    path = write_report(store, Path(getattr(given, "output", store.path / "report.md")), x=given.x)
    make_console().print(f"report: {path}", highlight=False, markup=False)
    return 0


def time(given: argparse.Namespace) -> int:
    """``pai-bench time``."""
    from rich.markup import escape
    from rich.progress import Progress

    from pai_bench.catalog import resolve
    from pai_bench.cost import measure_cost, measure_step
    from pai_bench.report import costs
    from pai_bench.report.page import write_report
    from pai_bench.runner import Runner
    from pai_bench.store import Cost, Store

    if given.rounds < 1 or not 0 <= given.seconds < float("inf"):
        raise UserError(f"rounds {given.rounds} must be at least 1, and seconds {given.seconds:g} finite, not negative")
    flags = {key: value for key, value in vars(given).items() if key in recipe.KEYS and key != "out"}
    console = make_console()
    with console.status("reading data and building networks"):
        catalog = resolve(Sweep(**flags, sparsities=(given.sparsity,), seeds=1))
    store, runner = Store(given.out, create=True), Runner(catalog, given.command)
    trials = [trial for trial in catalog.trials if trial.criterion is not None]
    measured, steps, failed = list[Cost](), dict[tuple[str, str], float](), 0
    try:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("timing", total=len(trials))
            for trial in trials:
                progress.update(task, description=escape(f"timing {trial.criterion_name} on {trial.model}"))
                try:
                    if (key := (trial.data, trial.model)) not in steps:
                        steps[key] = measure_step(runner, trial, rounds=given.rounds)
                    measured.append(measure_cost(runner, trial, steps[key], rounds=given.rounds, budget=given.seconds))
                except Exception as error:  # the others are worth measuring
                    failed += 1
                    line = f"{trial.criterion_name} failed on {trial.model}: {type(error).__name__}: {error}"
                    progress.console.print(line, style="red", highlight=False, markup=False)
                else:
                    store.write_cost(measured[-1])
                progress.advance(task)
    finally:  # what was measured before an interrupt is worth seeing
        for group in costs.groups(measured):
            print_table(console, f"{costs.title(group[0])}: {costs.describe(group)}", costs.table(group))
        if store.read_costs() or any(store):
            console.print(f"report: {write_report(store, store.path / 'report.md')}", highlight=False, markup=False)
    return FAILED if failed else 0


def collapse(given: argparse.Namespace) -> int:
    """``pai-bench collapse``."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from pai_bench.catalog import resolve
    from pai_bench.collapse import Search
    from pai_bench.report import collapse as report
    from pai_bench.report.page import write_report
    from pai_bench.report.tables import duration
    from pai_bench.runner import Runner
    from pai_bench.store import Collapse, Store

    if given.points < 2 or getattr(given, "rounds", 1) < 1:
        raise UserError(f"points {given.points} must be at least 2, and rounds at least 1")
    flags = {key: value for key, value in vars(given).items() if key in recipe.KEYS and key != "out"}
    console = make_console()
    with console.status("reading data and building networks"):
        catalog = resolve(Sweep(**flags, sparsities=(0.5,)))
    store, runner = Store(given.out, create=True), Runner(catalog, given.command)
    trials = [trial for trial in catalog.trials if trial.criterion is not None]
    rounds, found, failed = getattr(given, "rounds", None), list[Collapse](), 0
    with console.status("estimating the time"):
        kinds = {(t.data, t.model, t.criterion_name): t for t in reversed(trials)}
        forecast = {kind: Search(runner, t, given.points, rounds).seconds() for kind, t in kinds.items()}
    whole = sum(forecast[t.data, t.model, t.criterion_name] for t in trials)
    console.print(f"{len(trials)} searches on {catalog.device}, about {duration(whole)}", highlight=False)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True, speed_estimate_period=120) as progress:
            task = progress.add_task("", total=whole)
            for trial in trials:
                progress.update(task, description=f"{trial.criterion_name} on {trial.model}, seed {trial.seed}")
                share = forecast[trial.data, trial.model, trial.criterion_name]
                start, done = perf_counter(), progress.tasks[0].completed
                try:
                    search = Search(runner, trial, given.points, rounds)
                    for i, _ in enumerate(search.steps(), 1):
                        progress.update(task, completed=done + share * min(1, i / search.evaluations()))
                    found.append(search.result(perf_counter() - start))
                except Exception as error:  # the others are worth knowing
                    failed += 1
                    line = f"{trial.criterion_name} failed on {trial.model}: {type(error).__name__}: {error}"
                    progress.console.print(line, style="red", highlight=False, markup=False)
                else:
                    store.write_collapse(found[-1])
                progress.update(task, completed=done + share)
    finally:
        for group in report.groups(found):
            print_table(console, report.title(group[0]), report.table(group))
        if found:
            console.print(f"report: {write_report(store, store.path / 'report.md')}", highlight=False, markup=False)
    return FAILED if failed else 0


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


def prune(given: argparse.Namespace) -> int:
    """``pai-bench prune``."""
    from rich.table import Table
    from safetensors import SafetensorError

    from pai_bench.catalog import resolve
    from pai_bench.report import summary
    from pai_bench.runner import Runner

    if given.seed < 0:
        raise UserError(f"seed {given.seed} must not be negative")
    flags = {key: value for key, value in vars(given).items() if key in recipe.KEYS and key != "data"}
    axes = {
        "criteria": given.criterion,
        "models": given.model,
        "sparsities": given.sparsity,
        "data": given.data,
        "variants": given.variant,
    }
    catalog = resolve(Sweep(**axes, **flags, epochs=0))
    trial = dataclasses.replace(catalog.trials[1], seed=given.seed)
    runner = Runner(catalog)
    model = runner.model(trial)
    try:
        mask, cost = runner.mask(trial, model, runner.data(trial))
    except Exception as error:
        raise UserError(f"{trial.criterion_name} failed on {trial.model}: {type(error).__name__}: {error}") from error
    assert mask is not None
    assert cost is not None
    try:
        mask.save(given.output)
    except (OSError, SafetensorError) as error:
        raise UserError(f"the mask cannot be written to {given.output} ({error})") from error
    console = make_console()
    table = Table(title=f"{trial.method} on {trial.model}, sparsity {mask.sparsity:.4f}", title_justify="left")
    for column in ("layer", "weights", "kept", "density in %"):
        table.add_column(column, justify="left" if column == "layer" else "right")
    for name, kept in mask.kept_per_layer().items():
        size = mask[name].numel()
        table.add_row(name, f"{size:,}", f"{kept:,}", f"{100 * kept / size:.3g}", style=None if kept else "red")
    console.print(table)
    line = f"mask: {given.output}, {mask.kept:,} of {mask.size:,} connections, scored in {cost.seconds:.3g} s"
    console.print(line, highlight=False, markup=False)
    if (links := runner.links(model, mask, runner.data(trial))) is not None:
        cut = "connected" if links.connected else f"disconnected, first in {links.first_cut}"
        dead = f"; dead: {', '.join(links.dead_layers)}" if links.connected and links.dead_layers else ""
        share = summary.share(links.effective_sparsity)
        console.print(f"{cut}; effective sparsity {share}{dead}", highlight=False, markup=False)
    if catalog.variants[trial.variant].redraws:
        console.print("variant reinit: the mask is the plain one; draw the weights again before training")
    return 0


def check(given: argparse.Namespace) -> int:
    """``pai-bench check``."""
    from rich.markup import escape
    from rich.table import Table

    from pai_bench.conformance import run_checks
    from pai_bench.pruning import get_criterion
    from pai_bench.report.summary import plural

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
    console.print(line, highlight=False, markup=False)
    return FAILED if failed else 0


def check_rows(results: "list[Result]") -> Iterator[tuple[str, str, str, str]]:
    """One row for the networks on which a check passed, and one for each on which it failed."""
    for name, group in itertools.groupby(results, key=lambda result: result.check):
        found = list(group)
        if passed := [result.network for result in found if result.passed]:
            yield name, ", ".join(passed), "passed", ""
        for result in found:
            if not result.passed:
                yield name, result.network, "failed", result.message


def list_plugins(given: argparse.Namespace) -> int:
    """``pai-bench list``."""
    from rich.table import Table

    from pai_bench import registry

    table = Table(show_edge=False)
    if given.kind == "recipes":
        rows = [[name, text] for name, text in recipe.shipped().items()]
        columns = ["name", "what it does"]
    elif given.kind == "criteria":
        rows = [criterion_row(plugin) for plugin in registry.CRITERIA.plugins()]
        columns = ["name", "score", "schedule", "options", "source"]
    else:
        found = registry.MODELS if given.kind == "models" else registry.DATA
        rows = [[plugin_name(p), first_paragraph(p.target), p.source] for p in found.plugins()]
        columns = ["name", "what it is", "source"]
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    console = make_console()
    console.print(table)
    if given.kind == "criteria":
        from pai_bench.pruning import Criterion

        every = options(f for f in dataclasses.fields(Criterion) if f.name != "bn")
        console.print(f"every criterion: {every}\nfor example snip:bn=train:micro-batch=32", highlight=False)
    return 0


def plugin_name(plugin: "Plugin") -> str:
    """A name with its aliases; a prefix shows that an argument follows."""
    name = plugin.name + ("NAME" if plugin.name.endswith(":") else "")
    return f"{name} ({', '.join(plugin.aliases)})" if plugin.aliases else name


def criterion_row(plugin: "Plugin") -> list[str]:
    """Facts about a criterion: its formula, schedule, own options and mode of batch norm, and source."""
    from pai_bench.pruning import Criterion

    common = {f.name for f in dataclasses.fields(Criterion)} - ({"bn"} if plugin.target.uses_data else set())
    return [
        plugin.name,
        first_paragraph(plugin.target),
        str(plugin.target.schedule),
        options(f for f in dataclasses.fields(plugin.target) if f.name not in common),
        plugin.source,
    ]


def options(fields: "Iterable[dataclasses.Field[Any]]") -> str:
    """Options as they are written behind a criterion's name, with their defaults."""
    return " ".join(f"{f.name.replace('_', '-')}={f.default}" for f in fields)


def first_paragraph(target: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((getattr(target, "__doc__", "") or "").strip().partition("\n\n")[0].split())


def make_console() -> "Console":
    """A console that does not break lines in a log at 80 columns."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 160))


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": run,
    "report": report,
    "time": time,
    "collapse": collapse,
    "prune": prune,
    "check": check,
    "list": list_plugins,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows few characters is no reason to fail
            stream.reconfigure(errors="replace")
    try:
        given, rest = parser().parse_known_args(arguments)
        given.parser.refuse(rest)
        given.command = command(arguments)
        logging.basicConfig(level=given.log_level.upper(), format="%(levelname)s: %(message)s")
        return VERBS[given.verb](given)
    except UserError as error:
        print(f"pai-bench: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("pai-bench: interrupted", file=sys.stderr)
        return INTERRUPTED
