"""The verb `evaluate`: metrics of the networks of stored trials."""

import argparse
import logging
import os
import shlex
from typing import TYPE_CHECKING

from pai_bench.cli.console import FAILED, make_console
from pai_bench.cli.sweeps import sweeps
from pai_bench.experiment.sweep import listed
from pai_bench.support.errors import UserError

if TYPE_CHECKING:
    from pai_bench.experiment.resolve import Catalog
    from pai_bench.experiment.sweep import Sweep

logger = logging.getLogger(__name__)

KEPT = ("data_dir", "device", "workers", "keep_networks")
"""Flags of this command that take the place of those of the commands that have trained the networks."""


def evaluate(arguments: argparse.Namespace) -> int:
    """``pai-bench evaluate``."""
    from pai_bench.cli.progress import Display
    from pai_bench.evaluation import get_metric, missing_metrics
    from pai_bench.execution import run_catalogs
    from pai_bench.execution.probe import close
    from pai_bench.report.summary import plural
    from pai_bench.results import Store

    store, console = Store(arguments.results), make_console()
    records = {record.identity: record for record in store if record.status == "done"}
    if not records:
        raise UserError(f"results folder {arguments.results} has no trained networks to evaluate")
    commands = dict.fromkeys(record.provenance.command for record in records.values())
    catalogs = list["Catalog"]()
    try:
        with console.status("reading data and building networks"):
            left = set(records)
            for text in commands:
                for sweep in trained_by(text, arguments):
                    catalogs.append(of_stored(sweep, left))
                    left -= {trial.identity for trial in catalogs[-1].trials}
                    close([catalogs[-1]])
        if left:
            what = f"{plural(len(left), 'trial')} of {arguments.results}, such as {min(left)}"
            logger.warning("%s, cannot be made again from their commands, and are not evaluated", what)
        run_catalogs(
            [(catalog, arguments.results) for catalog in catalogs if catalog.trials],
            listener=Display(console),
            command=arguments.command,
        )
    finally:
        close(catalogs)
    metrics = [get_metric(name)[0] for name in listed(arguments.evaluate)]
    lacking = [name for name in records if name not in left and missing_metrics(store, name, metrics)]
    if lacking:
        console.print(f"{plural(len(lacking), 'network')} could not be evaluated", style="red")
    console.print(f"`pai-bench report {shlex.quote(arguments.results)}` writes the report")
    return FAILED if lacking or left else 0


def trained_by(command: str | None, arguments: argparse.Namespace) -> "list[Sweep]":
    """The sweeps of a command that has trained networks, to be evaluated as this command says."""
    from pai_bench.cli.parser import divide, parser

    if command is None:
        logger.warning("trials that were run from Python are evaluated from there: pai_bench.Sweep(evaluate=...)")
        return []
    words = shlex.split(command)[1:]
    if words[:1] != ["run"]:
        raise UserError(f"trials were made by {command!r}, which is no `pai-bench run`")
    before, _ = parser().parse_known_args(words)
    divide(before)
    for name in ("device", "workers"):  # of another machine, perhaps
        vars(before).pop(name, None)
    if not os.path.isdir(getattr(before, "data_dir", "")):  # of which the command has the last part alone
        vars(before).pop("data_dir", None)
    before.evaluate = arguments.evaluate
    for name in KEPT:
        if name in vars(arguments):
            setattr(before, name, getattr(arguments, name))
    return [sweep for sweep, _ in sweeps(before)]


def of_stored(sweep: "Sweep", wanted: set[str]) -> "Catalog":
    """The catalog of a sweep with those of its trials alone that are wanted."""
    from pai_bench.execution.probe import prepared

    catalog = prepared(sweep)
    catalog.trials = [trial for trial in catalog.trials if trial.identity in wanted]
    return catalog
