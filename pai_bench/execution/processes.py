"""The backend of worker processes that share the processor of this machine, or its GPUs."""

import logging
import pickle
import signal
import time
from collections import Counter, deque
from collections.abc import Sequence
from multiprocessing.connection import wait
from typing import Any, Self

from pai_bench.execution.autotune import choose
from pai_bench.execution.backend import Backend, Callbacks, Cell
from pai_bench.execution.deaths import Deaths
from pai_bench.execution.execution_plan import ExecutionPlan
from pai_bench.execution.in_process import InProcess
from pai_bench.execution.worker_process import Worker, end, start
from pai_bench.experiment.runner import PAUSES, Runner
from pai_bench.experiment.trial import Trial
from pai_bench.support.environment import devices_of
from pai_bench.support.errors import UserError
from pai_bench.support.logs import log_received
from pai_bench.support.processes import HEARTBEAT, interrupts_deferred
from pai_bench.support.registry import backend

logger = logging.getLogger(__name__)

STARTS = 3
"""Workers that may die as they begin, in succession, before the sweep runs with fewer."""

DELAY = 0.5
"""Seconds until the next worker is started after one has died as it began; doubled with each further one."""


class Processes:
    """A `Backend` that names which trial ended a worker, halves what ran together, and tries once more.

    Where no worker can read the sweep, it runs in this process, unless workers are `required`, as by a sweep that sets
    their number.
    """

    def __init__(self, runner: Runner, plan: ExecutionPlan, *, required: bool | None = None) -> None:
        self.runner, self.plan = runner, plan
        self._required = runner.catalog.sweep.workers not in ("auto", 1) if required is None else required
        self._workers: list[Worker] = []
        self._most_workers, self._failed_starts = plan.workers, 0
        self._deaths, self._kills = Deaths(runner), 0
        """Workers that were killed since the last record came."""

    @property
    def description(self) -> str:
        """How many workers there are, and how many trials each trains together."""
        return str(self.plan)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers."""
        end(self._workers)
        self._workers.clear()

    def run(self, cells: Sequence[Cell], callbacks: Callbacks) -> None:
        """As of every `Backend`."""
        waiting = deque(cells)
        self._run_in_workers(waiting, callbacks)
        InProcess(self.runner, self.plan).run(waiting, callbacks)

    def _run_in_workers(self, waiting: "deque[Cell]", callbacks: Callbacks) -> None:
        """Run what is `waiting` in workers; leave it there if they cannot."""
        isolated = self.runner.catalog.isolated_process
        if isolated is not None and (worker := isolated.hand_over()) is not None:
            worker.ready = True
            self._workers.append(worker)
            self._send_plan(worker)
        while waiting or any(worker.cell for worker in self._workers):
            self._hand_out(waiting, callbacks)
            for worker in self._wait_for_messages():
                message_type, content = self._receive(worker)
                if message_type == "died" and worker.ready:
                    waiting.extendleft(self._handle_dead_worker(worker, callbacks))
                elif message_type == "died" and self._handle_failed_start(worker, waiting):
                    continue
                elif message_type in ("died", "unfit"):
                    self._give_up(content, waiting)
                    return
                else:
                    self._handle(worker, message_type, content, callbacks)

    def _wait_for_messages(self) -> list[Worker]:
        """The busy workers that have sent a message or died; those that are silent for too long are ended."""
        # none is busy where another process has run all that was left, and waiting for none would never end
        if not (busy := [worker for worker in self._workers if worker.cell]):
            return []
        start = time.monotonic()
        ready = wait([worker.connection for worker in busy], HEARTBEAT)
        waited = min(time.monotonic() - start, HEARTBEAT)  # longer only if this process was stopped, too
        for worker in busy:
            if worker.connection in ready:
                worker.silent = 0.0
            else:
                worker.add_silence(waited)
        # a process that a worker has started may keep the connection of a dead worker open
        return [worker for worker in busy if worker.connection in ready or worker.has_ended()]

    def _receive(self, worker: Worker) -> tuple[str, Any]:
        """The message of a worker, or that it has ``died``, and how."""
        try:
            if worker.has_ended():
                raise EOFError
            message: tuple[str, Any] = worker.connection.recv()
            return message
        except (EOFError, OSError):
            return "died", f"it ended as it started, with exit code {worker.process.wait()}"

    def _handle(self, worker: Worker, message_type: str, content: Any, callbacks: Callbacks) -> None:
        """Act on a message, unless it only says that the worker is alive."""
        if message_type == "ready":
            worker.ready, self._failed_starts = True, 0
            worker.since = time.perf_counter()  # the start of a worker is no time of a trial
        elif message_type == "epoch":
            index, number = content
            callbacks.on_epoch(worker.cell[index], number)
        elif message_type == "log":
            log_received(content)
        elif message_type == "taken over":
            worker.begin([])
        elif message_type == "records":
            indices, records = content
            trials, seconds = [worker.cell[index] for index in indices], time.perf_counter() - worker.since
            worker.since = time.perf_counter()
            worker.finished |= {trial.identity for trial in trials}
            if not worker.unfinished:
                worker.begin([])
            self._deaths.on_finish(trials[0])
            self._kills = 0
            callbacks.on_records(trials, records, seconds)

    def _give_up(self, why: str, waiting: "deque[Cell]") -> None:
        """Leave all to this process, unless workers are required."""
        if self._required:
            raise UserError(f"a worker process cannot run this sweep ({why}); use --workers 1")
        logger.warning("a worker process cannot run this sweep (%s); it runs in this process", why)
        waiting.extendleft(worker.unfinished for worker in reversed(self._workers) if worker.cell)
        self.close()

    def _handle_failed_start(self, worker: Worker, waiting: "deque[Cell]") -> bool:
        """Whether to try again, or with fewer, after a worker has died before it was ready."""
        others = [other for other in self._workers if other is not worker and other.process.poll() is None]
        self._failed_starts += 1
        if self._failed_starts >= STARTS and not others:
            return False
        self._workers.remove(worker)
        worker.close()
        code = worker.process.wait()
        waiting.appendleft(worker.cell)
        if self._failed_starts >= STARTS:
            self._most_workers = most = len(self._workers)
            logger.warning("worker processes die as they start (exit code %d): the sweep continues with %d", code, most)
        else:
            time.sleep(DELAY * 2 ** (self._failed_starts - 1))
        return True

    def _hand_out(self, waiting: "deque[Cell]", callbacks: Callbacks) -> None:
        """Give every free worker a cell, and start those that are needed."""
        while waiting:
            worker = next((worker for worker in self._workers if not worker.cell), None)
            if worker is None and len(self._workers) >= self._most_workers:
                return
            if missing := callbacks.still_missing(waiting.popleft()):
                try:
                    content = pickle.dumps(missing)
                    worker = worker or self._start()
                except (pickle.PicklingError, AttributeError, TypeError) as error:
                    message = f"this sweep cannot be given to worker processes ({error}); use --workers 1"
                    raise UserError(message) from error
                worker.begin(missing)
                worker.send(("run", content))

    def _start(self) -> Worker:
        """A new worker, which loads the data of its trials itself, but for those that have no name."""
        catalog, devices = self.runner.catalog, devices_of(self.runner.catalog.sweep.device)
        busy = Counter(worker.device for worker in self._workers)
        device = min(devices, key=lambda name: busy[name])
        own = {trial.data.name for trial in catalog.trials if not isinstance(trial.data.reference, str)}
        with interrupts_deferred():
            worker = start(catalog.sweep, {name: catalog.data[name] for name in own}, self.plan.threads, device)
            self._workers.append(worker)
        self._send_plan(worker)
        return worker

    def _send_plan(self, worker: Worker) -> None:
        runner = self.runner
        worker.send(("plan", (self.plan, type(runner), runner.settings)))

    def _handle_dead_worker(self, worker: Worker, callbacks: Callbacks) -> list[Cell]:
        """The cells that a dead worker leaves to be run again; a trial that ends workers repeatedly has failed."""
        self._workers.remove(worker)
        how = worker.ended()
        # where memory is short, the system kills the process that has most of it
        cell, killed = worker.unfinished, worker.process.returncode == -signal.SIGKILL
        if again := self._deaths.cells_to_run(cell, how):
            if killed:
                pause, self._kills = PAUSES[min(self._kills, len(PAUSES) - 1)], self._kills + 1
                logger.info("memory may be short: no worker is given trials for %g s", pause)
                time.sleep(pause)
            return again
        hint = "; memory may have been short" if killed else ""
        failure = self.runner.failure(cell[0], RuntimeError(f"the worker process died ({how}){hint}"))
        callbacks.on_records(cell, [failure], time.perf_counter() - worker.since)
        return []


@backend("processes", source="pai_bench")
def processes(runner: Runner, missing: Sequence[Trial]) -> Processes:
    """Worker processes, one at least."""
    return Processes(runner, choose(runner, missing))


@backend("auto", source="pai_bench")
def auto(runner: Runner, missing: Sequence[Trial]) -> Backend:
    """Worker processes where they are faster, or where code that is not ours may crash; or else this process."""
    plan = choose(runner, missing)
    if plan.workers > 1 or runner.catalog.isolated_process is not None:
        return Processes(runner, plan)
    return InProcess(runner, plan)
