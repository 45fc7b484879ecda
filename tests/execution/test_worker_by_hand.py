"""A worker process as its parent sees it, by processes and connections that stand for real ones."""

import logging
import pickle
import subprocess
import tempfile
from dataclasses import fields
from typing import Any

import pytest

from pai_bench.execution import worker_process
from pai_bench.execution.worker_process import Worker, end, start
from pai_bench.experiment.sweep import Execution
from pai_bench.support import processes
from tests.execution.sweeps import named


class Process:
    """Runs until it is ended, by a signal that it hears or not."""

    def __init__(self, code: int | None = None, *, hears: bool = True) -> None:
        self.code, self.hears, self.asked = code, hears, list[Any]()

    def poll(self) -> int | None:
        return self.code

    def terminate(self) -> None:
        self.asked.append("terminate")
        self.code = -15 if self.hears else None

    def kill(self) -> None:
        self.asked.append("kill")
        self.code = -9

    def wait(self, limit: float | None = None) -> int:
        self.asked.append(limit)
        if self.code is None:
            raise subprocess.TimeoutExpired("x", limit or 0)
        return self.code


class Connection:
    """Has one thing to be read after the other; None is a beat in which nothing comes."""

    def __init__(self, *messages: Any) -> None:
        self.messages, self.sent, self.closed = list(messages), list[bytes](), False

    def poll(self, _seconds: float = 0.0) -> bool:
        if self.messages and self.messages[0] is None:
            self.messages.pop(0)
            return False
        return bool(self.messages)

    def recv(self) -> Any:
        return self.messages.pop(0)

    def send_bytes(self, content: bytes) -> None:
        if self.closed:
            raise BrokenPipeError
        self.sent.append(content)

    def close(self) -> None:
        self.closed = True


def worker(connection: Connection, process: Process | None = None, crash: Any = None) -> Worker:
    return Worker(process or Process(), connection, crash)  # type: ignore[arg-type]


ALIVE, NEWS = ("alive", None), ("epoch", (0, 1))


@pytest.fixture(autouse=True)
def _beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "HEARTBEAT", 1.0)
    monkeypatch.setattr(worker_process, "SILENCE", 3.0)


def test_news_are_waited_for_and_signs_of_life_are_none(caplog: pytest.LogCaptureFixture) -> None:
    process = Process()
    connection = Connection(None, None, ALIVE, None, None, ALIVE, ALIVE, NEWS, NEWS)
    assert worker(connection, process).receive() == NEWS
    assert connection.messages == [NEWS]
    assert process.asked == []
    assert not caplog.messages


def test_a_process_that_is_silent_for_three_beats_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    silent = worker(Connection(ALIVE, None, None, None, NEWS), process := Process())
    assert silent.receive() == NEWS  # which came too late
    assert process.asked == ["kill"]
    with pytest.raises(EOFError):
        silent.receive()
    assert caplog.messages == ["a worker process has sent no message for 3 s and is killed"]


def test_a_process_that_takes_long_to_die_is_not_killed_at_every_beat() -> None:
    dying = worker(Connection(), process := Process())
    for _ in range(5):
        dying.add_silence(1.0)
    assert process.asked == ["kill"]


@pytest.mark.parametrize(("code", "left", "ended"), [(None, (), False), (0, (), True), (0, (NEWS,), False)])
def test_a_process_has_ended_when_it_has_said_all(code: int | None, left: tuple[Any, ...], ended: bool) -> None:
    assert worker(Connection(*left), Process(code)).has_ended() == ended


@pytest.mark.parametrize(
    ("code", "crash", "text"),
    [
        (0, b"something", "exit code 0"),
        (3, b"something", "exit code 3"),
        (-9, None, "killed by signal 9"),
        (-11, b"", "killed by signal 11"),
        (-11, b'Stack:\n  File "/x/net.py", line 5 in forward\n', "killed by signal 11 at net.py, line 5, in forward"),
    ],
)
def test_how_a_process_has_ended(code: int, crash: bytes | None, text: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    connection = Connection()
    with tempfile.TemporaryFile() as file:
        file.write(crash or b"")
        file.flush()
        assert worker(connection, Process(code), None if crash is None else file).ended() == text
        assert file.closed == (crash is not None)
    assert connection.closed
    said = (crash or b"").decode()
    assert caplog.messages == ([f"what a worker process was doing when it died:\n{said}"] if code < 0 and crash else [])


def test_a_worker_is_told_how_trials_run_and_given_data(monkeypatch: pytest.MonkeyPatch) -> None:
    process, connection, asked = Process(), Connection(), []

    def begin(*arguments: Any) -> Any:
        asked.append(arguments)
        return process, connection

    monkeypatch.setattr(processes, "start", begin)
    made = start(named(lanes=3), {"own": "data"}, 2)  # type: ignore[dict-item]
    assert made.crash is not None
    assert asked == [("pai_bench.execution.worker", 2, made.crash.fileno())]
    level, how, data = pickle.loads(connection.sent[0])
    assert (level, type(how), how.lanes, data) == (logging.INFO, Execution, 3, {"own": "data"})
    assert {f.name for f in fields(how)} == set(vars(how))
    assert (made.cell, made.ready, made.since, made.silent) == ([], False, 0.0, 0.0)
    made.close()
    assert made.crash.closed
    connection.closed = True  # one that is dead is no error yet
    start(named(), {}, 1).close()


def test_nothing_stays_open_of_a_worker_that_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    files: list[Any] = []
    real = tempfile.TemporaryFile

    def opened() -> Any:
        files.append(real())
        return files[-1]

    def begin(*_arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(tempfile, "TemporaryFile", opened)
    monkeypatch.setattr(processes, "start", begin)
    with pytest.raises(KeyboardInterrupt):
        start(named(), {}, 1)
    assert [file.closed for file in files] == [True]


def test_workers_are_asked_to_end_all_at_once_and_killed_where_they_do_not_hear() -> None:
    hearing, deaf = Process(), Process(hears=False)
    connections = Connection(), Connection()
    end([worker(connections[0], hearing), worker(connections[1], deaf)])
    patience = worker_process.PATIENCE
    assert hearing.asked == ["terminate", patience]
    assert deaf.asked == ["terminate", patience, "kill", None]
    assert all(connection.closed for connection in connections)
    assert 1 <= patience <= 10  # seconds that somebody waits for
