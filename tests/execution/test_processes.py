"""Worker processes that die, stop or cannot begin, and what becomes of their trials."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import pai_bench as pb
from pai_bench.execution import Callbacks, run_catalog
from pai_bench.execution.execution_plan import ExecutionPlan
from pai_bench.execution.processes import Processes
from pai_bench.execution.worker_process import Worker
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.support import processes
from tests.execution.sweeps import DIES, named


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pai_bench.execution.processes.PAUSES", (0.1,))


@pytest.mark.slow
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


@pytest.mark.slow
def test_workers_that_die_as_they_begin_are_tried_again(dying: list[bool], caplog: pytest.LogCaptureFixture) -> None:
    dying += [True, True]
    frame = pb.run(named(workers=2, seeds=1), out="r")
    assert set(frame.status) == {"done"}
    assert "worker processes die" not in caplog.text
    assert not dying


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_trial_that_kills_its_worker_takes_no_other_with_it() -> None:
    Path("dies.py").write_text(DIES.format(times=99))
    frame = pb.run(named(criteria=["./dies.py:Dies", "random"], workers=2, lanes=6), out="r")
    assert dict(frame.groupby("status").size()) == {"done": 4, "failed": 2}
    assert set(frame[frame.status == "failed"].criterion.str[:4]) == {"Dies"}


@pytest.mark.slow
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


@pytest.mark.slow
def test_what_only_this_process_knows_is_run_in_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A criterion that a script has registered has a name, which a worker does not know; others may know theirs."""
    Path("gone.py").write_text(DIES.format(times=0))
    catalog = resolve(named(criteria=["./gone.py:Dies", "random"], workers="auto"))
    Path("gone.py").unlink()
    plan = ExecutionPlan(workers=2, threads=1)
    monkeypatch.setattr("pai_bench.execution.processes.choose", lambda _runner, _missing: plan)
    records = run_catalog(catalog, "r")
    assert {record.status for record in records} == {"done"}
    assert "a worker process cannot run this sweep" in caplog.text
    theirs = [record for record in records if "Dies" in str(record.trial["criterion"])]
    assert [record.provenance.workers for record in theirs] == [1, 1]


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_worker_that_dies_as_it_begins(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(pb.UserError, match=r"it ended as it started, with exit code 1\); use --workers 1"):
        pb.run(named(workers=2))
    monkeypatch.setattr("pai_bench.execution.processes.choose", lambda _runner, _missing: ExecutionPlan(workers=2))
    assert set(pb.run(named(workers="auto"), out="r").status) == {"done"}
    assert "it runs in this process" in caplog.text


def test_a_sweep_none_of_whose_workers_begins_is_run_here_after_three(
    dying: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    dying += [True] * 20
    assert set(pb.run(named(workers=1, seeds=1), out="r", backend="processes").status) == {"done"}
    assert len(dying) == 20 - 3
    assert "with exit code -9); it runs in this process" in caplog.text
