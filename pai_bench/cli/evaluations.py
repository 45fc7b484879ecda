"""The verb `evaluate`: metrics of the networks of stored trials."""

import argparse
import logging
import os
import shlex
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from pai_bench.cli.console import FAILED, make_console
from pai_bench.cli.sweeps import not_evaluated, sweeps
from pai_bench.experiment.sweep import listed
from pai_bench.support.errors import UserError

if TYPE_CHECKING:
    from pai_bench.experiment.resolve import Catalog
    from pai_bench.experiment.sweep import Sweep
    from pai_bench.experiment.trial import Trial
    from pai_bench.results import Record, Store

logger = logging.getLogger(__name__)

KEPT = ("data_dir", "device", "workers", "keep_networks")
"""Flags of this command that take the place of those of the commands that have trained the networks."""


def evaluate(arguments: argparse.Namespace) -> int:
    """``pai-bench evaluate``."""
    from pai_bench.cli.progress import Display
    from pai_bench.evaluation import get_metric
    from pai_bench.execution import run_catalogs
    from pai_bench.execution.probe import close
    from pai_bench.report.summary import plural

    if not list(map(get_metric, listed(arguments.evaluate))):
        raise UserError("--evaluate names no metric; `pai-bench list metrics` names them")
    console = make_console()
    records = [record for record in evaluable(arguments.results) if record.status == "done"]
    if not records:
        raise UserError(f"results folder {arguments.results} has no trained networks to evaluate")
    catalogs = list["Catalog"]()
    try:
        with console.status("reading data and building networks"):
            left = add_catalogs(catalogs, records, arguments)
        if left:
            what = f"{plural(len(left), 'trial')} of {arguments.results}, such as {min(left)}"
            logger.warning("%s, cannot be made again from their commands, and are not evaluated", what)
        pairs = [(catalog, arguments.results) for catalog in catalogs]
        run_catalogs(pairs, listener=Display(console), command=arguments.command)
    finally:
        close(catalogs)
    if lacking := not_evaluated(pairs):
        console.print(f"{plural(len(lacking), 'network')} could not be evaluated", style="red")
    console.print(f"`pai-bench report {shlex.quote(arguments.results)}` writes the report")
    return FAILED if lacking or left else 0


def evaluable(results: str) -> "Store":
    """The results folder, or UserError if no metrics can be stored there."""
    from pai_bench.results import Store

    store = Store(results)
    if store.archived:
        raise UserError(f"{results} is a file of records, without networks: give the results folder itself")
    if not os.access(results, os.W_OK):
        raise UserError(f"{results} cannot be written, and metrics are stored in it: copy it to where it can be")
    return store


def add_catalogs(catalogs: "list[Catalog]", records: "Sequence[Record]", arguments: argparse.Namespace) -> set[str]:
    """Add the catalogs of the commands of some records; returns the identities of those that none of them has.

    Each has its dense networks, also where an earlier one has them. A command that cannot be read is warned of, or an
    error if there is no other.
    """
    from pai_bench.execution.probe import close

    stored, errors = {record.identity for record in records}, list[UserError]()
    left = set(stored)
    for text in dict.fromkeys(record.provenance.command for record in records):
        try:
            for sweep in trained_by(text, arguments):
                catalog = of_stored(sweep, stored)
                close([catalog])
                if names := left & set().union(*map(names_of, catalog.trials)):
                    catalogs.append(catalog)
                    left -= names
        except UserError as error:
            errors.append(UserError(f"the trials of `{text}` are not evaluated: {error}"))
    if errors and not catalogs:
        raise errors[0]
    for why in errors if left else ():
        logger.warning("%s", why)
    return left


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


def of_stored(sweep: "Sweep", stored: Collection[str]) -> "Catalog":
    """The catalog of a sweep with those of its trials alone that are stored."""
    from pai_bench.execution.probe import prepared

    catalog = prepared(sweep)
    catalog.trials = [trial for trial in catalog.trials if not names_of(trial).isdisjoint(stored)]
    return catalog


def names_of(trial: "Trial") -> set[str]:
    """The names by which a trial may be stored: its identity, and that of earlier versions."""
    return {one.identity for one in (trial, trial.former) if one is not None}
