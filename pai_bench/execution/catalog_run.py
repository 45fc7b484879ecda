"""One catalog of a sweep: which of its trials are stored, which are to be run, and what becomes of them."""

import dataclasses
import logging
import operator
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

from pai_bench.data import DataSet
from pai_bench.execution.backend import Backend, Callbacks, Cell
from pai_bench.execution.evaluations import Evaluations
from pai_bench.execution.levels import Levels
from pai_bench.execution.listener import Listener
from pai_bench.experiment.examples import epoch_size
from pai_bench.experiment.resolve import Catalog
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.results import Record, Store, UnstorableError
from pai_bench.results.checkpoints import CheckpointFolder
from pai_bench.results.claims import Claims
from pai_bench.results.networks import NetworkFolder
from pai_bench.support.errors import UserError
from pai_bench.support.processes import interrupts_deferred

logger = logging.getLogger(__name__)


POLL = 1.0
"""Seconds between two looks at the trials that other processes run."""

identity: Callable[[Trial], str] = operator.attrgetter("identity")


class CatalogRun:
    """One catalog of a run: which of its trials are stored, which are to be run, and which other processes run."""

    backend: Backend

    def __init__(self, catalog: Catalog, store: Store, runner: Runner, listener: Listener) -> None:
        self.catalog, self.store, self.runner, self.listener = catalog, store, runner, listener
        self.records: dict[str, Record | None] = {}
        self.missing: list[Trial] = []
        self.run_before: list[Trial] = []
        """Missing trials that an earlier catalog with the same folder has, too, and runs."""
        self.new = 0
        """Trials that no earlier catalog with the same folder has."""
        self.done = 0
        """Trials that are not missing, or no longer."""
        self._trials = {trial.identity: trial for trial in catalog.trials}
        self.again: list[Trial] = []
        """Stored trials that are trained again for their network, which is to be evaluated."""
        self._wanted: set[str] = set()
        """Identities of the trials that are still missing."""
        self._at_work: set[str] = set()
        """Identities of those that are run now."""
        self._resumed: set[tuple[str, ...]] = set()
        """Identities of trials that resume together, from one checkpoint."""
        self._others: dict[str, Trial] = {}
        """Missing trials that other processes run, or that resume later, by identity."""
        self._levels = Levels(self._trials, NetworkFolder(store.path))
        self._evaluations = Evaluations(runner, store, catalog.sweep.metrics)
        runner.networks = self._levels.networks

    def find_missing(self, earlier: dict[str, bool], *, retry_failed: bool) -> None:
        """Find the missing trials; `earlier` has the trials of the folder so far, and whether they will be trained."""
        trained_before = {name for name, is_trained in earlier.items() if is_trained}
        for trial in self.catalog.trials:
            record = self.records[trial.identity] = self.read(trial)
            refuse_other_data(record, self.runner.inputs.loaded(trial), self.store)
            missing = record is None or run_again(record, self.catalog, retry_failed=retry_failed)
            self.new += trial.identity not in earlier
            if missing:
                (self.run_before if earlier.get(trial.identity) else self.missing).append(trial)
            earlier[trial.identity] = missing
        self.done = len(self.catalog.trials) - len(self.missing)
        coming = {trial.identity for trial in (*self.missing, *self.run_before)}
        self._levels.train_again([name for name in self._networks_to_evaluate(coming) if name not in coming])
        self.again = [trial for name, trial in self._levels.again.items() if name not in trained_before]
        earlier |= dict.fromkeys(self._levels.again, True)

    @property
    def has_work(self) -> bool:
        """Whether anything is to be trained or evaluated."""
        return bool(self.missing or self.again or self._networks_to_evaluate())

    def _networks_to_evaluate(self, coming: Collection[str] = ()) -> list[str]:
        """The names of the networks of which metrics are missing, and of those that these metrics need.

        Of trials that are `coming`, all metrics will be missing.
        """
        found = list[str]()
        for trial in self.catalog.trials:
            expected = list(self._evaluations.metrics) if trial.identity in coming else None
            if metrics := expected or self._evaluations.missing(trial, self.records[trial.identity]):
                found += self._evaluations.needed(trial, metrics)
        return found

    def read(self, trial: Trial) -> Record | None:
        """The stored record of a trial, also under a former identity."""
        record, former = self.store.read(trial.identity), trial.former
        if record is None and former is not None:
            record = self.store.adopt(former.identity, trial.identity, trial.configuration())
        return without_mask(record) if record else None

    def run(self, claims: Claims) -> None:
        """Run the missing trials, and at last wait for those that other processes run, or take them over."""
        self._claims, self._wanted = claims, set(map(identity, self.missing))
        self._read_again()
        self.checkpoints = self.runner.checkpoints = CheckpointFolder(self.store.path, claims.owner.id)
        claims.totals(self.done, len(self.catalog.trials))
        callbacks = Callbacks(self.still_missing, self.on_epoch, self.on_records)
        trials = f"{len(self.missing)} of {len(self.records)} trials"
        how = f"{self.catalog.device}, {self.backend.description}, threads: {self.backend.plan.threads}"
        logger.info("%s: %s to run on %s", self.store.path, trials, how)
        if self.catalog.sweep.keep_networks:
            self._levels.networks.keep_all()
        keep = self._trials if self.catalog.sweep.keep_networks or self.catalog.sweep.metrics else ()
        with self.backend:
            planned = self.cells(self._ready(self.missing))
            while planned or self._levels.waiting:
                self.backend.run(planned, callbacks)
                self._leave_taken_over()
                self._levels.remove_networks(self._is_done, keep)
                planned = self.cells(self._ready(self._left_by_others()))
        self._levels.remove_networks(self._is_done, keep)
        for cell in self._saved():
            if all(self.store.holds(trial.identity) for trial in cell):
                self.checkpoints.remove(names_of(cell))

    def evaluate(self, claims: Claims | None) -> None:
        """Compute the missing metrics of trained networks."""
        self._read_again()
        if self.catalog.sweep.keep_networks:
            self._levels.networks.keep_all()
        self._evaluations.run(self.catalog.trials, self.records, self.listener, claims)

    def remove_networks(self) -> None:
        """Remove the networks of which all metrics are stored, unless they are to be kept."""
        if not self.catalog.sweep.keep_networks:
            self._levels.remove_networks(self._is_done, set(self._networks_to_evaluate()))

    def _ready(self, missing: Sequence[Trial]) -> list[Trial]:
        """Those of the missing trials that can begin; levels whose parents have failed have failed, too."""
        ready, failed = self._levels.ready(missing, self._wanted, self.records)
        for trial, why in failed:
            if self._claim(trial):
                self.on_records([trial], [self.runner.failure(trial, UserError(why))], 0.0)
        return ready

    def _is_done(self, name: str) -> bool:
        """Whether a trial is stored, and will not run again here."""
        return name not in self._wanted and self.store.holds(name)

    def _to_run(self, cell: Cell) -> list[Trial]:
        """The trials of a cell that are missing, or whose network is."""
        return [trial for trial in cell if trial.identity in self._wanted or trial.identity in self._levels.again]

    def _saved(self) -> list[Cell]:
        """The trials of each checkpoint that has only trials of this catalog, as they were trained together."""
        cells = [checkpoint.trials for checkpoint in self.checkpoints]
        return [
            [self._trials[name] for name in names] for names in cells if all(name in self._trials for name in names)
        ]

    def cells(self, missing: Sequence[Trial]) -> list[Cell]:
        """Trials as they are trained together: first those that have a checkpoint, as it was made."""
        left, resumed = {trial.identity: trial for trial in missing}, list[Cell]()
        for cell in self._saved() if missing else ():
            if any(trial.identity in left for trial in cell):
                resumed.append(cell)
                for trial in cell:
                    left.pop(trial.identity, None)
        self._resumed |= set(map(names_of, resumed))
        return [*resumed, *cells(list(left.values()), self.backend.plan.lanes)]

    def still_missing(self, cell: Cell) -> list[Trial]:
        """The trials of a cell that are claimed now: no other process runs them, or has stored them meanwhile.

        Those of a checkpoint are run together, as they were trained: all or none, also where some are stored.
        """
        names = names_of(cell)
        if names in self._resumed:
            return self._claim_together(cell)
        beside = {trial.identity for saved in self._saved() if names_of(saved) != names for trial in saved}
        wanted = self._to_run(cell)
        self._others |= {trial.identity: trial for trial in wanted if trial.identity in beside}
        return [trial for trial in wanted if trial.identity not in beside and self._claim(trial)]

    def _claim_together(self, cell: Cell) -> list[Trial]:
        """All trials of a checkpoint, if this process gets the claim of the first, by which others leave them alone."""
        wanted = self._to_run(cell)
        if wanted and not self._claims.claim(cell[0].identity):
            self._others |= {trial.identity: trial for trial in wanted}
            return []
        claimed = [trial for trial in wanted if self._claim(trial)]
        if claimed:
            return list(cell)
        if cell[0].identity not in self._at_work:
            self._claims.release(cell[0].identity)
        return []

    def _claim(self, trial: Trial) -> bool:
        """Whether a trial is to be run here now."""
        if not self._claims.claim(trial.identity):
            self._others[trial.identity] = trial
            return False
        if self._skip_if_stored(trial):
            return False
        self._at_work.add(trial.identity)
        logger.info("begin %s", trial.identity)
        if self._is_reported(trial):
            self.listener.on_start(trial)
        return True

    def _skip_if_stored(self, trial: Trial) -> bool:
        """Skip a missing trial if another process has stored it since it was read; whether it has."""
        record, before = self.read(trial), self.records[trial.identity]
        if record is None or record == before:
            return False
        self.records[trial.identity] = record
        logger.info("stored by another process: %s", trial.identity)
        self._end(trial)
        self.listener.on_skip(trial)
        return True

    def _is_reported(self, trial: Trial) -> bool:
        """Whether the listener knows that a trial runs: not of parents that run again for their network."""
        return trial.identity in self._wanted or trial in self.again

    def _end(self, trial: Trial) -> None:
        """A trial is no longer missing."""
        self._wanted.discard(trial.identity)
        self._others.pop(trial.identity, None)
        self.done += 1
        self._claims.totals(self.done, len(self.catalog.trials))
        self._claims.release(trial.identity)

    def _leave_taken_over(self) -> None:
        """Leave the trials of which no records have come to others, which have taken over at least one of each cell."""
        self._claims.release_all()
        left, self._at_work = self._at_work & (self._wanted | self._levels.again.keys()), set()
        self._others |= {name: trial for name, trial in self._trials.items() if name in left}

    def _left_by_others(self) -> list[Trial]:
        """Trials that other processes have left; waits until there are some, or all are stored."""
        seen: list[str] | None = None
        while self._others:
            for trial in list(self._others.values()):
                self._skip_if_stored(trial)
            first = {trial.identity: cell[0].identity for cell in self._saved() for trial in cell}
            held, free = set[str](), list[Trial]()
            for name, trial in self._others.items():
                owners = [self._claims.holder(one) for one in dict.fromkeys((name, first.get(name, name)))]
                held |= {str(owner) for owner in owners if owner is not None}
                free += [trial] if owners.count(None) == len(owners) else []
            if free:
                for trial in free:
                    del self._others[trial.identity]
                return free
            if self._others and sorted(held) != seen:
                self.listener.on_wait(list(self._others.values()), seen := sorted(held))
            time.sleep(POLL if self._others else 0)
        return []

    def on_epoch(self, trial: Trial, epoch: int) -> None:
        """Report the progress of a trial."""
        if trial.identity in self._at_work:
            size = epoch_size(trial, self.runner.inputs.loaded(trial))
            self._claims.progress(trial.identity, epoch, trial.protocol.passes(size))
            if self._is_reported(trial):
                self.listener.on_epoch(trial, epoch)

    def on_records(self, cell: Cell, records: Sequence[Record], seconds: float) -> None:
        """Store the records of some trials, but for those that were stored before, and remove their checkpoint.

        All of them are stored before an interrupt ends the sweep.
        """
        with interrupts_deferred(first_only=True):
            for trial, record in zip(cell, records, strict=True):
                if trial.identity in self._at_work or (trial.identity in self._others and self._claim(trial)):
                    self._at_work.discard(trial.identity)
                    self._store(trial, record, seconds / len(cell))
            if self._others.keys().isdisjoint(map(identity, cell)):
                self.checkpoints.remove(names_of(cell))
            self._claims.release(cell[0].identity)

    def _store(self, trial: Trial, record: Record, seconds: float) -> None:
        """Store the record of a trial, unless another process has taken it over, or has been faster."""
        if trial.identity not in self._wanted:  # it is stored, and its network was missing
            self._levels.on_network(trial)
            self._claims.release(trial.identity)
            if self._is_reported(trial):
                self._warn_of_difference(trial, record)
                self.listener.on_finish(trial, record, seconds)
            return
        if not self._claims.holds(trial.identity) and not self._claims.claim(trial.identity):
            logger.warning("trial %s was taken over by another process: its result here is dropped", trial.identity)
            self._others[trial.identity] = trial
            return
        if self._skip_if_stored(trial):
            logger.warning("trial %s was stored by another process: its result here is dropped", trial.identity)
            return
        try:
            record = self._written(trial, record)
        except UnstorableError as error:
            record = self._written(trial, self.runner.failure(trial, error))
        if trial.identity in self._wanted:
            self.records[trial.identity] = without_mask(record)
            self._end(trial)
            log_end(record, seconds)
            self.listener.on_finish(trial, record, seconds)

    def _warn_of_difference(self, trial: Trial, record: Record) -> None:
        """Warn if a network that was trained again is another one than the stored record is of."""
        stored, new = (
            (one.evaluation.test_accuracy if one else None) for one in (self.records[trial.identity], record)
        )
        if stored != new:
            text = "trial %s, trained again, has test accuracy %s, and %s is stored: its metrics are of another network"
            logger.warning(text, trial.identity, new, stored)

    def _written(self, trial: Trial, record: Record) -> Record:
        """Write a record, but not over one that has come meanwhile, unless that cannot be read."""
        is_new = self.records[trial.identity] is None
        while not self.store.write(record, is_new=is_new):
            if self._skip_if_stored(trial):
                break
        return record

    def _read_again(self) -> None:
        """Read the records of trials that an earlier catalog has run meanwhile."""
        self.records |= {trial.identity: self.read(trial) for trial in self.run_before}

    def all_records(self) -> list[Record]:
        """The records of all trials that have one, also of those that an earlier catalog has run."""
        self._read_again()
        records = {identity: record for identity, record in self.records.items() if record is not None}
        if self.catalog.sweep.metrics:
            records = {name: self.store.with_metrics(record) for name, record in records.items()}
        if lost := [identity for identity in records if not self.store.holds(identity)]:
            logger.warning(
                "results folder %s no longer holds %d of %d trials, such as %s: they were removed meanwhile; the same "
                "command runs them again",
                *(self.store.path, len(lost), len(records), lost[0]),
            )
        return list(records.values())


def names_of(cell: Cell) -> tuple[str, ...]:
    """The identities of the trials of a cell."""
    return tuple(map(identity, cell))


def without_mask(record: Record) -> Record:
    """A record for the memory, of which the masks of thousands of trials would be most."""
    return dataclasses.replace(record, pruning=dataclasses.replace(record.pruning, mask=None, whole_mask=None))


def log_end(record: Record, seconds: float) -> None:
    """Log how a trial has ended."""
    why = f"\n{record.traceback or record.error}".rstrip() if record.status == "failed" else ""
    logger.info("%s %s after %.1f s%s", record.status, record.identity, seconds, why)


def cells(missing: Sequence[Trial], lanes: Callable[[Trial], int]) -> list[list[Trial]]:
    """Trials that are trained together, as many as there are lanes, in the order of the first of each."""
    groups: dict[object, list[list[Trial]]] = defaultdict(list)
    all_cells: list[list[Trial]] = []
    for trial in missing:
        group = groups[trial.data, trial.model, trial.protocol, trial.train_fraction, trial.length, trial.training_kind]
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
