"""How other processes begin: deaf to interrupts, which leave none; whatever handler there is."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pai_bench.support import processes
from pai_bench.support.processes import start


@pytest.fixture(autouse=True)
def _waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module for other processes that does nothing."""
    Path("waits.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.syspath_prepend(Path.cwd())


def test_a_process_is_deaf_to_interrupts_while_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = []

    class Noted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **keys: Any) -> None:
            masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
            super().__init__(*arguments, **keys)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    process, connection = start("waits", threads=1)
    with connection:
        process.kill()
        process.wait()
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
        start("waits", threads=1)
    assert [process.returncode for process in made] == [-signal.SIGKILL]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_ones_own_is_called_when_the_process_has_begun(made: list[subprocess.Popen[bytes]]) -> None:
    calls: list[int] = []

    def handler(number: int, _frame: object) -> None:
        assert [process.poll() for process in made] == [None]
        calls.append(number)

    signal.signal(signal.SIGINT, handler)
    start("waits", threads=1)[1].close()
    assert calls == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_ignored_interrupt_stays_ignored(made: list[subprocess.Popen[bytes]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    start("waits", threads=1)[1].close()
    assert [process.poll() for process in made] == [None]
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_processes_that_another_thread_starts_outlive_an_interrupt_of_the_main_one(
    made: list[subprocess.Popen[bytes]],
) -> None:
    """No handler is ever called in that thread, which goes on."""
    thread = threading.Thread(target=lambda: start("waits", threads=1)[1].close())

    def wait() -> None:
        thread.start()
        thread.join()
        time.sleep(0)  # a handler is called between two steps of the interpreter

    with pytest.raises(KeyboardInterrupt):
        wait()
    thread.join()
    assert [process.poll() for process in made] == [None]


TELLS = """
import os, signal, sys, threading
from pai_bench.support.processes import THREADS, connection_to_parent

with connection_to_parent() as parent:
    parent.send((
        [thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()],
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
        signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []),
        [os.environ[name] for name in THREADS],
        sys.stdin.read(),
        sys.flags.safe_path,
        os.read(int(sys.argv[2]), 9),
    ))
"""


def test_how_a_process_begins(tmp_path: Path) -> None:
    Path("tells.py").write_text(TELLS)
    Path("open").write_bytes(b"is open")
    with Path("open").open("rb") as file:
        process, connection = start("tells", 3, file.fileno())
        with connection:
            assert connection.recv() == ([True], True, False, ["3"] * len(processes.THREADS), "", True, b"is open")
    assert process.wait() == 0


def test_a_process_ends_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    parents, slept, codes = [7, 7, 1], list[float](), list[int]()
    monkeypatch.setattr(os, "getppid", lambda: parents.pop(0))
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(signal, "pthread_sigmask", lambda *_: None)
    before = set(threading.enumerate())
    processes.end_with_parent(7)
    for thread in set(threading.enumerate()) - before:
        thread.join()
    assert (parents, codes) == ([], [1])
    assert len(slept) == 2
    assert 0 < sum(slept) <= 4


def test_signals_that_end_a_process_end_it_as_an_interrupt_does() -> None:
    def handlers() -> list[Any]:
        return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]

    before = handlers()
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with processes.signals_as_interrupts():
            assert handlers() == [signal.default_int_handler, signal.SIG_IGN]
        assert handlers() == [signal.SIG_DFL, signal.SIG_IGN]
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGHUP), before, strict=True):
            signal.signal(number, handler)


def test_a_time_limit_ends_a_block_as_an_interrupt_does() -> None:
    """Not while it may not be broken off; and nothing is left of it after the block."""
    before, done = signal.getsignal(signal.SIGALRM), list[str]()
    start = time.monotonic()

    def work() -> None:
        with processes.interrupts_deferred() as seen:
            while not seen:
                assert time.monotonic() < start + 30
            done.append("whole")

    with processes.TimeLimit(0.1) as limit, pytest.raises(KeyboardInterrupt):
        work()
    assert (limit.is_reached, done) == (True, ["whole"])
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    with pytest.raises(KeyboardInterrupt), processes.TimeLimit(0):  # reached as it begins
        time.sleep(30)
    for seconds in (None, 30.0):
        with processes.TimeLimit(seconds) as limit:
            pass
        assert not limit.is_reached


def test_a_second_interrupt_breaks_off_what_waits_for_the_first_only() -> None:
    done = list[str]()

    def interrupted(*, first_only: bool) -> None:
        with processes.interrupts_deferred(first_only=first_only) as seen:
            signal.raise_signal(signal.SIGINT)
            assert seen
            signal.raise_signal(signal.SIGINT)
            done.append("whole")

    with pytest.raises(KeyboardInterrupt):
        interrupted(first_only=True)
    assert done == []
    with pytest.raises(KeyboardInterrupt):
        interrupted(first_only=False)
    assert done == ["whole"]
