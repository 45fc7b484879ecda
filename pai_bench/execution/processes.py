"""The backend of worker processes that share the processor of this machine."""

import logging
import pickle
import signal
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Self

from pai_bench.execution import worker_process
from pai_bench.execution.autotune import choose
from pai_bench.execution.backend import Backend, Callbacks, Cell
from pai_bench.execution.execution_plan import ExecutionPlan
from pai_bench.execution.in_process import InProcess
from pai_bench.execution.worker_process import Worker, end, start
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.support.errors import UserError
from pai_bench.support.processes import HEARTBEAT, interrupts_deferred
from pai_bench.support.registry import backend

logger = logging.getLogger(__name__)

ATTEMPTS = 2
"""How often a trial is run whose worker dies; once, if so many have died of a network of which none has run."""

STARTS = 3
"""How many workers may die as they begin, one after the other, until it is tried with fewer."""

DELAY = 0.5
"""Seconds until a worker is started after one has died as it began; twice as long after each further one."""


class Processes:
    """A `Backend` that names which trial ended a worker, halves what ran together, and tries once more.

    Where no worker can read the sweep, it runs in this process, if the sweep leaves that open.
    """

    def __init__(self, runner: Runner, plan: ExecutionPlan) -> None:
        self.runner, self.plan = runner, plan
        self._workers: list[Worker] = []
        self._room, self._failed_starts = plan.workers, 0
        self._run: set[str] = set()
        """Networks of which a worker has run a trial."""
        self._deaths: Counter[str] = Counter()
        """Of workers, by the network that they ran alone."""
        self._attempts: Counter[str] = Counter()
        """Deaths of workers, by the trial that they ran alone."""

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
        self._run_apart(waiting, callbacks)
        InProcess(self.runner, self.plan).run(waiting, callbacks)

    def _run_apart(self, waiting: "deque[Cell]", callbacks: Callbacks) -> None:
        """Run what is `waiting` in workers; leave it there if they cannot."""
        self._looked = time.monotonic()
        isolated = self.runner.catalog.isolated_process
        if isolated is not None and (worker := isolated.hand_over()) is not None:
            worker.ready = True
            self._workers.append(worker)
            self._choose_for(worker)
        while waiting or any(worker.cell for worker in self._workers):
            self._hand_out(waiting, callbacks)
            # nobody is busy where another process has done all that was left: waiting for nobody would be for ever
            busy = [worker.connection for worker in self._workers if worker.cell]
            for connection in (wait(busy, HEARTBEAT) or self._of_dead()) if busy else ():
                worker = next(one for one in self._workers if one.connection is connection)
                message_type, content = self._receive(worker)
                if message_type == "died" and worker.ready:
                    waiting.extendleft(self._handle_dead_worker(worker, callbacks))
                elif message_type == "died" and self._goes_on_without(worker, waiting):
                    continue
                elif message_type in ("died", "unfit"):
                    self._give_up(content, waiting)
                    return
                else:
                    self._handle(worker, message_type, content, callbacks)
            self._end_silent()

    def _receive(self, worker: Worker) -> tuple[str, Any]:
        """What a worker says, or that it has ``died`` or is ``unfit``, and why."""
        try:
            if worker.has_ended():
                raise EOFError
            message_type, content = worker.connection.recv()
        except (EOFError, OSError):
            return "died", f"it ended as it began, with exit code {worker.process.wait()}"
        worker.heard = time.monotonic()
        return message_type, content

    def _handle(self, worker: Worker, message_type: str, content: Any, callbacks: Callbacks) -> None:
        """Note what a worker says; signs of life are no news here."""
        if message_type == "ready":
            worker.ready, self._failed_starts = True, 0
            worker.since = time.perf_counter()  # what it takes to begin is no time of a trial
        elif message_type == "epoch":
            place, number = content
            callbacks.on_epoch(worker.cell[place], number)
        elif message_type == "records":
            cell, worker.cell = worker.cell, []
            self._run.add(cell[0].model.name)
            callbacks.on_records(cell, content, time.perf_counter() - worker.since)

    def _give_up(self, why: str, waiting: "deque[Cell]") -> None:
        """Leave all to this process, if the sweep asks for no number of workers."""
        if self.runner.catalog.sweep.workers not in ("auto", 1):
            raise UserError(f"a worker process cannot run this sweep ({why}); use --workers 1")
        logger.warning("a worker process cannot run this sweep (%s); it runs in this process", why)
        waiting.extendleft(one.cell for one in reversed(self._workers) if one.cell)
        self.close()

    def _of_dead(self) -> list[Connection]:
        """The connections of busy workers that have died without closing them, as where they have started others."""
        return [worker.connection for worker in self._workers if worker.cell and worker.has_ended()]

    def _end_silent(self) -> None:
        """End workers that have been stopped: what they had is then run again, as of any that has died."""
        now = time.monotonic()
        if (pause := now - self._looked) > 2 * HEARTBEAT:  # this process did not run, or not look
            for worker in self._workers:
                worker.heard += pause
        self._looked = now
        for worker in self._workers:
            if worker.cell and now - worker.heard > worker_process.SILENCE:
                worker.end_silent()
                worker.heard = now

    def _goes_on_without(self, worker: Worker, waiting: "deque[Cell]") -> bool:
        """Whether to try again, or with fewer, after a worker has died before it was ready."""
        others = [one for one in self._workers if one is not worker and one.process.poll() is None]
        self._failed_starts += 1
        if self._failed_starts >= STARTS and not others:
            return False
        self._workers.remove(worker)
        worker.close()
        code = worker.process.wait()
        waiting.appendleft(worker.cell)
        if self._failed_starts >= STARTS:
            self._room = len(self._workers)
            logger.warning("worker processes die as they begin (exit code %d): it goes on with %d", code, self._room)
        else:
            time.sleep(DELAY * 2 ** (self._failed_starts - 1))
        return True

    def _hand_out(self, waiting: "deque[Cell]", callbacks: Callbacks) -> None:
        """Give every free worker a cell, and start those that are needed."""
        while waiting:
            worker = next((one for one in self._workers if not one.cell), None)
            if worker is None and len(self._workers) >= self._room:
                return
            if wanted := callbacks.still_missing(waiting.popleft()):
                try:
                    content = pickle.dumps((wanted,))
                    worker = worker or self._start()
                except (pickle.PicklingError, AttributeError, TypeError) as error:
                    what = f"this sweep cannot be given to worker processes ({error}); use --workers 1"
                    raise UserError(what) from error
                worker.cell, worker.since = wanted, time.perf_counter()
                worker.heard = time.monotonic()  # signs of life are read of busy workers alone
                with suppress(OSError):  # if it is dead, its connection says so when it is read
                    worker.connection.send(("run", content))

    def _start(self) -> Worker:
        """A new worker, which loads the data of its trials by itself, but for those that have no name elsewhere."""
        catalog = self.runner.catalog
        own = {trial.data.name for trial in catalog.trials if not isinstance(trial.data.reference, str)}
        with interrupts_deferred():
            worker = start(catalog.sweep, {name: catalog.data[name] for name in own}, self.plan.threads)
            self._workers.append(worker)
        self._choose_for(worker)
        return worker

    def _choose_for(self, worker: Worker) -> None:
        """Say how it is to run trials."""
        with suppress(OSError):  # if it is dead, its connection says so when it is read
            worker.connection.send(("plan", (self.plan, self.runner.command)))

    def _handle_dead_worker(self, worker: Worker, callbacks: Callbacks) -> list[Cell]:
        """What a worker that has died leaves to be run again; a trial that has had its chances is taken as failed.

        Of several trials, each may be the one to blame, or all of them together for the memory: they are halved.
        """
        self._workers.remove(worker)
        how = worker.ended()
        cell, names = worker.cell, ", ".join(trial.identity for trial in worker.cell)
        if (half := len(cell) // 2) > 0:
            logger.warning("a worker process died (%s) while it ran %s; once more, half of them at a time", how, names)
            return [cell[half:], cell[:half]]
        model = cell[0].model.name
        self._attempts[names] += 1
        self._deaths[model] += 1
        hopeless = self._deaths[model] > ATTEMPTS and model not in self._run
        again = self._attempts[names] < ATTEMPTS and not hopeless
        logger.warning("a worker process died (%s) while it ran %s%s", how, names, "; once more" if again else "")
        if again:
            return [cell]
        # the system ends so whoever takes the most memory where there is none left
        hint = "; memory may have been short" if worker.process.returncode == -signal.SIGKILL else ""
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
    apart = plan.workers > 1 or runner.catalog.isolated_process is not None
    return Processes(runner, plan) if apart else InProcess(runner, plan)
