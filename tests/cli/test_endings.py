"""Sweeps that are asked to end, whose output nobody takes, or that were killed: for real, in processes of their own."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pai_bench.results import Store
from pai_bench.results.checkpoints import CheckpointFolder
from pai_bench.support import processes
from pai_bench.support.outfile import ABANDONED, temporary

RUN = [sys.executable, "-m", "pai_bench", "run", "--criteria", "random", "--models", "lenet-300-100", "--lanes", "1"]
SHORT = ["--seeds", "1", "--epochs", "0", "--sparsities", "0.5", "--workers", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_sweep_that_is_asked_to_end_says_how_to_go_on(number: signal.Signals, workers: str, tmp_path: Path) -> None:
    """It leaves no worker, and what is stored stays."""
    command = [*RUN, "--seeds", "40", "--epochs", "5", "--workers", workers, "--out", str(tmp_path)]
    sweep = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert sweep.stdout is not None
    while "[1/" not in sweep.stdout.readline():  # until the first trial is stored
        assert sweep.poll() is None
    sweep.send_signal(number)
    rest, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 130
    stored = len(list((tmp_path / "trials").glob("*.json")))
    said = " ".join(rest.split())  # a log has lines of 160 characters
    assert f"interrupted: {stored} of 120 trials are stored in {tmp_path}" in said
    assert "the same command runs the rest" in said
    while is_there(sweep.pid):  # until the whole session has ended
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["2"])
def test_a_sweep_ends_at_its_time_limit_with_a_checkpoint(workers: str, tmp_path: Path) -> None:
    """A long trial is not lost, however often the limit comes before its end."""
    command = [*RUN, "--seeds", "1", "--epochs", "3000", "--sparsities", "0.5", "--workers", workers]
    command += ["--out", str(tmp_path), "--log-level", "info", "--time-limit"]
    done = subprocess.run([*command, "8s"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    trials = "1 trial" if workers == "1" else "2 trials"
    assert done.returncode == 130
    expected = f"time limit of 8s: 0 of 2 trials are stored in {tmp_path}, and {trials} will resume from a checkpoint"
    assert f"{expected}; the same command runs the rest" in " ".join(done.stdout.split())
    steps = [checkpoint.step for checkpoint in CheckpointFolder(tmp_path)]
    assert len(steps) == int(workers)
    again = subprocess.run([*command, "8s"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    for step in steps:
        assert f"resumes from its checkpoint after step {step} of " in again.stdout
    assert all(checkpoint.step > min(steps) for checkpoint in CheckpointFolder(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_whole_group_leaves_a_checkpoint_of_each_worker(number: int, tmp_path: Path) -> None:
    """As a batch system ends a job, or a terminal is closed."""
    command = [
        *RUN,
        "--seeds",
        "1",
        "--epochs",
        "3000",
        "--sparsities",
        "0.5",
        "--workers",
        "2",
        "--out",
        str(tmp_path),
    ]
    command += ["--checkpoint-every", "1s"]
    sweep = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    folder = CheckpointFolder(tmp_path)
    while len(before := list(folder)) < 2:  # until both train
        assert sweep.poll() is None
        time.sleep(0.1)
    os.killpg(sweep.pid, number)
    assert sweep.wait(60) == 130
    after = list(folder)
    assert all(new.step > old.step for old, new in zip(before, after, strict=True))


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
