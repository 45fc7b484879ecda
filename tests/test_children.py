"""A map over several processes gives what one process gives, whatever happens to the others."""

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from operator import floordiv
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pai_bench import children
from pai_bench.children import each, processors

SQUARES = [(i, 2) for i in range(20)]

MODULE = """
import os
import time
from pathlib import Path

def met(folder, count):
    Path(folder, str(os.getpid())).touch()
    end = time.monotonic() + 100
    while len(list(Path(folder).iterdir())) < count:
        assert time.monotonic() < end, "no other process has begun"
        time.sleep(0.01)

def works(number, folder):
    met(folder, 2)
    return number, os.getpid()

def dies(number, parent, folder):
    met(folder, 3)
    return number if os.getpid() == parent else os._exit(3)

def fails(number, parent, folder):
    met(folder, 2)
    return number if os.getpid() == parent else 1 // 0

def answers(number, parent, folder):
    met(folder, 2)
    return number if os.getpid() == parent else lambda: number

def is_interrupted(number, parent, folder):
    met(folder, 2)
    if os.getpid() != parent:
        time.sleep(1000)
    raise KeyboardInterrupt
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Functions that other processes can import, too."""
    (tmp_path / "some_jobs.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("some_jobs")


@pytest.fixture
def met(tmp_path: Path) -> Path:
    """A folder with a file of each process that has begun."""
    folder = tmp_path / "met"
    folder.mkdir()
    return folder


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes that a test starts."""
    found, start = [], children.start

    def note(module: str, threads: int) -> object:
        process, line = start(module, threads)
        found.append(process)
        return process, line

    monkeypatch.setattr(children, "start", note)
    yield found
    for process in found:
        process.kill()
        process.wait()


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_results_come_in_order(processes: int, started: list[subprocess.Popen[bytes]]) -> None:
    assert each(pow, SQUARES, processes) == [i**2 for i in range(20)]
    assert len(started) == processes - 1
    assert all(process.poll() is not None for process in started)


def test_no_jobs_need_no_process(started: list[subprocess.Popen[bytes]]) -> None:
    assert each(pow, [], 3) == []
    assert each(pow, [(2, 3)], 3) == [8]
    assert not started


def test_several_processes_work(jobs: ModuleType, met: Path) -> None:
    numbers, processes = zip(*each(jobs.works, [(i, met) for i in range(12)], 2), strict=True)
    assert numbers == tuple(range(12))
    assert len({*processes}) == 2


def test_what_a_process_leaves_when_it_dies_is_done_here(
    jobs: ModuleType, met: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    assert each(jobs.dies, [(i, os.getpid(), met) for i in range(9)], 3) == list(range(9))
    assert [process.poll() for process in started] == [3, 3]


@pytest.mark.parametrize("job", ["fails", "answers"])
def test_what_fails_elsewhere_is_done_here(
    job: str, jobs: ModuleType, met: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert each(getattr(jobs, job), [(i, os.getpid(), met) for i in range(9)], 2) == list(range(9))
    assert "is done once more, by this process: " in caplog.text


def test_what_cannot_be_sent_is_done_here() -> None:
    assert each(lambda number: 2 * number, [(i,) for i in range(5)], 2) == [0, 2, 4, 6, 8]
    assert each(next, [((i for i in [number]),) for number in range(5)], 2) == list(range(5))


def test_an_error_of_a_job_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        each(floordiv, [(1, 1)] * 50 + [(1, 0)], 2)


def test_a_process_that_does_not_begin_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[subprocess.Popen[bytes]]
) -> None:
    sleeps = tmp_path / "python"
    sleeps.write_text("#!/bin/sh\nexec sleep 1000\n")
    sleeps.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(sleeps))
    assert each(pow, SQUARES, 2) == [i**2 for i in range(20)]
    assert [process.poll() for process in started] == [-signal.SIGKILL]


def test_where_no_process_can_be_started_this_one_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, Path("/somewhere")])
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert each(pow, SQUARES, 2) == [i**2 for i in range(20)]
    monkeypatch.setattr(sys, "executable", None)
    assert processors() == 1


def test_an_interrupt_leaves_no_process(jobs: ModuleType, met: Path, started: list[subprocess.Popen[bytes]]) -> None:
    with pytest.raises(KeyboardInterrupt):
        each(jobs.is_interrupted, [(i, os.getpid(), met) for i in range(4)], 2)
    assert [process.poll() for process in started] == [-signal.SIGKILL]


def test_a_process_is_deaf_to_interrupts_while_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = []

    class Noted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **keys: Any) -> None:
            masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
            super().__init__(*arguments, **keys)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    assert each(pow, SQUARES, 2) == [i**2 for i in range(20)]
    assert [signal.SIGINT in mask for mask in masks] == [True]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


Interrupt = Callable[[], None]


@pytest.fixture(params=["this thread", "another thread"])
def interrupt(request: pytest.FixtureRequest) -> Iterator[Interrupt]:
    """Lets the system give SIGINT to this thread, or to another one, as it may whenever there is one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background, it is ignored
    wanted, delivered = threading.Event(), threading.Event()

    def receive() -> None:
        wanted.wait()
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        delivered.set()

    def send() -> None:
        if request.param == "this thread":
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        else:
            wanted.set()
            delivered.wait()

    thread = threading.Thread(target=receive)
    if request.param == "another thread":
        thread.start()
    yield send
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wanted.set()
    if thread.ident is not None:
        thread.join()
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, interrupt: Interrupt) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes that a test has made, each of which is interrupted between its beginning and its return."""
    found: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **keys: Any) -> None:
            super().__init__(*arguments, **keys)
            found.append(self)
            interrupt()

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    yield found
    for process in found:
        process.kill()
        process.wait()


def test_an_interrupt_while_a_process_begins_leaves_none(made: list[subprocess.Popen[bytes]]) -> None:
    with pytest.raises(KeyboardInterrupt):
        each(pow, SQUARES, 2)
    assert [process.returncode for process in made] == [-signal.SIGKILL]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_before_a_process_is_noted_leaves_none(
    interrupt: Interrupt, monkeypatch: pytest.MonkeyPatch, started: list[subprocess.Popen[bytes]]
) -> None:
    start = children.start

    def interrupted(module: str, threads: int) -> object:
        found = start(module, threads)
        interrupt()
        return found

    monkeypatch.setattr(children, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        each(pow, SQUARES, 2)
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def test_a_handler_of_ones_own_is_called_when_the_process_has_begun(made: list[subprocess.Popen[bytes]]) -> None:
    calls: list[int] = []

    def handler(number: int, _frame: object) -> None:
        assert [process.poll() for process in made] == [None]
        calls.append(number)

    signal.signal(signal.SIGINT, handler)
    assert each(pow, SQUARES, 2) == [i**2 for i in range(20)]
    assert calls == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_ignored_interrupt_stays_ignored(made: list[subprocess.Popen[bytes]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert each(pow, SQUARES, 2) == [i**2 for i in range(20)]
    assert len(made) == 1
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_processes_that_another_thread_starts_outlive_an_interrupt_of_the_main_one(
    made: list[subprocess.Popen[bytes]],
) -> None:
    """No handler is ever called in that thread, which goes on."""
    results: list[list[int]] = []
    thread = threading.Thread(target=lambda: results.append(each(pow, SQUARES, 2)))

    def wait() -> None:
        thread.start()
        thread.join()
        time.sleep(0)  # a handler is called between two steps of the interpreter

    with pytest.raises(KeyboardInterrupt):
        wait()
    thread.join()
    assert results == [[i**2 for i in range(20)]]
    assert len(made) == 1


def test_a_script_is_not_run_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("from pai_bench.children import each\nprint('begun')\nprint(each(pow, [(2, 3)] * 4, 2))\n")
    done = subprocess.run([sys.executable, script], text=True, capture_output=True, check=True)
    assert done.stdout.splitlines() == ["begun", "[8, 8, 8, 8]"]


@pytest.mark.skipif(processors() == 1 and os.name != "posix", reason="no other process can be started")
def test_a_process_at_work_goes_when_its_parent_is_killed() -> None:
    code = """
import time
from pai_bench.children import start
process, line = start("pai_bench.children", 1)
line.send((30, time.sleep))
line.recv()
line.send((60,))
print(process.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.kill()
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{child}/stat").is_file() and Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            return  # nobody has asked how it ended
        time.sleep(0.1)
    pytest.fail("it works on")
