"""Trials in lanes and in workers give what they give one by one; listeners, and what an interrupt leaves."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import pai_bench as pb
from pai_bench.execution import Backend, Listener, run_catalog, run_catalogs
from pai_bench.experiment.inputs import Inputs
from pai_bench.experiment.resolve import Catalog, resolve
from pai_bench.experiment.trial import Trial
from pai_bench.report.page import write_report
from pai_bench.results import Record, Store
from tests.execution.sweeps import named, same
from tests.experiment.test_runner import Count, Fails, sweep


@pytest.mark.parametrize("lanes", [2, 4, 100])
def test_lanes_give_what_one_by_one_gives(lanes: int) -> None:
    keys: dict[str, Any] = {"criteria": ["snip", "random", Fails()], "sparsities": [0.5, 0.99]}
    one, together = (pb.run(sweep(lanes=n, **keys), out=str(n)) for n in (1, lanes))
    same(one, together)
    assert {"done", "failed", "disconnected"} == set(one.status)
    used = {record.provenance.lanes for record in Store(str(lanes))}
    assert max(used) == min(lanes, 2 * 3) if lanes == 100 else max(used) <= lanes


@pytest.mark.parametrize(("workers", "lanes"), [(2, 1), pytest.param(3, 2, marks=pytest.mark.slow)])
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


class Breaks(Listener):
    """A listener with a mistake in it."""

    def on_epoch(self, trial: Trial, epoch: int) -> None:
        raise ZeroDivisionError("in the listener")


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_listener_is_no_failure_of_a_trial(workers: int) -> None:
    with pytest.raises(ZeroDivisionError, match="in the listener"):
        pb.run(named(workers=workers), out="r", listener=Breaks())
    assert not list(Path("r").glob("**/*.json"))


@pytest.mark.slow
def test_what_a_worker_takes_to_begin_is_no_time_of_a_trial() -> None:
    seconds: list[float] = []

    class Times(Listener):
        def on_finish(self, trial: Trial, record: Record, seconds_of: float) -> None:
            seconds.append(seconds_of)

    start = time.perf_counter()
    run_catalog(resolve(named(workers=2, seeds=1, epochs=0)), "r", listener=Times())
    assert 0 < sum(seconds) < 0.5 * (time.perf_counter() - start)


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


class Notes(Listener):
    """Notes what is told of a sweep, in order."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def on_planning(self, trials: int) -> None:
        self.said.append(("planning", trials))

    def on_begin(self, catalog: Catalog, backend: Backend, total: int, missing: list[Trial]) -> None:
        self.said.append(("begin", total, len(missing)))

    def on_ready(self) -> None:
        self.said.append("ready")

    def on_start(self, trial: Trial) -> None:
        self.said.append("start")

    def on_finish(self, trial: Trial, record: Record, seconds: float) -> None:
        self.said.append("finish")

    def on_end(self) -> None:
        self.said.append("end")


@pytest.mark.parametrize("grids", [1, 2])
def test_what_is_told_of_grids_and_when_their_data_and_processes_are_freed(
    grids: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that has inspected one grid becomes its first worker; those of several would fill the memory."""
    listener, release = Notes(), Inputs.release

    def released(inputs: Inputs) -> None:
        listener.said.append("release")
        release(inputs)

    monkeypatch.setattr(Inputs, "release", released)
    # the second has four trials more, of another sparsity; both dense ones are of the first, too
    catalogs = [resolve(sweep(epochs=0, sparsities=sparsities)) for sparsities in ([0.5], [0.5, 0.75])][:grids]
    for catalog in catalogs:
        isolated: Any = SimpleNamespace(close=lambda: listener.said.append("close"), hand_over=lambda: None)
        catalog.isolated_process = isolated
    pairs = [(catalog, "r") for catalog in catalogs]
    found = run_catalogs(pairs, listener=listener, backend="in-process")
    assert [len(records) for records in found] == [6, 10][:grids]
    told: list[Any] = listener.said
    run = ["close"]  # as it begins to run here
    if grids == 1:
        assert told[:5] == [("planning", 6), "release", ("begin", 6, 6), "ready", *run]
        assert told[5:-3].count("start") == told[5:-3].count("finish") == 6
        assert told[-3:] == ["release", "end", "close"]
        return
    assert told[:8] == [
        *(("planning", 10), "release", "close", "release", "close"),
        *(("begin", 6, 6), ("begin", 4, 4), "ready"),
    ]
    assert [note for note in told[8:] if note not in ("start", "finish")] == [
        *(*run, "release", *run, "release"),
        *("end", "close", "close"),
    ]
