"""The verbs `time` and `collapse`, which measure and train nothing."""

import argparse
from time import perf_counter

from pai_bench import recipe
from pai_bench.errors import UserError
from pai_bench.plan import Sweep
from pai_bench.verbs.console import FAILED, make_console, print_table


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
