"""A worker process as its parent sees it: silent, stopped or dead."""

import signal
import subprocess
import sys
from multiprocessing import Pipe

import pytest

from pai_bench.execution.worker_process import Worker, end


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little patience with a process that says nothing."""
    monkeypatch.setattr("pai_bench.execution.worker_process.HEARTBEAT", 0.05)
    monkeypatch.setattr("pai_bench.execution.worker_process.SILENCE", 0.2)


@pytest.mark.usefixtures("quick")
def test_a_process_that_says_nothing_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = Pipe()
    worker = Worker(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]), ours)
    theirs.send(("alive", None))
    with theirs, pytest.raises(EOFError):
        worker.receive()
    assert worker.ended() == "killed by signal 9"
    assert caplog.messages == ["a worker process has sent no message for 0 s and is killed"]


def test_a_process_that_does_not_hear_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pai_bench.execution.worker_process.PATIENCE", 0.2)
    ours, _ = Pipe()
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    worker = Worker(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE), ours)
    assert worker.process.stdout is not None
    with worker.process.stdout as said:
        said.readline()
        end([worker])
    assert worker.process.returncode == -signal.SIGKILL


@pytest.mark.usefixtures("quick")
def test_a_process_that_has_died_is_heard_to_the_end_and_then_not_waited_for() -> None:
    ours, theirs = Pipe()
    worker = Worker(subprocess.Popen([sys.executable, "-c", ""]), ours)
    worker.process.wait()
    theirs.send(("result", 1))
    with theirs:
        assert not worker.has_ended()
        assert worker.receive() == ("result", 1)
        assert worker.has_ended()
        with pytest.raises(EOFError):
            worker.receive()
    assert worker.ended() == "exit code 0"
