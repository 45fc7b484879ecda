"""Metrics of the trained networks of a sweep, after they were trained or long after."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from pai_bench.evaluation import Dense, evaluate_network, get_metric, missing_metrics, needs_dense
from pai_bench.execution.autotune import START_UP, WORKER
from pai_bench.execution.backend import Callbacks, Cell
from pai_bench.execution.execution_plan import ExecutionPlan
from pai_bench.execution.in_process import InProcess
from pai_bench.execution.listener import Listener
from pai_bench.execution.processes import Processes
from pai_bench.experiment.kept_networks import MissingNetworkError, decode
from pai_bench.experiment.levels import content_of, dense_of
from pai_bench.experiment.resolve import Catalog
from pai_bench.experiment.runner import Finished, Runner
from pai_bench.experiment.trial import Trial
from pai_bench.results import Record, Store, UnwritableError
from pai_bench.results.claims import Claims
from pai_bench.results.networks import NetworkFolder
from pai_bench.support import processes
from pai_bench.support.environment import devices_of
from pai_bench.support.errors import UserError
from pai_bench.support.memory import free_bytes
from pai_bench.training.trainer import ENGINE, Engine

logger = logging.getLogger(__name__)

POLL = 1.0
"""Seconds between two looks at the networks that other processes evaluate."""


class Evaluator(Runner):
    """A runner that does not train trials: it computes the missing metrics of their kept networks, and stores them.

    A metric that fails, and a network that is not there, are warned of.
    """

    def __init__(
        self,
        catalog: Catalog,
        command: str | None = None,
        *,
        workers: int = 1,
        path: Path,
        metrics: Sequence[str],
    ) -> None:
        super().__init__(catalog, command, workers=workers)
        self.store = Store(path, create=True)
        self.networks: NetworkFolder = NetworkFolder(path)
        self.metrics = dict(map(get_metric, metrics))
        """Name with its options -> metric."""
        self._dense: tuple[str, Dense | None] = "", None

    @property
    def settings(self) -> dict[str, object]:
        """What makes another one of the same kind, but for the catalog and the number of workers."""
        return {"command": self.command, "path": self.store.path, "metrics": list(self.metrics)}

    def run_together(
        self, trials: Sequence[Trial], on_epoch: Callable[[Trial, int], None], engine: Engine = ENGINE
    ) -> Iterator[Finished]:
        """Evaluate the networks of some trials, one after the other; gives the record of each."""
        for trial in trials:
            try:
                self._evaluate(trial)
                record = self.store.get(trial.identity)
            except Exception as error:
                record = self.failure(trial, error)
            yield [trial], [record]

    def _evaluate(self, trial: Trial) -> None:
        """Evaluate one network, each metric by itself, so that one that fails takes no other with it."""
        if not (missing := missing_metrics(self.store, trial.identity, self.metrics)):
            return  # another process was faster
        if not self.networks.holds(trial.identity):
            logger.warning("trial %s is not evaluated: its network is not kept", trial.identity)
            return
        if (model := self.trained(trial)) is None:
            return
        data = self.inputs.data(trial, noisy=True)
        for name in missing:
            held_against = trial.criterion is not None and needs_dense(self.metrics[name])
            try:
                dense = self.dense(trial) if held_against else None
                evaluate_network(self.store, trial.identity, model, data, [name], dense)
            except UnwritableError:
                raise
            except UserError as error:
                logger.warning("trial %s: %s", trial.identity, error)

    def trained(self, trial: Trial) -> torch.nn.Module | None:
        """The trained network of a trial, as it was kept; None, with a warning, if it cannot be read."""
        name = trial.identity
        try:
            kept = decode(content_of(self.networks, name), name, self.inputs.device)
            return kept.load_into(self.inputs.model(trial)).to(self.inputs.device)
        except (UserError, MissingNetworkError) as error:
            logger.warning("%s; without %s, the same command trains it again", error, self.networks.path_of(name))
            return None

    def dense(self, trial: Trial) -> Dense | None:
        """The dense network of a trial, kept for the trials after it; None if there is none."""
        dense = dense_of(trial)
        if self._dense[0] != dense.identity:
            model = self.trained(dense) if self.networks.holds(dense.identity) else None
            if model is None:
                logger.warning("%s is not kept: networks are not held against it", dense.identity)
            self._dense = dense.identity, None if model is None else Dense(model.eval(), identity=dense.identity)
        return self._dense[1]


class Evaluations:
    """Which metrics of which networks of a sweep are missing, and where they are computed.

    Dense networks come first, since others are held against them. If the sweep leaves it open, worker processes divide
    the networks as soon as the first ones have shown that this is worth their start.
    """

    def __init__(self, runner: Runner, store: Store, metrics: Sequence[str]) -> None:
        self.store = store
        self.evaluator = Evaluator(runner.catalog, runner.command, path=store.path, metrics=metrics)
        self.evaluator.inputs = runner.inputs  # which holds the data
        self.metrics = self.evaluator.metrics

    def missing(self, trial: Trial, record: Record | None) -> list[str]:
        """The metrics that are not stored of a trial; none of what was not trained."""
        if record is None or record.status != "done" or not self.metrics:
            return []
        return missing_metrics(self.store, trial.identity, self.metrics)

    def needed(self, trial: Trial, missing: Sequence[str]) -> list[str]:
        """The names of the networks that the missing metrics of a trial need: its own, and the dense one."""
        dense = [dense_of(trial).identity] if any(map(needs_dense, (self.metrics[name] for name in missing))) else []
        return list(dict.fromkeys([trial.identity, *dense]))

    def run(
        self, trials: Sequence[Trial], records: Mapping[str, Record | None], listener: Listener, claims: Claims | None
    ) -> None:
        """Evaluate what is missing of some trials. With `claims`, what another process evaluates is waited for."""
        todo = [trial for trial in trials if self.missing(trial, records[trial.identity])]
        if not todo:
            return
        todo.sort(key=lambda trial: (dense_of(trial).identity, trial.criterion is not None))
        listener.on_evaluation(todo)

        tried = set[str]()

        def end(trial: Trial, seconds: float) -> None:
            if claims is not None:
                claims.release(trial.identity)
            listener.on_evaluated(trial, self.store.read_evaluation(trial.identity), seconds)

        def still_missing(cell: Cell) -> list[Trial]:
            free = [trial for trial in cell if claims is None or claims.claim(trial.identity)]
            tried.update(trial.identity for trial in free)
            left = [trial for trial in free if self.missing(trial, records[trial.identity])]
            for trial in free:
                if trial not in left:  # another process was faster
                    end(trial, 0.0)
            return left

        def on_records(cell: Cell, results: Sequence[Record], seconds: float) -> None:
            for trial, result in zip(cell, results, strict=True):
                if result.status == "failed":  # to evaluate: those that failed to train are not here
                    kind, _, text = (result.error or "").partition(": ")
                    if kind == UnwritableError.__name__:  # nor could anything else be stored
                        raise UnwritableError(text)
                    logger.warning("trial %s is not evaluated: %s", trial.identity, result.error)
                end(trial, seconds / len(cell))

        callbacks = Callbacks(still_missing, lambda _trial, _epoch: None, on_records)
        while todo:
            self._run(deque(todo), callbacks)
            others = [trial for trial in todo if trial.identity not in tried]
            todo = [] if claims is None else self._left_by_others(others, records, listener, claims)

    def _left_by_others(
        self, others: list[Trial], records: Mapping[str, Record | None], listener: Listener, claims: Claims
    ) -> list[Trial]:
        """Networks that other processes have left without metrics; waits until there are some, or all have them."""
        seen: list[str] | None = None
        while others:
            holders = {trial.identity: claims.holder(trial.identity) for trial in others}
            for trial in list(others):
                if not self.missing(trial, records[trial.identity]):
                    others.remove(trial)
                    listener.on_evaluated(trial, self.store.read_evaluation(trial.identity), 0.0)
            if free := [trial for trial in others if holders[trial.identity] is None]:
                return free
            if others and (held := sorted({str(holders[trial.identity]) for trial in others})) != seen:
                listener.on_wait(others, seen := held)
            time.sleep(POLL if others else 0)
        return []

    def _run(self, waiting: deque[Trial], callbacks: Callbacks) -> None:
        """Evaluate networks here, and in workers from when it is worth it."""
        begin, done, workers = time.monotonic(), 0, self._most_workers(len(waiting))
        while waiting and not self._is_worth(workers, time.monotonic() - begin, done, len(waiting)):
            InProcess(self.evaluator, ExecutionPlan()).run([[waiting.popleft()]], callbacks)
            done += 1
        if waiting:
            plan = ExecutionPlan(workers, max(1, torch.get_num_threads() // workers))
            logger.info("%d networks to evaluate in %d worker processes", len(waiting), workers)
            with Processes(self.evaluator, plan, required=False) as pool:
                pool.run(shares(list(waiting), workers), callbacks)

    def _most_workers(self, networks: int) -> int:
        """Workers that the sweep asks for, or else that the devices and the memory allow; 1 where none can be used."""
        catalog, device = self.evaluator.catalog, self.evaluator.device
        if not (catalog.by_name and processes.can_start()):
            return 1
        if catalog.sweep.workers != "auto":
            return min(int(catalog.sweep.workers), networks)
        if device.type != "cpu":
            return min(len(devices_of(catalog.sweep.device)), networks)
        size = WORKER + 2 * sum(data.nbytes for data in catalog.data.values())
        return max(1, min(torch.get_num_threads(), networks, free_bytes(device) // size))

    def _is_worth(self, workers: int, seconds: float, done: int, left: int) -> bool:
        """Whether workers are to evaluate what is left, after so many seconds for those that are done."""
        if self.evaluator.catalog.isolated_process is not None:  # a network may end the process that runs it
            return True
        if workers < 2 or self.evaluator.catalog.sweep.workers != "auto":
            return workers > 1
        return done > 0 and left > 1 and (seconds / done) * left * (1 - 1 / workers) > 2 * START_UP


def shares(trials: Sequence[Trial], workers: int) -> list[list[Trial]]:
    """Trials in their order, those with one dense network together, but none more than the share of a worker."""
    most, cells = -(-len(trials) // workers), list[list[Trial]]()
    for trial in trials:
        if not cells or len(cells[-1]) >= most or dense_of(cells[-1][0]) != dense_of(trial):
            cells.append([])
        cells[-1].append(trial)
    return cells
