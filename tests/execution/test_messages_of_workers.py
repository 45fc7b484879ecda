"""Messages and deaths of workers, handled one by one: processes and connections are fakes."""

import dataclasses
import logging
import pickle
import subprocess
import sys
import time
from collections import deque
from multiprocessing import Pipe
from types import SimpleNamespace
from typing import Any

import pytest

import pai_bench as pb
from pai_bench.execution import Callbacks, InProcess
from pai_bench.execution.execution_plan import ExecutionPlan
from pai_bench.execution.processes import Processes, auto
from pai_bench.execution.worker_process import Worker
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from tests.execution.sweeps import named
from tests.experiment.test_runner import sweep as small


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that are made, which take no time."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    return made


class FakeProcess:
    """A process that has ended with a code, or runs (None)."""

    def __init__(self, code: int | None) -> None:
        self.returncode = code

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, _limit: float | None = None) -> int:
        return self.returncode or 0

    def terminate(self) -> None:
        self.returncode = self.returncode or 0


class FakeConnection:
    """A connection: what was sent, and whether it is closed."""

    def __init__(self) -> None:
        self.sent, self.closed = list[Any](), False

    def send(self, message: Any) -> None:
        self.sent.append(message)

    def poll(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


def worker_of(code: int | None, cell: Any = (), **state: Any) -> Worker:
    """A worker whose process has ended with a code, or runs (None)."""
    return Worker(FakeProcess(code), FakeConnection(), cell=list(cell), **state)  # type: ignore[arg-type]


Notes = list[tuple[str, Any]]


def noted(**functions: Any) -> tuple[Callbacks, Notes]:
    """Callbacks that note what they are called with."""
    notes: Notes = []
    callbacks = Callbacks(
        functions.get("still_missing", list),
        lambda trial, epoch: notes.append(("epoch", (trial, epoch))),
        lambda cell, records, seconds: notes.append(("records", (cell, records, seconds))),
    )
    return callbacks, notes


def pool_of(*workers: Worker, sweep: pb.Sweep | None = None, most: int = 2) -> Processes:
    pool = Processes(Runner(resolve(sweep or named(workers=2)), "a command"), ExecutionPlan(workers=most))
    pool._workers = list(workers)
    return pool


def test_what_a_worker_says() -> None:
    callbacks, notes = noted()
    pool = pool_of(worker := worker_of(None))
    worker.cell = cell = pool.runner.catalog.trials[:2]
    pool._failed_starts = 2
    pool._handle(worker, "alive", None, callbacks)
    assert (worker.ready, worker.since, pool._failed_starts) == (False, 0.0, 2)
    before = time.perf_counter()
    pool._handle(worker, "ready", None, callbacks)
    assert (worker.ready, pool._failed_starts) == (True, 0)  # as many may die in succession as before
    assert before <= worker.since <= time.perf_counter()
    pool._handle(worker, "epoch", (1, 3), callbacks)
    pool._handle(worker, "records", ([1], ["b"]), callbacks)
    assert (worker.cell, worker.unfinished) == (cell, cell[:1])
    pool._handle(worker, "epoch", (0, 4), callbacks)
    pool._handle(worker, "records", ([0], ["a"]), callbacks)
    assert (worker.cell, worker.unfinished) == ([], [])
    assert [note for note in notes if note[0] == "epoch"] == [("epoch", (cell[1], 3)), ("epoch", (cell[0], 4))]
    parts = [note for kind, note in notes if kind == "records"]
    assert [(of, records) for of, records, _ in parts] == [([cell[1]], ["b"]), ([cell[0]], ["a"])]
    assert all(seconds >= 0 for *_, seconds in parts)
    assert sum(seconds for *_, seconds in parts) <= time.perf_counter() - before


def test_a_worker_whose_trials_were_taken_over_is_free() -> None:
    callbacks, notes = noted()
    pool = pool_of(worker := worker_of(None))
    worker.begin(pool.runner.catalog.trials[:2])
    pool._handle(worker, "taken over", None, callbacks)
    assert (worker.cell, notes) == ([], [])


def test_what_a_worker_has_finished_is_not_run_again() -> None:
    callbacks, _ = noted()
    pool = pool_of(worker := worker_of(-9))
    worker.cell = cell = pool.runner.catalog.trials[:3]
    pool._handle(worker, "records", ([0], ["a"]), callbacks)
    assert pool._handle_dead_worker(worker, callbacks) == [cell[2:], cell[1:2]]


@pytest.mark.parametrize("count", [1, 2])
def test_a_checkpoint_is_resumed_once_where_a_worker_has_died(count: int, caplog: pytest.LogCaptureFixture) -> None:
    callbacks, _ = noted()
    pool = pool_of()
    cell, asked = pool.runner.catalog.trials[:count], list[Any]()

    def holds(trials: Any) -> bool:
        asked.append(trials)
        return True

    removed = list[Any]()
    store: Any = SimpleNamespace(holds=holds, remove=removed.append)
    pool.runner.checkpoints = store
    for again in ([cell], [] if count == 1 else [cell[1:], cell[:1]]):
        pool._workers.append(worker := worker_of(-9, cell))
        assert pool._handle_dead_worker(worker, callbacks) == again
    assert asked == [[trial.identity for trial in cell]]
    assert caplog.messages[0].endswith("; it resumes from its checkpoint")
    assert removed == ([] if count == 1 else asked)  # or else the halves would resume together


def test_a_trial_and_a_network_that_end_workers_are_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """A trial at the second time; a network that no worker has run, at the third, whatever its trials are."""
    caplog.set_level(logging.WARNING)
    callbacks, notes = noted()
    pool = pool_of()
    one, two, three, *_ = pool.runner.catalog.trials

    def dies(trial: Trial, code: int = -9) -> list[Any]:
        pool._workers.append(worker := worker_of(code, [trial], since=time.perf_counter()))
        again = pool._handle_dead_worker(worker, callbacks)
        assert pool._workers == []
        return again

    assert dies(one) == [[one]]
    assert dies(two) == [[two]]
    assert dies(three) == []
    died = "a worker process died (killed by signal 9) while it ran "
    assert caplog.messages == [
        f"{died}{one.identity}; once more",
        f"{died}{two.identity}; once more",
        f"{died}{three.identity}",
    ]
    ((_, (cell, (record,), seconds)),) = notes
    assert (cell, record.status, record.identity) == ([three], "failed", three.identity)
    reason = "RuntimeError: the worker process died (killed by signal 9)"
    assert record.error == f"{reason}; memory may have been short"
    assert 0 <= seconds < 10
    pool._handle(worker_of(None, [one]), "records", ([0], ["a"]), callbacks)  # the network can be run
    assert dies(three, 3) == []
    assert notes[-1][1][1][0].error == "RuntimeError: the worker process died (exit code 3)"
    *_, last = pool.runner.catalog.trials
    assert dies(last) == [[last]]


def test_no_worker_is_started_at_once_where_the_system_kills_them(pauses: list[float]) -> None:
    """Memory may be short: it is the longer pause from the second on, until a trial ends."""
    callbacks, _ = noted()
    pool = pool_of()
    every = pool.runner.catalog.trials
    for codes in ((-9, -9, -11, -9), (-9,)):
        for code in codes:
            pool._workers.append(worker := worker_of(code, every))
            assert pool._handle_dead_worker(worker, callbacks)
        pool._handle(worker_of(None, every), "records", ([0], ["a"]), callbacks)
    assert pauses == [5.0, 30.0, 30.0, 5.0]


def test_what_a_worker_ran_together_is_halved_when_it_dies() -> None:
    callbacks, notes = noted()
    pool = pool_of(worker := worker_of(-9))
    worker.cell = pool.runner.catalog.trials[:3]
    assert pool._handle_dead_worker(worker, callbacks) == [worker.cell[1:], worker.cell[:1]]
    assert not notes


def test_a_few_workers_may_die_as_they_begin(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Twice, after a while each; then, what is left are those that run, or none."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    running = worker_of(None, "x")
    pool, waiting = pool_of(running, most=9), deque[Any]()
    for _ in range(3):
        pool._workers.append(dead := worker_of(4, "y"))
        assert pool._handle_failed_start(dead, waiting)
        assert dead.connection.closed
    assert (pool._workers, list(waiting), waits) == ([running], [["y"]] * 3, [0.5, 1.0])
    assert pool._most_workers == 1
    assert caplog.messages == ["worker processes die as they start (exit code 4): the sweep continues with 1"]
    pool._workers[:] = [*(worker_of(4) for _ in range(2))]
    assert not pool._handle_failed_start(pool._workers[0], waiting)


def test_giving_up_ends_all_workers_and_keeps_their_trials() -> None:
    a, b, c, *_ = resolve(named()).trials
    pool = pool_of(worker_of(None, [a]), worker_of(None), worker_of(None, [b]), sweep=named(workers=1))
    workers, waiting = [*pool._workers], deque([[c]])
    pool._give_up("why", waiting)  # type: ignore[arg-type]
    assert list(waiting) == [[a], [b], [c]]
    assert pool._workers == []
    assert [worker.process.poll() for worker in workers] == [0, 0, 0]


def test_there_are_no_more_workers_than_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has what it is to run, unless that is stored by now, with the data that have no name."""
    begun: list[Any] = []

    def start(execution: Any, data: Any, threads: int, device: str) -> Worker:
        begun.append((device, data, threads))
        return worker_of(None, silent=3.0, device=device)

    monkeypatch.setattr("pai_bench.execution.processes.start", start)
    stored = [False, True, False]
    callbacks, _ = noted(still_missing=lambda cell: [] if stored.pop(0) else list(cell))
    for sweep, data in ((named(workers=2), set()), (small(workers=2), {"blobs"})):
        begun.clear()
        stored[:] = [False, True, False]
        pool = pool_of(sweep=sweep)
        pool.plan = dataclasses.replace(pool.plan, threads=3)
        one, _, two, *rest = cells = [[trial] for trial in pool.runner.catalog.trials]
        waiting = deque(cells)
        pool._hand_out(waiting, callbacks)  # type: ignore[arg-type]
        assert [worker.cell for worker in pool._workers] == [one, two]
        assert list(waiting) == rest
        assert [(device, set(given), threads) for device, given, threads in begun] == [("cpu", data, 3)] * 2
        plan = ("plan", (pool.plan, Runner, pool.runner.settings))
        for worker in pool._workers:
            sent: Any = worker.connection
            assert sent.sent == [plan, ("run", pickle.dumps(worker.cell))]
            assert worker.silent == 0.0


def test_workers_are_divided_among_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pai_bench.execution.processes.devices_of", lambda _name: ["cuda:0", "cuda:1", "cuda:2"])
    starts = iter([worker_of(None, device=f"cuda:{index}") for index in (0, 2, 1, 0)])
    devices = list[str]()

    def start(_execution: Any, _data: Any, _threads: int, device: str) -> Worker:
        devices.append(device)
        return next(starts)

    monkeypatch.setattr("pai_bench.execution.processes.start", start)
    pool = pool_of(worker_of(None, device="cuda:1"))
    for _ in range(2):
        pool._start()
    assert devices == ["cuda:0", "cuda:2"]
    pool._workers.pop(0)  # that of cuda:1 has died
    for _ in range(2):
        pool._start()
    assert devices[2:] == ["cuda:1", "cuda:0"]


def test_a_worker_that_was_handed_over_is_told_the_plan_and_no_failed_start(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = Pipe()
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    sent: list[Any] = []
    monkeypatch.setattr(Worker, "send", lambda _worker, message: sent.append(message))
    pool = pool_of()
    handed: Any = SimpleNamespace(hand_over=lambda: Worker(process, ours))
    pool.runner.catalog.isolated_process = handed
    cell = pool.runner.catalog.trials[:1]
    missing = iter([cell, []])
    callbacks, notes = noted(still_missing=lambda _cell: next(missing))
    theirs.close()
    with pool:
        pool.run([cell], callbacks)
    assert [kind for kind, _ in sent] == ["plan", "run"]
    assert sent[0][1] == (pool.plan, Runner, pool.runner.settings)
    assert pool.runner.settings["command"] == "a command"
    assert caplog.messages == [f"a worker process died (exit code 0) while it ran {cell[0].identity}; once more"]
    assert notes == []


def test_a_dead_worker_is_not_waited_for_where_a_child_of_it_holds_the_connection() -> None:
    ours, theirs = Pipe()
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    pool = pool_of(worker := Worker(process, ours, cell=["x"]))  # type: ignore[list-item]
    with ours, theirs:
        assert pool._receive(worker) == ("died", "it ended as it started, with exit code 0")


@pytest.mark.parametrize(("workers", "isolated", "kind"), [(1, 0, InProcess), (2, 0, Processes), (1, 1, Processes)])
def test_workers_are_used_where_they_are_faster_or_safer(
    workers: int, isolated: int, kind: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = ExecutionPlan(workers=workers)
    monkeypatch.setattr("pai_bench.execution.processes.choose", lambda _runner, _missing: plan)
    runner = Runner(resolve(named()))
    runner.catalog.isolated_process = SimpleNamespace() if isolated else None
    found = auto(runner, runner.catalog.trials)
    assert (type(found), found.plan) == (kind, plan)
