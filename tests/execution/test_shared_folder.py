"""Several processes on one results folder, killed and stopped for real."""

import dataclasses
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kills import MARK, MODES, events, interrupted, kill, processes_on, records, results, start

PROCESS = """
import functools, json, sys
import pai_bench as pb
from pai_bench.execution import sweep
from pai_bench.results.claims import Claims

sweep.Claims = functools.partial(Claims, expiry=2.0, beat=0.2)

class Log(pb.Listener):
    def note(self, *what):
        print(json.dumps(what), flush=True)
    def on_epoch(self, trial, epoch):
        self.note("epoch", trial.identity, epoch)
    def on_finish(self, trial, record, seconds):
        self.note("finish", trial.identity)
    def on_skip(self, trial):
        self.note("skip", trial.identity)

keys = dict(criteria=["random"], models=["lenet-300-100"], sparsities=[0.9], seeds=1, lanes=1, workers=1, device="cpu")
pb.run(pb.Sweep(**keys, epochs=int(sys.argv[2]), checkpoint_every="0.2s"), out=sys.argv[1], listener=Log())
"""


def begin(folder: Path, epochs: int = 12) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS, str(folder), str(epochs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def until(process: subprocess.Popen[str], *what: Any) -> list[Any]:
    """The notes of a process up to one that begins like this."""
    assert process.stdout is not None
    notes = []
    for line in process.stdout:
        notes.append(json.loads(line))
        if notes[-1][: len(what)] == [*what]:
            return notes
    raise AssertionError(f"no {what} in {notes}")


@pytest.mark.slow
def test_what_a_stopped_process_has_begun_is_taken_over_and_stays(tmp_path: Path) -> None:
    """After it continues, it drops what others have done meanwhile, and ends well."""
    stopped = begin(tmp_path / "r")
    try:
        (*_, (_, first, _)) = until(stopped, "epoch")
        until(stopped, "epoch", first, 4)
        stopped.send_signal(signal.SIGSTOP)
        other = begin(tmp_path / "r")
        notes = until(other, "finish", first)
        assert next(note for note in notes if note[:2] == ["epoch", first])[2] >= 1  # from the checkpoint
        path = tmp_path / "r" / "trials" / f"{first}.json"
        before = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns
        stopped.send_signal(signal.SIGCONT)
        out, _ = stopped.communicate(timeout=100)
        other.communicate(timeout=100)
    finally:
        for process in (stopped, other):
            process.kill()
    assert (stopped.returncode, other.returncode) == (0, 0)
    assert ["skip", first] in [json.loads(line) for line in out.splitlines()]
    assert (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) == before
    begin(tmp_path / "whole").communicate(timeout=100)
    assert results(tmp_path / "r") == results(tmp_path / "whole")


def test_a_kill_reaches_what_has_a_session_of_its_own(tmp_path: Path) -> None:
    """As the processes of Ray.

    The line is the child's own: a process whose program is being replaced has no environment for a moment.
    """
    child = "import time; print(flush=True); time.sleep(99)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], start_new_session=True)"
    command, environment = [sys.executable, "-c", code], os.environ | {MARK: str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert len(processes_on(tmp_path)) == 2
        kill(tmp_path)
        assert process.wait() == -signal.SIGKILL
    assert processes_on(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", [MODES[5]], ids=lambda mode: mode.name)
def test_kills_at_random_moments_lose_nothing(mode: Any, tmp_path: Path) -> None:
    mode = dataclasses.replace(mode, settings={**mode.settings, "seeds": 1})
    assert start(tmp_path / "whole", mode.settings).wait() == 0
    count = interrupted(mode, tmp_path / "r", 3, results(tmp_path / "whole"), random.Random(0))
    assert count.kills >= 3
    assert (count.changed, count.twice, count.different) == (set(), [], [])


@pytest.mark.slow
def test_four_processes_run_each_trial_once(tmp_path: Path) -> None:
    (mode,) = (mode for mode in MODES if mode.processes == 4)
    processes = [start(tmp_path / "r", mode.settings) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    finished = [identity for _, _, what, identity, *_ in events(tmp_path / "r") if what == "finish"]
    assert sorted(finished) == sorted(records(tmp_path / "r"))
    assert len({pid for pid, _, what, *_ in events(tmp_path / "r") if what == "finish"}) > 1
