"""Trials in lanes and in worker processes give what they give one by one, and survive what happens to them."""

import dataclasses
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import pai_bench as pb
from pai_bench.data import Split
from pai_bench.execution import Callbacks, Listener, run_catalog
from pai_bench.execution.execution_plan import ExecutionPlan
from pai_bench.execution.processes import Processes
from pai_bench.execution.worker import SharedConnection
from pai_bench.execution.worker_process import Worker
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.report.page import write_report
from pai_bench.results import Record, Store
from pai_bench.support import processes
from tests.experiment.test_runner import Count, Fails, sweep

COLUMNS = ["test_accuracy", "test_loss", "achieved_sparsity", "status", "epochs"]


def named(**changes: Any) -> pb.Sweep:
    """A small sweep in which everything is a name."""
    keys: dict[str, Any] = {"criteria": ["snip", "random"], "models": ["lenet-300-100"], "data": ["digits"]}
    keys |= {"sparsities": [0.9], "seeds": 2, "epochs": 1, "device": "cpu", "lanes": 1}
    return pb.Sweep(**keys | changes)


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """The same trials with the same results; another number of threads may sum in another order."""
    assert one.identity.tolist() == other.identity.tolist()
    pd.testing.assert_frame_equal(one[COLUMNS], other[COLUMNS], rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("lanes", [2, 4, 100])
def test_lanes_give_what_one_by_one_gives(lanes: int) -> None:
    keys: dict[str, Any] = {"criteria": ["snip", "random", Fails()], "sparsities": [0.5, 0.99]}
    one, together = (pb.run(sweep(lanes=n, **keys), out=str(n)) for n in (1, lanes))
    same(one, together)
    assert {"done", "failed", "disconnected"} == set(one.status)
    used = {record.provenance.lanes for record in Store(str(lanes))}
    assert max(used) == min(lanes, 2 * 3) if lanes == 100 else max(used) <= lanes


@pytest.mark.parametrize(("workers", "lanes"), [(2, 1), (3, 2)])
def test_workers_give_what_one_by_one_gives(workers: int, lanes: int) -> None:
    same(pb.run(named(workers=1), out="one"), pb.run(named(workers=workers, lanes=lanes), out="two"))
    records = list(Store("two"))
    assert {record.provenance.workers for record in records} == {workers}
    assert {record.environment.threads for record in records} == {max(1, torch.get_num_threads() // workers)}
    text = write_report(Store("two"), Path("report.md")).read_text()
    assert f"* Concurrency: one of {workers} worker processes" in text
    assert ("trained in one program with 1 other" in text) == (lanes == 2)
    count = Count()
    run_catalog(resolve(named(workers=workers)), "two", listener=count)
    assert count.ran == []


DIES = """
import os, signal
from dataclasses import dataclass
from pathlib import Path
import pai_bench as pb

@dataclass(frozen=True)
class Dies(pb.Criterion):
    def score(self, model, batch):
        marks = len(list(Path('.').glob('mark*')))
        if marks < {times}:
            Path(f'mark{{marks}}').touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {{name: p.detach().abs() for name, p in pb.get_criterion('magnitude').score(model, batch).items()}}
"""


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
    assert "a worker process has given no sign of life for 12 s and is ended" in caplog.text


def test_a_stopped_worker_does_not_hold_up_the_end() -> None:
    catalog = resolve(named(workers=2))
    with Processes(Runner(catalog), ExecutionPlan(workers=2)) as pool:
        worker = pool._start()
        os.kill(worker.process.pid, signal.SIGSTOP)
    assert worker.process.poll() is not None


def test_a_worker_that_says_nothing_for_long_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    """Unless it is this process that did not look."""
    pool = Processes(Runner(catalog := resolve(named(workers=2))), ExecutionPlan(workers=2))
    now = time.monotonic()
    sleepers = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(3)]
    silent, speaking, idle = pool._workers = [Worker(process, Pipe()[0]) for process in sleepers]
    silent.cell = speaking.cell = catalog.trials[:1]
    silent.heard = idle.heard = now - 500
    for looked, ended in ((now - 400, []), (now, [silent])):
        pool._looked = looked
        pool._end_silent()
        for worker in ended:
            worker.process.wait(10)
        assert [worker for worker in pool._workers if worker.process.poll() is not None] == ended
        silent.heard = now - 500
    assert len(caplog.messages) == 1
    pool.close()


def test_a_worker_gives_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pai_bench.execution.worker.HEARTBEAT", 0.01)
    ours, theirs = Pipe()
    with ours:
        beats = threading.Thread(target=SharedConnection(theirs).beat)
        beats.start()
        assert [ours.recv() for _ in range(2)] == [("alive", None)] * 2
    beats.join(10)  # its parent has gone
    assert not beats.is_alive()
    theirs.close()


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


def test_workers_say_nothing_of_their_own(tmp_path: Path) -> None:
    """Neither Python's warnings nor torch's."""
    code = (
        "import sys, pai_bench as pb; keys = {'models': ['lenet-300-100'], 'sparsities': [0.9], 'seeds': 1};"
        "pb.run(pb.Sweep(**keys, epochs=0, workers=2, lanes=1), out=sys.argv[1])"
    )
    found = subprocess.run([sys.executable, "-c", code, tmp_path / "r"], capture_output=True, text=True, check=True)
    assert found.stderr == ""


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
    assert "worker processes die as they begin (exit code -9): it goes on with " in caplog.text


def test_a_sweep_none_of_whose_workers_begins_says_so(dying: list[bool]) -> None:
    dying += [True] * 20
    with pytest.raises(pb.UserError, match=r"ended as it began, with exit code -9\); use --workers 1"):
        pb.run(named(workers=2), out="r")


def test_what_a_worker_takes_to_begin_is_no_time_of_a_trial() -> None:
    seconds: list[float] = []

    class Times(Listener):
        def on_finish(self, trial: Trial, record: Record, seconds_of: float) -> None:
            seconds.append(seconds_of)

    start = time.perf_counter()
    run_catalog(resolve(named(workers=2, seeds=1, epochs=0)), "r", listener=Times())
    assert 0 < sum(seconds) < 0.5 * (time.perf_counter() - start)


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


def linear(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Linear(shape[0], classes)


@pytest.mark.slow
def test_workers_are_given_data_that_have_no_name_elsewhere() -> None:
    split = Split(torch.randn(60, 4), torch.arange(60) % 3)
    made = named(data=[pb.DataSet("own", split, split)], models=[linear], batch_size=10, score_batch=30)
    one, two = (pb.run(dataclasses.replace(made, workers=workers), out=f"r{workers}") for workers in (1, 2))
    same(one, two)
    assert set(two.status) == {"done"}


def test_what_cannot_be_given_to_a_worker_is_named() -> None:
    def local(shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))

    with pytest.raises(pb.UserError, match=r"cannot be given to worker processes .*use --workers 1"):
        pb.run(named(models=[local], workers=2))


REGISTERED = """
import pai_bench as pb
from torch import nn

DECORATED
def mine(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))

sweep = pb.Sweep(models=[NAMED], criteria=["random"], sparsities=[0.5], seeds=1, epochs=0, workers=2, device="cpu")
try:
    pb.run(sweep)
except pb.UserError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("decorator", "named", "said"),
    [
        ('@pb.model("mine", source="here")', '"mine"', "unknown model 'mine'"),
        ("", "mine", "Can't get attribute 'mine'"),
    ],
)
def test_networks_of_a_script_are_refused_by_workers_and_nothing_is_stored(
    decorator: str, named: str, said: str
) -> None:
    Path("script.py").write_text(REGISTERED.replace("DECORATED", decorator).replace("NAMED", named))
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("a worker process cannot run this sweep (")
    assert said in done.stdout
    assert "Traceback" not in done.stderr
    assert not list(Path("results/trials").glob("*.json"))


def test_a_sweep_that_a_worker_cannot_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = resolve(named(workers=2))
    Path("gone.py").write_text(DIES.format(times=0))
    catalog = resolve(named(criteria=["./gone.py:Dies"], workers=2))
    Path("gone.py").unlink()
    with pytest.raises(pb.UserError, match=r"a worker process cannot run this sweep \(UserError: .*gone.py"):
        run_catalog(catalog, "r")


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


class Breaks(Listener):
    """A listener with a mistake in it."""

    def on_epoch(self, trial: Trial, epoch: int) -> None:
        raise ZeroDivisionError("in the listener")


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_listener_is_no_failure_of_a_trial(workers: int) -> None:
    with pytest.raises(ZeroDivisionError, match="in the listener"):
        pb.run(named(workers=workers), out="r", listener=Breaks())
    assert not list(Path("r").glob("**/*.json"))


SCRIPT = """
import sys
import pai_bench as pb
from pai_bench.execution import Listener

class Shows(Listener):
    def on_epoch(self, trial, epoch):
        print("epoch", epoch, flush=True)

keys = dict(criteria=["snip"], models=["lenet-300-100"], data=["folder:pictures"], data_dir=sys.argv[1], workers=2)
keys |= dict(lanes=1, sparsities=[0.5], seeds=2, device="cpu", batch_size=2, score_batch=4, epochs=int(sys.argv[2]))
frame = pb.run(pb.Sweep(**keys), listener=Shows())
assert set(frame.status) == {"done"}, list(frame.error)
"""


@pytest.fixture
def pictures() -> Path:
    """Eight pictures of two classes for training and four to test, in a folder."""
    for part, count in (("train", 4), ("test", 2)):
        for name in "ab":
            Path("here", "pictures", part, name).mkdir(parents=True)
            for i in range(count):
                image = Image.new("L", (6, 6), 40 * i + 100 * (name == "b"))
                image.save(Path("here", "pictures", part, name, f"{i}.png"))
    return Path("here")


def test_workers_of_a_script_without_a_file_with_data_in_a_relative_folder(pictures: Path) -> None:
    command = [sys.executable, "-", str(pictures), "1"]
    done = subprocess.run(command, input=SCRIPT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {record.provenance.workers for record in Store("results")} == {2}


@pytest.mark.slow
def test_workers_go_when_their_parent_is_killed(pictures: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(pictures), "1000000"], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"epoch 0\n"
    process.kill()
    process.wait()
    process.stdout.close()
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:  # nobody is left in its group
            return
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("a worker is left")


WAITS = """
import time
from dataclasses import dataclass
from pathlib import Path
import pai_bench as pb

@dataclass(frozen=True)
class Waits(pb.Criterion):
    def score(self, model, batch):
        while Path("wait").exists():
            time.sleep(0.01)
        return {name: p.detach().abs() for name, p in pb.get_criterion("magnitude").score(model, batch).items()}
"""


@pytest.mark.slow
def test_an_interrupt_leaves_no_worker_and_the_same_command_goes_on() -> None:
    """In the middle of a trial in each of two workers, after the four that come before them."""
    Path("waits.py").write_text(WAITS)
    Path("wait").touch()
    command = [sys.executable, "-m", "pai_bench", "run", "--criteria", "random,./waits.py:Waits", "--seeds", "2"]
    command += ["--models", "lenet-300-100", "--sparsities", "0.9", "--epochs", "2", "--device", "cpu"]
    command += ["--workers", "2", "--lanes", "1"]
    # what runs in the background of a shell is deaf to interrupts, and so would be what it starts
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    keys: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True, "start_new_session": True, "preexec_fn": listen}
    process = subprocess.Popen(command, **keys)
    while len(stored := list(Path("results/trials").glob("*.json"))) < 4:
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "4 of 6 trials are stored in results; the same command runs the rest" in out
    with pytest.raises(ProcessLookupError):  # nobody is left in its group
        os.killpg(process.pid, 0)
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in stored}
    Path("wait").unlink()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "4 of 6 trials are already stored" in done.stdout
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in stored} == before
    assert {record.status for record in Store("results")} == {"done"}
    assert len(list(Store("results"))) == 6


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
    with pytest.raises(pb.UserError, match=r"it ended as it began, with exit code 1\); use --workers 1"):
        pb.run(named(workers=2))
    monkeypatch.setattr("pai_bench.execution.processes.choose", lambda _runner, _missing: ExecutionPlan(workers=2))
    assert set(pb.run(named(workers="auto"), out="r").status) == {"done"}
    assert "it runs in this process" in caplog.text
