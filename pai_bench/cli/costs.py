"""The verb `time`."""

import argparse

from pai_bench.cli.console import FAILED, make_console, print_failure, print_report, print_table, progress_bar
from pai_bench.experiment import recipe
from pai_bench.experiment.sweep import Sweep
from pai_bench.support.errors import UserError


def time(arguments: argparse.Namespace) -> int:
    """``pai-bench time``."""
    from pai_bench.analyses.cost import measure_cost, measure_step
    from pai_bench.experiment.resolve import resolve
    from pai_bench.experiment.runner import Runner
    from pai_bench.report import costs
    from pai_bench.results import Cost, Store

    rounds, seconds = arguments.rounds, arguments.seconds
    if (rounds is not None and rounds < 1) or not 0 <= seconds < float("inf"):
        raise UserError(f"rounds {rounds} must be at least 1, and seconds {seconds:g} finite, not negative")
    flags = {key: value for key, value in vars(arguments).items() if key in recipe.KEYS and key != "out"}
    console = make_console()
    with console.status("reading data and building networks"):
        catalog = resolve(Sweep(**flags, seeds=1))
    for criterion in (trial.criterion for trial in catalog.trials):
        if criterion is not None and criterion.begins_dense:
            raise UserError(f"{criterion} prunes during training: what is timed is pruning before it")
    store, runner = Store(arguments.out, create=True), Runner(catalog, arguments.command)
    trials = [trial for trial in catalog.trials if trial.criterion is not None]
    measured, steps, failed = list[Cost](), dict[object, float](), False
    try:
        with progress_bar(console, "{task.description}") as progress:
            task = progress.add_task("timing", total=len(trials))
            for trial in trials:
                progress.update(task, description=f"timing {trial.criterion_name} on {trial.model}")
                try:
                    if (key := (trial.data, trial.model)) not in steps:
                        steps[key] = measure_step(runner, trial)
                    measured.append(measure_cost(runner, trial, steps[key], rounds=rounds, budget=seconds))
                except Exception as error:  # the others are worth measuring
                    failed = True
                    print_failure(progress.console, trial.criterion_name, trial.model.name, error)
                else:
                    store.write(measured[-1])
                progress.advance(task)
    finally:  # what was measured before an interrupt is worth seeing
        tabled = costs.groups(measured)
        for heading, group in zip(costs.headings(tabled), tabled, strict=True):
            print_table(console, costs.table(group), title=f"{costs.title(group[0])}: {costs.describe(group)}")
            if smaller := costs.smaller_table(group):
                print_table(console, smaller, title=f"{heading}: smaller networks beside the dense one")
        if measured or store.read_all(Cost) or any(store):
            print_report(console, store, store.path / "report.md")
    return FAILED if failed else 0
