"""Where trials run, by name: this process, workers, and a backend that is one file from outside of the package."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pai_bench as pb
from pai_bench.cli.entry import main
from pai_bench.execution.backend import Callbacks
from pai_bench.execution.in_process import in_process
from pai_bench.execution.listener import Listener
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.results import Record, Store
from tests.execution.sweeps import named

BACKWARDS = """
import pai_bench as pb
from pai_bench.execution import InProcess, choose

class Backwards(InProcess):
    description = "the last trial first"

    def run(self, cells, callbacks):
        super().run(cells[::-1], callbacks)

def backwards(runner, missing):
    return Backwards(runner, choose(runner, missing, workers=1))
"""

TWICE = """
import dataclasses
import pai_bench as pb
from pai_bench.execution import InProcess, choose

class Twice(InProcess):
    def run(self, cells, callbacks):
        def give(cell, records, seconds):
            callbacks.on_records(cell, records, seconds)
            callbacks.on_records(cell, [dataclasses.replace(one, status="failed") for one in records], seconds)

        super().run(cells, dataclasses.replace(callbacks, on_records=give))

def twice(runner, missing):
    return Twice(runner, choose(runner, missing, workers=1))
"""

NOTES = """
import os
from dataclasses import dataclass
from pathlib import Path
import pai_bench as pb

@dataclass(frozen=True)
class Notes(pb.Criterion):
    def score(self, model, batch):
        Path("pid").write_text(str(os.getpid()))
        return pb.get_criterion("magnitude").score(model, batch)
"""

RUN = ["run", "--criteria", "random", "--models", "lenet-300-100", "--sparsities", "0.5", "--seeds", "2"]
RUN += ["--epochs", "0", "--lanes", "1"]


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "here"), [("in-process", True), ("processes", False), ("auto", False)])
def test_a_criterion_of_ones_own_runs_where_it_is_asked_for(backend: str, here: bool) -> None:
    Path("notes.py").write_text(NOTES)
    frame = pb.run(named(criteria=["./notes.py:Notes"], seeds=1, epochs=0), backend=backend)
    assert list(frame.status) == ["done"] * 2
    assert (int(Path("pid").read_text()) == os.getpid()) is here


@pytest.mark.slow
def test_backends_give_the_same() -> None:
    keys: dict[str, Any] = {"seeds": 1, "workers": "auto"}
    here, there = (pb.run(named(**keys), out=name, backend=name) for name in ("in-process", "processes"))
    columns = ["identity", "status", "achieved_sparsity", "test_loss", "test_accuracy"]
    assert here[columns].equals(there[columns])


def test_this_process_has_no_workers() -> None:
    assert list(pb.run(named(workers=1, seeds=1), backend="in-process").status) == ["done"] * 3
    with pytest.raises(pb.UserError, match="backend in-process has no workers, and 2 are asked for"):
        pb.run(named(workers=2), backend="in-process")


def test_an_unknown_backend_is_refused_before_anything_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--backend", "procceses", "--data", "folder:nowhere"]) == 2
    assert "unknown backend 'procceses'" in (said := capsys.readouterr().err)
    assert "processes" in said
    with pytest.raises(pb.UserError, match="unknown backend 'far'"):
        pb.run(named(data=["folder:nowhere"]), backend="far")


def test_a_backend_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text(BACKWARDS)
    assert main([*RUN, "--backend", "./mine.py:backwards", "--dry-run"]) == 0
    assert not Path("results").exists()
    assert main([*RUN, "--backend", "./mine.py:backwards"]) == 0
    said = capsys.readouterr().out
    assert "; the last trial first" in said
    assert "[1/4] digits lenet-300-100 random 0.5 seed 1" in said
    assert "[4/4] digits lenet-300-100 dense seed 0" in said
    assert [one.status for one in Store("results")] == ["done"] * 4


def test_records_that_a_backend_gives_again_are_left_out() -> None:
    Path("mine.py").write_text(TWICE)
    finished = list[str]()

    class Notes(Listener):
        def on_finish(self, trial: Trial, record: Record, seconds: float) -> None:
            finished.append(f"{trial.identity} {record.status}")

    pb.run(named(seeds=1, epochs=0), out="r", backend="./mine.py:twice", listener=Notes())
    assert sorted(finished) == sorted(f"{one.identity} done" for one in Store("r"))


@pytest.mark.slow
def test_a_backend_of_an_installed_package() -> None:
    Path("far_away.py").write_text(
        BACKWARDS.replace("def backwards", '@pb.backend("far", source="an example")\ndef far')
    )
    Path("far_away-1.dist-info").mkdir()
    Path("far_away-1.dist-info", "METADATA").write_text("Metadata-Version: 2.1\nName: far-away\nVersion: 1\n")
    Path("far_away-1.dist-info", "entry_points.txt").write_text("[pai_bench.backends]\nours = far_away\n")
    path = os.pathsep.join([os.getcwd(), *sys.path])
    command = [sys.executable, "-m", "pai_bench", *RUN, "--backend", "far"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, check=False)
    assert done.returncode == 0, done.stderr
    assert "; the last trial first" in done.stdout


@pytest.mark.parametrize("workers", [1, "auto"])
def test_seconds_of_a_trial_in_this_process_are_told(workers: Any) -> None:
    """The process that has inspected networks ends, so that it keeps no memory."""
    notes: list[Any] = []
    isolated: Any = SimpleNamespace(close=lambda: notes.append("closed"), query=lambda *_: 1 // 0)
    runner = Runner(resolve(named(workers=workers, seeds=1, epochs=0)))
    runner.catalog.isolated_process = isolated
    trials, start = runner.catalog.trials, time.perf_counter()
    with in_process(runner, trials) as backend:
        assert notes == ["closed"]
        assert backend.plan.workers == 1
        cells = [trials[:1], trials[1:2]]
        on_records: Any = lambda cell, records, seconds: notes.append((cell, len(records), seconds))  # noqa: E731
        missing = iter([trials[:1], []])
        backend.run(cells, Callbacks(lambda _cell: next(missing), lambda *_: None, on_records))
    ((cell, records, seconds),) = notes[1:]
    assert (cell, records) == (trials[:1], 1)
    assert 0 < seconds < time.perf_counter() - start
