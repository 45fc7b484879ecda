"""From a sweep to a results folder: what is missing, in which order and company, and who is told."""

import dataclasses
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pai_bench.data import DataSet
from pai_bench.execution.backend import Backend, Callbacks, find_backend
from pai_bench.execution.probe import close, prepared
from pai_bench.experiment.resolve import Catalog
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.sweep import Sweep
from pai_bench.experiment.trial import Trial
from pai_bench.results import Record, Store, UnstorableError, as_frame
from pai_bench.support.arrays import with_torch_defaults
from pai_bench.support.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


class Listener:
    """What is told of a sweep's progress. Every method may be overridden; the default listens to nothing."""

    def on_planning(self, trials: int) -> None:
        """So many trials are to be run; how they are run is found out now."""

    def on_begin(self, catalog: Catalog, backend: Backend, total: int, missing: list[Trial]) -> None:
        """A grid has `total` trials that no earlier one has, `missing` are to be run by `backend`; told before all."""

    def on_ready(self) -> None:
        """All grids have been told of; trials begin now."""

    def on_start(self, trial: Trial) -> None:
        """A trial begins."""

    def on_epoch(self, trial: Trial, epoch: int) -> None:
        """A trial has finished `epoch` epochs of training; 0 when training begins."""

    def on_finish(self, trial: Trial, record: Record, seconds: float) -> None:
        """A trial has ended, well or not, and is stored. Trials in lanes share their seconds."""

    def on_skip(self, trial: Trial) -> None:
        """A trial that was to be run has been stored by another process meanwhile."""

    def on_end(self) -> None:
        """The sweep is over, finished or not."""


def run(
    sweep: Sweep,
    out: str | Path = "results",
    *,
    retry_failed: bool = False,
    listener: Listener | None = None,
    command: str | None = None,
    backend: str = "auto",
) -> "pd.DataFrame":
    """Run what is missing of `sweep` in the results folder `out`; returns one row for each of its trials.

    `backend` is where: ``in-process``, ``processes``, another that is installed, or ``./file.py:FUNCTION``
    (`pai_bench.execution.backend`). By default it is one of the first two: workers, where they are faster or safer.
    """
    find_backend(backend)
    options: dict[str, Any] = {"listener": listener, "command": command, "backend": backend}
    return as_frame(run_catalog(prepared(sweep), out, retry_failed=retry_failed, **options))


def run_catalog(catalog: Catalog, out: str | Path, **options: Any) -> list[Record]:
    """The records of the catalog's trials, in their order, after running those that the folder `out` lacks.

    They are without their masks, which are stored. The options are those of `run_catalogs`.
    """
    return run_catalogs([(catalog, out)], **options)[0]


@with_torch_defaults
def run_catalogs(
    pairs: Sequence[tuple[Catalog, str | Path]],
    *,
    retry_failed: bool = False,
    listener: Listener | None = None,
    command: str | None = None,
    backend: str = "auto",
) -> list[list[Record]]:
    """The records of each of several catalogs, one after the other, with the folders where they are stored.

    How all of them are run is found out first, so that there is one time left.
    """
    make_backend = find_backend(backend)
    listener, taken, parts = listener or Listener(), dict[Path, dict[str, bool]](), list[_Part]()
    try:
        for catalog, out in pairs:
            part = _Part(catalog, Store(out, create=True), Runner(catalog, command), listener)
            part.find_missing(taken.setdefault(Path(out).resolve(), {}), retry_failed=retry_failed)
            parts.append(part)
        listener.on_planning(sum(len(part.missing) for part in parts))
        for part in parts:
            part.backend = make_backend(part.runner, part.missing)
            part.runner.inputs.release()
            if len(parts) > 1:
                close([part.catalog])
        for part in parts:
            listener.on_begin(part.catalog, part.backend, part.own, part.missing)
        listener.on_ready()
        for part in parts:
            part.run()
            part.runner.inputs.release()
        return [part.found() for part in parts]
    finally:
        listener.on_end()
        close(catalog for catalog, _ in pairs)


class _Part:
    """One catalog of a run: what of it is stored, and what is still to be run."""

    backend: Backend

    def __init__(self, catalog: Catalog, store: Store, runner: Runner, listener: Listener) -> None:
        self.catalog, self.store, self.runner, self.listener = catalog, store, runner, listener
        self.records: dict[str, Record | None] = {}
        self.missing: list[Trial] = []
        self.left_to_others: list[Trial] = []
        self.own = 0
        """Trials that no earlier part with the same folder has."""

    def find_missing(self, taken: dict[str, bool], *, retry_failed: bool) -> None:
        """Find what is missing; what is missing of an earlier part with the same folder is left to it.

        `taken` has the trials of that folder so far, and whether they are missing.
        """
        for trial in self.catalog.trials:
            record = self.records[trial.identity] = self.read(trial)
            refuse_other_data(record, self.runner.inputs.loaded(trial), self.store)
            wanted = record is None or run_again(record, self.catalog, retry_failed=retry_failed)
            self.own += trial.identity not in taken
            if wanted:
                (self.left_to_others if taken.get(trial.identity) else self.missing).append(trial)
            taken[trial.identity] = wanted

    def read(self, trial: Trial) -> Record | None:
        """The stored record of a trial, also under the name that it once had."""
        record, former = self.store.read(trial.identity), trial.former
        if record is None and former is not None:
            record = self.store.adopt(former.identity, trial.identity, trial.configuration())
        return without_mask(record) if record else None

    def run(self) -> None:
        """Run what is missing."""
        with self.backend:
            made = list(cells(self.missing, self.backend.plan.lanes))
            self.backend.run(made, Callbacks(self.still_missing, self.listener.on_epoch, self.on_records))

    def still_missing(self, cell: Sequence[Trial]) -> list[Trial]:
        """What is still missing of a cell; another process on the same folder may have been faster."""
        wanted = []
        for trial in cell:
            if self.records[trial.identity] is None and (record := self.read(trial)) is not None:
                self.records[trial.identity] = record
                self.listener.on_skip(trial)
            else:
                wanted.append(trial)
                self.listener.on_start(trial)
        return wanted

    def on_records(self, cell: Sequence[Trial], found: Sequence[Record], seconds: float) -> None:
        """Store the records of a cell."""
        for trial, record in zip(cell, found, strict=True):
            try:
                self.store.write(record)
            except UnstorableError as error:
                record = self.runner.failure(trial, error)
                self.store.write(record)
            self.records[trial.identity] = without_mask(record)
            self.listener.on_finish(trial, record, seconds / len(cell))

    def found(self) -> list[Record]:
        """The records of all trials that have one, those that an earlier part has run, too."""
        for trial in self.left_to_others:
            self.records[trial.identity] = self.read(trial)
        known = [identity for identity, record in self.records.items() if record is not None]
        if lost := [identity for identity in known if not self.store.holds(identity)]:
            logger.warning(
                "results folder %s no longer holds %d of %d trials, such as %s: they were removed meanwhile; the same "
                "command runs them again",
                *(self.store.path, len(lost), len(known), lost[0]),
            )
        return [record for record in self.records.values() if record is not None]


def without_mask(record: Record) -> Record:
    """A record to be kept in memory, where masks of thousands of trials would be most of it."""
    return dataclasses.replace(record, pruning=dataclasses.replace(record.pruning, mask=None, whole_mask=None))


def cells(missing: Sequence[Trial], lanes: Callable[[Trial], int]) -> Iterator[list[Trial]]:
    """Trials that are trained together, as many as there are lanes, in the order of the first of each."""
    open_cells: dict[object, list[Trial]] = defaultdict(list)
    made: list[list[Trial]] = []
    for trial in missing:
        kind = (trial.data, trial.model, trial.protocol, trial.train_fraction)
        cell = open_cells[kind]
        if not cell:
            made.append(cell)
        cell.append(trial)
        if len(cell) >= lanes(trial):
            del open_cells[kind]
    yield from made


def run_again(record: Record, catalog: Catalog, *, retry_failed: bool) -> bool:
    """Whether a trial is to be run although it is stored."""
    return {"failed": retry_failed, "disconnected": catalog.sweep.train_disconnected}.get(record.status, False)


def refuse_other_data(record: Record | None, data: DataSet, store: Store) -> None:
    """A stored result of a data set that has the same name, but not the same content, is not this trial's."""
    found = record.provenance.data.checksum if record else data.checksum
    if found != data.checksum:
        raise UserError(
            f"{store.path} holds results on {data.name} with checksum {found}, but now it has {data.checksum}; "
            "give another folder with --out"
        )
