"""Sweeps that are asked to end, whose output nobody takes, or that were killed: for real, in processes of their own."""

import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pai_bench.results import Store
from pai_bench.results.checkpoints import CheckpointFolder
from pai_bench.support import processes
from pai_bench.support.outfile import ABANDONED, temporary

RUN = [sys.executable, "-m", "pai_bench", "run", "--criteria", "random", "--models", "lenet-300-100", "--lanes", "1"]
SHORT = ["--seeds", "1", "--epochs", "0", "--sparsities", "0.5", "--workers", "1"]


@contextmanager
def session(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process in a session of its own, which hears of SIGHUP also under ``nohup``; nothing of it is left."""
    listen = functools.partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)
    keys: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "preexec_fn": listen}
    with subprocess.Popen(command, start_new_session=True, **keys) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "number"), [("1", signal.SIGHUP), ("2", signal.SIGTERM)])
def test_a_sweep_that_is_asked_to_end_says_how_to_go_on(workers: str, number: signal.Signals, tmp_path: Path) -> None:
    """It leaves no worker, and what is stored stays."""
    command = [*RUN, "--seeds", "40", "--epochs", "5", "--workers", workers, "--out", str(tmp_path)]
    with session(command) as sweep:
        assert sweep.stdout is not None
        while "[1/" not in sweep.stdout.readline():  # until the first trial is stored
            assert sweep.poll() is None
        sweep.send_signal(number)
        rest, _ = sweep.communicate(timeout=60)
        while is_there(sweep.pid):  # until the whole session has ended
            time.sleep(0.1)
    assert sweep.returncode == 130
    stored = len(list((tmp_path / "trials").glob("*.json")))
    said = " ".join(rest.split())  # a log has lines of 160 characters
    assert f"interrupted: {stored} of 120 trials are stored in {tmp_path}" in said
    assert "the same command runs the rest" in said


def wait_for_checkpoints(
    sweep: subprocess.Popen[str], folder: CheckpointFolder, steps: Sequence[int] = (0, 0)
) -> list[int]:
    """Wait until both trials of a sweep have checkpoints after later steps; the steps of these checkpoints."""
    while len(saved := [one.step for one in folder]) < 2 or saved[0] <= steps[0] or saved[1] <= steps[1]:
        assert sweep.poll() is None
        time.sleep(0.1)
    return saved


LONG = [*RUN, "--seeds", "1", "--epochs", "3000", "--sparsities", "0.5", "--workers", "2", "--checkpoint-every", "0.5s"]


@pytest.mark.slow
def test_a_sweep_ends_at_its_time_limit_with_a_checkpoint(tmp_path: Path) -> None:
    """A long trial is not lost, however often the limit comes before its end."""
    command = [*LONG, "--out", str(tmp_path), "--log-level", "info", "--time-limit", "1h"]
    folder, steps = CheckpointFolder(tmp_path), [0, 0]
    for attempt in range(2):
        with session(command) as sweep:
            wait_for_checkpoints(sweep, folder, steps)
            sweep.send_signal(signal.SIGALRM)  # as its timer does
            said, _ = sweep.communicate(timeout=60)
        assert sweep.returncode == 130
        expected = f"time limit of 1h: 0 of 2 trials are stored in {tmp_path}, "
        expected += "and 2 trials will resume from a checkpoint; the same command runs the rest"
        assert expected in " ".join(said.split())
        resumed = [f"resumes from its checkpoint after step {step} of " in said for step in steps]
        assert resumed == [attempt > 0] * 2
        steps = [checkpoint.step for checkpoint in folder]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_whole_group_leaves_a_checkpoint_of_each_worker(number: int, tmp_path: Path) -> None:
    """As a batch system ends a job, or a terminal is closed."""
    command, folder = [*LONG, "--out", str(tmp_path)], CheckpointFolder(tmp_path)
    with session(command) as sweep:
        before = wait_for_checkpoints(sweep, folder)
        os.killpg(sweep.pid, number)
        sweep.communicate(timeout=60)
    assert sweep.returncode == 130
    assert all(new.step > old for old, new in zip(before, folder, strict=True))


def is_there(group: int) -> bool:
    """Whether a group of processes has one that runs."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with processes.signals_as_interrupts():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ending_waits_for_what_may_not_be_broken_off() -> None:
    done = []

    def work() -> None:
        with processes.signals_as_interrupts():
            with processes.interrupts_deferred():
                signal.raise_signal(signal.SIGTERM)
                done.append("whole")
            done.append("never")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["whole"]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["full", "closed", "read no more"])
def test_an_output_that_nobody_takes_does_not_end_a_sweep(way: str, tmp_path: Path) -> None:
    if way == "full" and not Path("/dev/full").exists():
        pytest.skip("the system has no full device")
    command = [*RUN, *SHORT, "--out", str(tmp_path)]
    if way == "full":
        with Path("/dev/full").open("w") as full:
            found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    elif way == "closed":
        close = ["sh", "-c", 'exec "$@" >&-', "sh"]
        found = subprocess.run([*close, *command], stderr=subprocess.PIPE, text=True, check=False)
    else:
        reading, writing = os.pipe()
        os.close(reading)
        found = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
        os.close(writing)
    assert found.returncode == 0, found.stderr
    assert "Traceback" not in found.stderr
    said = re.findall(r"nothing more can be written to the standard output \((.*)\); the work goes on", found.stderr)
    assert said == {"full": ["No space left on device"], "closed": [], "read no more": []}[way]
    assert len(list((tmp_path / "trials").glob("*.json"))) == 2
    assert (tmp_path / "report.md").is_file()


def test_processes_of_the_same_number_write_to_other_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As two containers have that share a folder."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    assert len({temporary(tmp_path / "a.json") for _ in range(100)}) == 100


def test_what_killed_processes_had_begun_to_write_is_removed(tmp_path: Path) -> None:
    store = Store(tmp_path, create=True)
    for folder in ("costs", "checkpoints"):
        (store.path / folder).mkdir()
    cost, checkpoint = store.path / "costs" / ".cost.json.3f.tmp", store.path / "checkpoints" / ".a.safetensors.4f.tmp"
    old, young, other = (store.trials / name for name in (".old.1f.tmp", ".young.2f.tmp", "old.json"))
    for file in (old, young, other, cost, checkpoint):
        file.touch()
    for file in (old, other, cost, checkpoint):
        os.utime(file, (time.time() - ABANDONED - 60,) * 2)
    Store(tmp_path, create=True)
    assert [file.exists() for file in (old, young, other, cost, checkpoint)] == [False, True, True, False, False]
    assert sorted(file.name for file in store.trials.iterdir()) == [".young.2f.tmp", "old.json"]
