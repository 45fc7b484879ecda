"""From a sweep to a results folder: what is missing, in which order and company, and who is told."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pai_bench.arrays import on_processor
from pai_bench.catalog import Catalog, resolve
from pai_bench.data import DataSet
from pai_bench.errors import UserError
from pai_bench.execution.choice import Choice, choose
from pai_bench.execution.pool import Pool
from pai_bench.plan import Sweep, Trial
from pai_bench.runner import Runner
from pai_bench.store import Record, Store, as_frame

if TYPE_CHECKING:
    import pandas as pd


class Listener:
    """What is told of a sweep's progress. Every method may be overridden; the default listens to nothing."""

    def look(self, trials: int) -> None:
        """So many trials are to be run; how they are run is found out now."""

    def begin(self, catalog: Catalog, choice: Choice, total: int, missing: list[Trial]) -> None:
        """The sweep has `total` trials, of which `missing` are to be run."""

    def start(self, trial: Trial) -> None:
        """A trial begins."""

    def epoch(self, trial: Trial, epoch: int) -> None:
        """A trial has finished `epoch` epochs of training; 0 when training begins."""

    def finish(self, trial: Trial, record: Record, seconds: float) -> None:
        """A trial has ended, well or not, and is stored. Trials in lanes share their seconds."""

    def skip(self, trial: Trial) -> None:
        """A trial that was to be run has been stored by another process meanwhile."""

    def end(self) -> None:
        """The sweep is over, finished or not."""


def run(
    sweep: Sweep,
    out: str | Path = "results",
    *,
    retry_failed: bool = False,
    listener: Listener | None = None,
    command: str | None = None,
) -> "pd.DataFrame":
    """Run what is missing of `sweep` in the results folder `out`; returns one row for each of its trials."""
    return as_frame(run_catalog(resolve(sweep), out, retry_failed=retry_failed, listener=listener, command=command))


@on_processor
def run_catalog(
    catalog: Catalog,
    out: str | Path,
    *,
    retry_failed: bool = False,
    listener: Listener | None = None,
    command: str | None = None,
) -> list[Record]:
    """The records of the catalog's trials, in their order, after running those that the folder `out` lacks."""
    store, listener = Store(out, create=True), listener or Listener()

    def read(trial: Trial) -> Record | None:
        record, former = store.read(trial.identity), catalog.former_identity(trial)
        if record is None and former is not None:
            return store.adopt(former, trial.identity, trial.configuration())
        return record

    records = {trial.identity: read(trial) for trial in catalog.trials}
    missing = []
    for trial in catalog.trials:
        record = records[trial.identity]
        refuse_other_data(record, catalog.data[trial.data], store)
        if record is None or run_again(record, catalog, retry_failed=retry_failed):
            missing.append(trial)
    runner = Runner(catalog, command)

    def ask(cell: Sequence[Trial]) -> list[Trial]:
        """What is still missing of a cell; another process on the same folder may have been faster."""
        wanted = []
        for trial in cell:
            if records[trial.identity] is None and (record := read(trial)) is not None:
                records[trial.identity] = record
                listener.skip(trial)
            else:
                wanted.append(trial)
                listener.start(trial)
        return wanted

    def take(cell: Sequence[Trial], found: Sequence[Record], seconds: float) -> None:
        for trial, record in zip(cell, found, strict=True):
            store.write(record)
            records[trial.identity] = record
            listener.finish(trial, record, seconds / len(cell))

    try:
        listener.look(len(missing))
        choice = choose(runner, missing)
        listener.begin(catalog, choice, len(catalog.trials), missing)
        with Pool(runner, choice) as pool:
            pool.run(list(cells(missing, choice.lanes)), ask=ask, epoch=listener.epoch, take=take)
    finally:
        listener.end()
    return [record for record in records.values() if record is not None]


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
    found = record.provenance["data"]["checksum"] if record else data.checksum
    if found != data.checksum:
        raise UserError(
            f"{store.path} holds results on {data.name} with checksum {found}, but now it has {data.checksum}; "
            "give another folder with --out"
        )
