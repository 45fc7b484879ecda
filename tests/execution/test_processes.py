"""Worker processes that die, stop or cannot begin, and what becomes of their trials."""

import dataclasses
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import deque
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

import pai_bench as pb
from pai_bench.execution import Callbacks, InProcess, run_catalog
from pai_bench.execution.execution_plan import ExecutionPlan
from pai_bench.execution.processes import Processes, auto
from pai_bench.execution.worker_process import Worker
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.support import processes
from tests.execution.sweeps import DIES, named
from tests.experiment.test_runner import sweep as small


@pytest.mark.parametrize(("times", "status"), [(1, "done"), (2, "failed")])
def test_a_worker_that_dies_is_replaced_and_its_trial_tried_once_more(
    times: int, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    Path("dies.py").write_text(DIES.format(times=times))
    frame = pb.run(named(criteria=["./dies.py:Dies", "random"], seeds=1, workers=2), out="r")
    by_name = dict(zip(frame.criterion.str[:4], frame.status, strict=True))
    assert by_name == {"dens": "done", "Dies": status, "rand": "done"}
    assert len(list(Path().glob("mark*"))) == times
    assert "a worker process died (killed by signal 9) while it ran digits-lenet-300-100-Dies" in caplog.text
    assert ("; once more" in caplog.text) == (times >= 1)
    if status == "failed":
        assert "the worker process died (killed by signal 9)" in frame.error.dropna().item()


@pytest.mark.slow
def test_a_worker_that_is_stopped_is_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pai_bench.execution.worker_process.SILENCE", 12.0)
    Path("dies.py").write_text(DIES.format(times=1).replace("SIGKILL", "SIGSTOP"))
    frame = pb.run(named(criteria=["./dies.py:Dies", "random"], seeds=1, workers=2), out="r")
    assert list(frame.status) == ["done"] * 3
    assert "a worker process has sent no message for 12 s and is killed" in caplog.text


def test_a_stopped_worker_does_not_hold_up_the_end() -> None:
    catalog = resolve(named(workers=2))
    with Processes(Runner(catalog), ExecutionPlan(workers=2)) as pool:
        worker = pool._start()
        os.kill(worker.process.pid, signal.SIGSTOP)
    assert worker.process.poll() is not None


def test_a_worker_that_says_nothing_for_long_is_ended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Unless it is this process that was stopped, and it has a trial."""
    pool = Processes(Runner(catalog := resolve(named(workers=2))), ExecutionPlan(workers=2))
    pipes = [Pipe() for _ in range(3)]
    sleepers = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(3)]
    silent, speaking, _ = pool._workers = [
        Worker(*pair) for pair in zip(sleepers, (own for own, _ in pipes), strict=True)
    ]
    silent.cell = speaking.cell = catalog.trials[:1]
    speaking.silent = 3.0
    now, waits = 0.0, iter([400.0, 4.0, 4.0, 4.0])

    def wait(connections: list[Connection], timeout: float) -> list[Connection]:
        nonlocal now
        assert connections == [silent.connection, speaking.connection]
        now += next(waits)
        return [speaking.connection]

    monkeypatch.setattr("pai_bench.execution.processes.wait", wait)
    monkeypatch.setattr("pai_bench.execution.worker_process.SILENCE", 15.0)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for seconds in (5.0, 9.0, 13.0, 0.0):  # the last as it is ended
        assert speaking in pool._wait_for_messages()
        assert (silent.silent, speaking.silent) == (seconds, 0.0)
    assert silent.process.wait(10) == -signal.SIGKILL
    assert [worker.process.poll() for worker in pool._workers[1:]] == [None, None]
    assert len(caplog.messages) == 1
    pool.close()


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Which of the next workers die as they begin, one entry each; those after the last live."""
    plan: list[bool] = []
    start = processes.start

    def started(module: str, threads: int, *files: int) -> Any:
        process, connection = start(module, threads, *files)
        if plan and plan.pop(0):
            process.kill()
        return process, connection

    monkeypatch.setattr(processes, "start", started)
    monkeypatch.setattr("pai_bench.execution.processes.DELAY", 0.01)
    return plan


def test_workers_that_die_as_they_begin_are_tried_again(dying: list[bool], caplog: pytest.LogCaptureFixture) -> None:
    dying += [True, True]
    frame = pb.run(named(workers=2, seeds=1), out="r")
    assert set(frame.status) == {"done"}
    assert "worker processes die" not in caplog.text
    assert not dying


def test_a_sweep_goes_on_with_fewer_workers(dying: list[bool], caplog: pytest.LogCaptureFixture) -> None:
    """As where there is no more memory for another one."""
    dying += [False, *[True] * 20]
    frame = pb.run(named(workers=3, seeds=3), out="r")
    assert set(frame.status) == {"done"}
    assert "worker processes die as they start (exit code -9): the sweep continues with " in caplog.text


def test_a_sweep_none_of_whose_workers_begins_says_so(dying: list[bool]) -> None:
    dying += [True] * 20
    with pytest.raises(pb.UserError, match=r"ended as it started, with exit code -9\); use --workers 1"):
        pb.run(named(workers=2), out="r")


def test_a_trial_that_kills_its_worker_takes_no_other_with_it() -> None:
    Path("dies.py").write_text(DIES.format(times=99))
    frame = pb.run(named(criteria=["./dies.py:Dies", "random"], workers=2, lanes=6), out="r")
    assert dict(frame.groupby("status").size()) == {"done": 4, "failed": 2}
    assert set(frame[frame.status == "failed"].criterion.str[:4]) == {"Dies"}


def test_workers_are_not_waited_for_where_nothing_is_left_to_do() -> None:
    """In a process of its own, which would never end."""
    code = (
        "import pai_bench as pb; from pai_bench.experiment.resolve import resolve;"
        "from pai_bench.experiment.runner import Runner;"
        "from pai_bench.execution import Callbacks, ExecutionPlan, Processes;"
        "catalog = resolve(pb.Sweep(models=['lenet-300-100'], seeds=2, device='cpu', workers=2));"
        "pool = Processes(Runner(catalog), ExecutionPlan(workers=2));"
        "pool.run([[t] for t in catalog.trials], Callbacks(lambda _: [], lambda *_: None, lambda *_: None))"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_what_cannot_be_given_to_a_worker_is_named() -> None:
    def local(shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))

    with pytest.raises(pb.UserError, match=r"cannot be given to worker processes .*use --workers 1"):
        pb.run(named(models=[local], workers=2))


def test_what_only_this_process_knows_is_run_in_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A criterion that a script has registered has a name, which a worker does not know."""
    Path("gone.py").write_text(DIES.format(times=0))
    catalog = resolve(named(criteria=["./gone.py:Dies", "random"], workers="auto"))
    Path("gone.py").unlink()
    plan = ExecutionPlan(workers=2, threads=1)
    monkeypatch.setattr("pai_bench.execution.processes.choose", lambda _runner, _missing: plan)
    records = run_catalog(catalog, "r")
    assert {record.status for record in records} == {"done"}
    assert "a worker process cannot run this sweep" in caplog.text
    assert {record.provenance.workers for record in records} == {1}


def test_no_worker_is_left_after_an_error() -> None:
    catalog = resolve(named(workers=2))
    with Processes(Runner(catalog), ExecutionPlan(workers=2)) as pool:
        with pytest.raises(ZeroDivisionError):
            pool.run(
                [[trial] for trial in catalog.trials],
                Callbacks(list, print, lambda *_: 1 // 0),  # type: ignore[arg-type]
            )
        processes = [worker.process for worker in pool._workers]
        assert processes
    assert all(process.poll() is not None for process in processes)


def test_an_interrupt_as_a_worker_begins_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[subprocess.Popen[bytes]] = []
    start = processes.start

    def interrupted(module: str, threads: int, *files: int) -> object:
        process, connection = start(module, threads, *files)
        made.append(process)
        signal.raise_signal(signal.SIGINT)
        return process, connection

    monkeypatch.setattr(processes, "start", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background, it is ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            pb.run(named(workers=2))
    finally:
        signal.signal(signal.SIGINT, before)
    codes = [process.returncode for process in made]
    for process in made:
        process.kill()
        process.wait()
    assert codes == [-signal.SIGTERM]


def test_a_worker_that_dies_as_it_begins(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(pb.UserError, match=r"it ended as it started, with exit code 1\); use --workers 1"):
        pb.run(named(workers=2))
    monkeypatch.setattr("pai_bench.execution.processes.choose", lambda _runner, _missing: ExecutionPlan(workers=2))
    assert set(pb.run(named(workers="auto"), out="r").status) == {"done"}
    assert "it runs in this process" in caplog.text


class Ended:
    """Stands for a process that has ended, or runs."""

    def __init__(self, code: int | None) -> None:
        self.returncode = code

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, _limit: float | None = None) -> int:
        return self.returncode or 0

    def terminate(self) -> None:
        self.returncode = self.returncode or 0


class Wire:
    """Stands for a connection: what was sent, and whether it is closed."""

    def __init__(self) -> None:
        self.sent, self.closed = list[Any](), False

    def send(self, message: Any) -> None:
        self.sent.append(message)

    def poll(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


def ended(code: int | None, cell: Any = (), **state: Any) -> Worker:
    """A worker that has ended with a code, or runs."""
    return Worker(Ended(code), Wire(), cell=list(cell), **state)  # type: ignore[arg-type]


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
    pool = pool_of(worker := ended(None))
    worker.cell = cell = pool.runner.catalog.trials[:2]
    pool._failed_starts = 2
    pool._handle(worker, "alive", None, callbacks)
    assert (worker.ready, worker.since, pool._failed_starts) == (False, 0.0, 2)
    before = time.perf_counter()
    pool._handle(worker, "ready", None, callbacks)
    assert (worker.ready, pool._failed_starts) == (True, 0)  # as many may die in succession as before
    assert before <= worker.since <= time.perf_counter()
    pool._handle(worker, "epoch", (1, 3), callbacks)
    pool._handle(worker, "records", ["a", "b"], callbacks)
    assert notes[0] == ("epoch", (cell[1], 3))
    ((kind, (of, records, seconds)),) = notes[1:]
    assert (kind, of, records, worker.cell) == ("records", cell, ["a", "b"], [])
    assert 0 <= seconds <= time.perf_counter() - before


def test_a_trial_and_a_network_that_end_workers_are_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """A trial at the second time; a network that no worker has run, at the third, whatever its trials are."""
    caplog.set_level(logging.WARNING)
    callbacks, notes = noted()
    pool = pool_of()
    one, two, three, *_ = pool.runner.catalog.trials

    def dies(trial: Trial, code: int = -9) -> list[Any]:
        pool._workers.append(worker := ended(code, [trial], since=time.perf_counter()))
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
    pool._handle(ended(None, [one]), "records", [], callbacks)  # the network can be run
    assert dies(three, 3) == []
    assert notes[-1][1][1][0].error == "RuntimeError: the worker process died (exit code 3)"
    *_, last = pool.runner.catalog.trials
    assert dies(last) == [[last]]


def test_what_a_worker_ran_together_is_halved_when_it_dies() -> None:
    callbacks, notes = noted()
    pool = pool_of(worker := ended(-9))
    worker.cell = pool.runner.catalog.trials[:3]
    assert pool._handle_dead_worker(worker, callbacks) == [worker.cell[1:], worker.cell[:1]]
    assert not notes


def test_a_few_workers_may_die_as_they_begin(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Twice, after a while each; then, what is left are those that run, or none."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    running = ended(None, "x")
    pool, waiting = pool_of(running, most=9), deque[Any]()
    for _ in range(3):
        pool._workers.append(dead := ended(4, "y"))
        assert pool._handle_failed_start(dead, waiting)
        assert dead.connection.closed
    assert (pool._workers, list(waiting), waits) == ([running], [["y"]] * 3, [0.5, 1.0])
    assert pool._most_workers == 1
    assert caplog.messages == ["worker processes die as they start (exit code 4): the sweep continues with 1"]
    pool._workers[:] = [*(ended(4) for _ in range(2))]
    assert not pool._handle_failed_start(pool._workers[0], waiting)


def test_a_sweep_none_of_whose_workers_begins_is_run_here_after_three(
    dying: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    dying += [True] * 20
    assert set(pb.run(named(workers=1, seeds=1), out="r", backend="processes").status) == {"done"}
    assert len(dying) == 20 - 3
    assert "with exit code -9); it runs in this process" in caplog.text


def test_who_gives_up_ends_all_workers_and_keeps_their_trials() -> None:
    pool, waiting = pool_of(ended(None, "a"), ended(None), ended(None, "b"), sweep=named(workers=1)), deque(["c"])
    workers = [*pool._workers]
    pool._give_up("why", waiting)  # type: ignore[arg-type]
    assert list(waiting) == [["a"], ["b"], "c"]
    assert pool._workers == []
    assert [worker.process.poll() for worker in workers] == [0, 0, 0]


def test_there_are_no_more_workers_than_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has what it is to run, unless that is stored by now, with the data that have no name."""
    begun: list[Any] = []

    def start(execution: Any, data: Any, threads: int) -> Worker:
        begun.append((execution, data, threads))
        return ended(None, silent=3.0)

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
        assert [(set(given), threads) for _, given, threads in begun] == [(data, 3)] * 2
        plan = ("plan", (pool.plan, "a command"))
        for worker in pool._workers:
            sent: Any = worker.connection
            assert sent.sent == [plan, ("run", pickle.dumps(worker.cell))]
            assert worker.silent == 0.0


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
    assert sent[0][1] == (pool.plan, "a command")
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
