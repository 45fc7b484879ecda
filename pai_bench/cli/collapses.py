"""The verb `collapse`."""

import argparse
import dataclasses
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from pai_bench.cli.console import (
    FAILED,
    INTERRUPTED,
    make_console,
    print_failure,
    print_report,
    print_table,
    progress_bar,
)
from pai_bench.cli.sweeps import sweeps

if TYPE_CHECKING:
    from rich.console import Console

    from pai_bench.analyses.collapse import Settings
    from pai_bench.experiment.runner import Runner
    from pai_bench.experiment.trial import Trial
    from pai_bench.results import Collapse, Store

PLAIN = {"sparsities": (0.5,), "variants": ("none",), "target": "direct", "min_per_layer": 0, "repair": "none"}
"""Keys of a recipe that do not concern a search -> a value that they may have."""


class Work(NamedTuple):
    """A search to be made, and where it is to be stored."""

    store: "Store"
    runner: "Runner"
    trial: "Trial"

    @property
    def group(self) -> tuple[str, str, str]:
        """What searches over seeds have in common: they take about the same time."""
        return self.trial.data.name, self.trial.model.name, self.trial.criterion_name


def collapse(arguments: argparse.Namespace) -> int:
    """``pai-bench collapse``."""
    from pai_bench.analyses.collapse import Settings, adopt, check_counts, stored
    from pai_bench.experiment.resolve import resolve
    from pai_bench.experiment.runner import Runner
    from pai_bench.report import collapse as report
    from pai_bench.results import Collapse, Store

    settings, console = Settings(arguments.points, arguments.rounds), make_console()
    done: dict[str, Collapse] = {}
    missing: dict[str, Work] = {}
    with console.status("reading data and building networks"):
        grids = [(resolve(dataclasses.replace(sweep, **PLAIN)), out) for sweep, out in sweeps(arguments)]  # type: ignore[arg-type]  # values of several types
        for criterion in dict.fromkeys(t.criterion for catalog, _ in grids for t in catalog.trials if t.criterion):
            check_counts(criterion)
        stores = {out: Store(out, create=True) for _, out in grids}
        for catalog, out in grids:
            runner = Runner(catalog, arguments.command)
            adopt(stores[out], runner, settings)
            known = stores[out].read_all(Collapse)
            for trial in (trial for trial in catalog.trials if trial.criterion is not None):
                key = f"{out} {settings.configuration(trial)}"  # grids may share trials
                if (result := stored(known, runner, trial, settings)) is None:
                    missing.setdefault(key, Work(stores[out], runner, trial))
                else:
                    done.setdefault(key, result)
    results, total = list(done.values()), len(done) + len(missing)
    try:
        failed = search_all(console, list(missing.values()), settings, results)
    except KeyboardInterrupt:
        console.print(f"interrupted: {len(results)} of {total} searches are stored; the same command runs the rest")
        return INTERRUPTED
    finally:
        for group in report.groups(results):
            print_table(console, report.table(group), title=report.title(group[0]))
        for store in stores.values():
            if store.read_all(Collapse):
                print_report(console, store, store.path / "report.md")
    return FAILED if failed else 0


def search_all(console: "Console", missing: list[Work], settings: "Settings", results: "list[Collapse]") -> int:
    """Make and store the `missing` searches, and add to the `results`; the number of those that failed."""
    from pai_bench.analyses.collapse import Search

    failed, forecast = 0, estimate(console, missing, settings, len(results))
    with progress_bar(console, "{task.description}", speed_estimate_period=120) as progress:
        task = progress.add_task("", total=sum(forecast[work.group] for work in missing))
        for work in missing:
            store, runner, trial = work
            progress.update(task, description=f"{trial.criterion_name} on {trial.model}, seed {trial.seed}")
            share, start, done = forecast[work.group], perf_counter(), progress.tasks[0].completed
            try:
                search = Search(runner, trial, settings)
                for i, _ in enumerate(search.steps(), 1):
                    progress.update(task, completed=done + share * min(1, i / search.evaluations()))
                results.append(search.result(perf_counter() - start))
            except Exception as error:  # the others are worth knowing
                failed += 1
                print_failure(progress.console, trial.criterion_name, trial.model.name, error)
            else:
                store.write(results[-1])
            progress.update(task, completed=done + share)
    return failed


def estimate(
    console: "Console", missing: list[Work], settings: "Settings", stored: int
) -> dict[tuple[str, str, str], float]:
    """Seconds that a search of each group will take, about; printed in all, before they begin."""
    from pai_bench.analyses.collapse import Search
    from pai_bench.report.tables import duration

    with console.status("estimating the time"):
        first = {work.group: work for work in reversed(missing)}
        forecast = dict.fromkeys(first, 0.0)
        for group, work in first.items():
            with suppress(Exception):  # the search itself will fail, and say why
                forecast[group] = Search(work.runner, work.trial, settings).seconds()
    text = f"{len(missing)} search{'' if len(missing) == 1 else 'es'}"
    if missing:
        text += f" on {missing[0].runner.device}, about {duration(sum(forecast[work.group] for work in missing))}"
    console.print(text + (f"; {stored} more are stored already" if stored else ""))
    return forecast
