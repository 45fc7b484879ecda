"""From a sweep to a results folder: find the missing trials, group them, run them, and report the progress."""

import dataclasses
import logging
import operator
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pai_bench.data import DataSet
from pai_bench.execution.backend import Backend, Callbacks, Cell, find_backend
from pai_bench.execution.probe import close, prepared
from pai_bench.experiment.resolve import Catalog
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.sweep import Sweep
from pai_bench.experiment.trial import Trial
from pai_bench.results import Record, Store, UnstorableError, as_frame
from pai_bench.results.checkpoints import FOLDER, CheckpointFolder
from pai_bench.support.arrays import with_torch_defaults
from pai_bench.support.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


class Listener:
    """Methods that are called with a sweep's progress. Each may be overridden; by default they do nothing."""

    def on_planning(self, trials: int) -> None:
        """So many trials are to be run; how is determined now."""

    def on_begin(self, catalog: Catalog, backend: Backend, total: int, missing: list[Trial]) -> None:
        """A grid has `total` trials that no earlier grid has; `missing` are to be run by `backend`, later."""

    def on_ready(self) -> None:
        """`on_begin` was called for all grids; trials begin now."""

    def on_start(self, trial: Trial) -> None:
        """A trial begins."""

    def on_epoch(self, trial: Trial, epoch: int) -> None:
        """A trial has finished `epoch` epochs of training; 0 when training begins."""

    def on_finish(self, trial: Trial, record: Record, seconds: float) -> None:
        """A trial has ended, well or not, and is stored. Trials in lanes share their seconds."""

    def on_skip(self, trial: Trial) -> None:
        """A missing trial has been stored by another process meanwhile."""

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
    """Run the trials of `sweep` that the results folder `out` lacks; returns one row for each of its trials.

    `backend` is where they run: ``in-process``, ``processes``, another that is installed, or ``./file.py:FUNCTION``
    (`pai_bench.execution.backend`). By default it is one of the first two: workers, where they are faster or safer.
    """
    find_backend(backend)
    options: dict[str, Any] = {"listener": listener, "command": command, "backend": backend}
    return as_frame(run_catalog(prepared(sweep), out, retry_failed=retry_failed, **options))


def run_catalog(catalog: Catalog, out: str | Path, **options: Any) -> list[Record]:
    """The records of the catalog's trials, in their order, after running those that the folder `out` lacks.

    The masks are in the folder alone. The options are those of `run_catalogs`.
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

    How all of them are run is determined first, so that one remaining time can be shown.
    """
    make_backend = find_backend(backend)
    listener, parts, earlier = listener or Listener(), list[_CatalogRun](), dict[Path, dict[str, bool]]()
    try:
        for catalog, out in pairs:
            store = Store(out, create=True)
            runner = Runner(catalog, command, checkpoints=CheckpointFolder(store.path / FOLDER))
            part = _CatalogRun(catalog, store, runner, listener)
            part.find_missing(earlier.setdefault(Path(out).resolve(), {}), retry_failed=retry_failed)
            parts.append(part)
        listener.on_planning(sum(len(part.missing) for part in parts))
        for part in parts:
            part.backend = make_backend(part.runner, part.missing)
            part.runner.inputs.release()
            if len(parts) > 1:
                close([part.catalog])
        for part in parts:
            listener.on_begin(part.catalog, part.backend, part.new, part.missing)
        listener.on_ready()
        for part in parts:
            part.run()
            part.runner.inputs.release()
        return [part.all_records() for part in parts]
    finally:
        listener.on_end()
        close(catalog for catalog, _ in pairs)


class _CatalogRun:
    """One catalog of a run: which of its trials are stored, and which are to be run."""

    backend: Backend

    def __init__(self, catalog: Catalog, store: Store, runner: Runner, listener: Listener) -> None:
        self.catalog, self.store, self.runner, self.listener = catalog, store, runner, listener
        self.records: dict[str, Record | None] = {}
        self.missing: list[Trial] = []
        self.run_before: list[Trial] = []
        """Missing trials that an earlier catalog with the same folder has, too, and runs."""
        self.new = 0
        """Trials that no earlier catalog with the same folder has."""
        self.wanted: set[str] = set()
        """Identities of the missing trials."""
        self.at_work: set[str] = set()
        """Identities of those that are run now."""
        self.checkpoints = CheckpointFolder(store.path / FOLDER)
        self.resumed: set[tuple[str, ...]] = set()
        """Identities of trials that resume together, from one checkpoint."""

    def find_missing(self, earlier: dict[str, bool], *, retry_failed: bool) -> None:
        """Find the missing trials; `earlier` has the trials of the folder so far, and whether they are missing."""
        for trial in self.catalog.trials:
            record = self.records[trial.identity] = self.read(trial)
            refuse_other_data(record, self.runner.inputs.loaded(trial), self.store)
            missing = record is None or run_again(record, self.catalog, retry_failed=retry_failed)
            self.new += trial.identity not in earlier
            if missing:
                (self.run_before if earlier.get(trial.identity) else self.missing).append(trial)
            earlier[trial.identity] = missing

    def read(self, trial: Trial) -> Record | None:
        """The stored record of a trial, also under a former identity."""
        record, former = self.store.read(trial.identity), trial.former
        if record is None and former is not None:
            record = self.store.adopt(former.identity, trial.identity, trial.configuration())
        return without_mask(record) if record else None

    def run(self) -> None:
        """Run the missing trials."""
        with self.backend:
            callbacks = Callbacks(self.still_missing, self.on_epoch, self.on_records)
            self.backend.run(self.cells(), callbacks)

    def cells(self) -> list[Cell]:
        """The missing trials as they are trained together: first those that have a checkpoint, as it was made."""
        trials, missing = {trial.identity: trial for trial in self.catalog.trials}, set(map(identity, self.missing))
        self.wanted = set(missing)
        resumed = list[Cell]()
        for names in [checkpoint.trials for checkpoint in self.checkpoints]:
            if missing.isdisjoint(names):
                if all(map(self.store.holds, names)):
                    self.checkpoints.remove(names)
            elif all(name in trials for name in names):
                resumed.append([trials[name] for name in names])
                missing -= set(names)
        self.resumed = {tuple(map(identity, cell)) for cell in resumed}
        return [*resumed, *cells([t for t in self.missing if t.identity in missing], self.backend.plan.lanes)]

    def still_missing(self, cell: Cell) -> list[Trial]:
        """The trials of a cell that no other process on the same folder has stored meanwhile.

        Where some of a checkpoint are left, all its trials are run: they were trained together.
        """
        missing = []
        for trial in cell:
            if self.records[trial.identity] is None and (record := self.read(trial)) is not None:
                self.records[trial.identity] = record
                self.listener.on_skip(trial)
            elif trial.identity in self.wanted:
                missing.append(trial)
                self.at_work.add(trial.identity)
                self.listener.on_start(trial)
        return list(cell) if missing and tuple(map(identity, cell)) in self.resumed else missing

    def on_epoch(self, trial: Trial, epoch: int) -> None:
        """Report the progress of a trial."""
        if trial.identity in self.at_work:
            self.listener.on_epoch(trial, epoch)

    def on_records(self, cell: Cell, records: Sequence[Record], seconds: float) -> None:
        """Store the records of some trials, but for those that were stored before, and remove their checkpoint."""
        for trial, record in zip(cell, records, strict=True):
            if trial.identity not in self.at_work:
                continue
            self.at_work.remove(trial.identity)
            try:
                self.store.write(record)
            except UnstorableError as error:
                record = self.runner.failure(trial, error)
                self.store.write(record)
            self.records[trial.identity] = without_mask(record)
            self.listener.on_finish(trial, record, seconds / len(cell))
        self.checkpoints.remove(list(map(identity, cell)))

    def all_records(self) -> list[Record]:
        """The records of all trials that have one, also of those that an earlier catalog has run."""
        for trial in self.run_before:
            self.records[trial.identity] = self.read(trial)
        records = {identity: record for identity, record in self.records.items() if record is not None}
        if lost := [identity for identity in records if not self.store.holds(identity)]:
            logger.warning(
                "results folder %s no longer holds %d of %d trials, such as %s: they were removed meanwhile; the same "
                "command runs them again",
                *(self.store.path, len(lost), len(records), lost[0]),
            )
        return list(records.values())


identity: Callable[[Trial], str] = operator.attrgetter("identity")


def without_mask(record: Record) -> Record:
    """A record for the memory, of which the masks of thousands of trials would be most."""
    return dataclasses.replace(record, pruning=dataclasses.replace(record.pruning, mask=None, whole_mask=None))


def cells(missing: Sequence[Trial], lanes: Callable[[Trial], int]) -> list[list[Trial]]:
    """Trials that are trained together, as many as there are lanes, in the order of the first of each."""
    groups: dict[object, list[list[Trial]]] = defaultdict(list)
    all_cells: list[list[Trial]] = []
    for trial in missing:
        group = groups[trial.data, trial.model, trial.protocol, trial.train_fraction, trial.structured]
        if not group or len(group[-1]) >= lanes(trial):
            group.append([])
            all_cells.append(group[-1])
        group[-1].append(trial)
    return all_cells


def run_again(record: Record, catalog: Catalog, *, retry_failed: bool) -> bool:
    """Whether a trial is to be run although it is stored."""
    return {"failed": retry_failed, "disconnected": catalog.sweep.train_disconnected}.get(record.status, False)


def refuse_other_data(record: Record | None, data: DataSet, store: Store) -> None:
    """Raise UserError if a record is on a data set of the same name, but of another content."""
    if record and (stored := record.provenance.data.checksum) != data.checksum:
        raise UserError(
            f"{store.path} holds results on {data.name} with checksum {stored}, but now it has {data.checksum}; "
            "give another folder with --out"
        )
