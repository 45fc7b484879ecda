"""Networks that crash as no exception can tell: for real, in sweeps of their own."""

import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import pai_bench as pb
from pai_bench.cli.entry import main
from pai_bench.data import Split
from pai_bench.execution import Callbacks, choose
from pai_bench.execution.probe import Probe, close, prepared
from pai_bench.execution.processes import Processes
from pai_bench.execution.worker_process import Worker
from pai_bench.experiment.resolve import Inspection, inspect_network, resolve
from pai_bench.experiment.runner import Runner
from pai_bench.results import Record, Store
from pai_bench.support import processes
from pai_bench.training.trainer import Engine
from tests.execution.sweeps import DIES, named

NETS = """
import ctypes
import os
import re
import signal
import time
from torch import nn

class Crashes(nn.Module):
    def __init__(self, classes, crash):
        super().__init__()
        self.layer, self.norm, self.crash = nn.Linear(784, classes), nn.BatchNorm1d(classes), crash

    def forward(self, x):
        self.crash()
        return self.norm(self.layer(x.flatten(1)))

def aborts(shape, classes):
    return Crashes(classes, os.abort)

def segfaults(shape, classes):
    return Crashes(classes, lambda: ctypes.string_at(0))

def cannot_be_built(shape, classes):
    os.abort()

class InTraining(Crashes):
    def forward(self, x):
        if self.training:
            os.abort()
        return self.layer(x.flatten(1))

def in_training(shape, classes):
    return InTraining(classes, None)

class LeavesAnother(Crashes):
    def forward(self, x):
        if self.training:
            if not os.fork():
                time.sleep(60)
                os._exit(0)
            os.abort()
        return self.layer(x.flatten(1))

def leaves_another(shape, classes):
    return LeavesAnother(classes, None)

def stops(shape, classes):
    return Crashes(classes, lambda: os.kill(os.getpid(), signal.SIGSTOP))

def good(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))
"""


@pytest.fixture(autouse=True)
def _nets() -> None:
    Path("nets.py").write_text(NETS)


def crashing(*models: str, **changes: Any) -> pb.Sweep:
    """A sweep of networks of `NETS`."""
    keys: dict[str, Any] = {"criteria": ["random"], "models": [f"./nets.py:{model}" for model in models], "seeds": 1}
    return named(**keys | changes)


@pytest.fixture
def probe() -> Iterator[Probe]:
    """A process that can run `in_training` and `good`, after it has inspected `aborts`, too."""
    found = Probe(crashing("aborts", "in_training", "good"))
    yield found
    found.close()


@pytest.mark.slow
def test_networks_are_inspected_and_measured_in_another_process(probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    catalog = resolve(probe.sweep, probe.inspect)
    catalog.isolated_process = probe
    protocols = {trial.model.name.partition("@")[0]: trial.protocol.name for trial in catalog.trials}
    assert protocols == {"aborts": "short-adam-bn", "in_training": "short-adam-bn", "good": "short-adam"}
    assert re.search(
        r"ends the process that runs it on digits \(killed by signal 6 at nets.py, line \d+, in \S+\)", caplog.text
    )
    trials = {trial.model.name.partition("@")[0]: trial for trial in catalog.trials}
    with pytest.raises(RuntimeError, match=r"in_training@.* died \(killed by signal 6 at nets.py"):
        probe.query("step", trials["in_training"], 1, 1, Engine())
    seconds, _ = probe.query("step", trials["good"], 1, 1, Engine())
    assert 0 < seconds < 1
    assert probe.query("sizes", trials["good"]) == [7840]
    assert probe.query("obstacle", trials["good"], "stacked") is None
    assert 0 < probe.query("score", trials["good"]) < 1
    with pytest.raises(RuntimeError, match="AssertionError"):
        probe.query("score", next(trial for trial in catalog.trials if trial.criterion is None))
    worker = probe._worker
    assert probe.hand_over() is worker is not None
    assert probe.hand_over() is None
    probe._worker = worker


@pytest.mark.slow
def test_trials_of_code_of_ones_own_run_in_another_process() -> None:
    """The one that has measured them becomes the worker, and gives what this process gives."""
    catalog = prepared(crashing("good", workers=1, epochs=1))
    assert isinstance(catalog.isolated_process, Probe)
    process = catalog.isolated_process._worker.process  # type: ignore[union-attr]
    records: list[Record] = []
    with Processes(runner := Runner(catalog), choose(runner, catalog.trials)) as pool:
        pool.run(
            [[trial] for trial in catalog.trials],
            Callbacks(list, print, lambda _, found, __: records.extend(found)),
        )
        assert [worker.process for worker in pool._workers] == [process]
    assert process.poll() is not None
    here = [Runner(resolve(crashing("good", workers=1, epochs=1))).run(trial) for trial in catalog.trials]
    assert [(one.status, one.evaluation.test_loss, one.identity) for one in records] == [
        ("done", one.evaluation.test_loss, one.identity) for one in here
    ]
    assert {record.provenance.workers for record in records} == {1}


def test_our_own_networks_are_inspected_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """And run in it, where the criteria are ours, too; nothing is started for what is stored."""
    assert prepared(named(workers=1)).isolated_process is None
    monkeypatch.setattr(processes, "start", lambda *_: 1 // 0)
    Path("mine.py").write_text(DIES.format(times=0))
    assert prepared(named(criteria=["./mine.py:Dies"])).isolated_process is not None


def test_what_another_process_cannot_read_is_inspected_here() -> None:
    sweep = crashing("good")
    found = Probe(sweep)
    found.usable = False
    assert resolve(sweep, found.inspect).trials == resolve(sweep).trials
    with pytest.raises(RuntimeError, match="no process can be started"):
        found.query("step", resolve(sweep).trials[0])


def test_a_process_that_was_ended_is_not_handed_over() -> None:
    ours, _ = Pipe()
    one = Probe(crashing("good"))
    one._worker = worker = Worker(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]), ours)
    one.close()
    assert worker.process.poll() is not None
    assert one.hand_over() is None


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a trial whose worker dies no second time: each start of a worker takes seconds."""
    monkeypatch.setattr("pai_bench.execution.deaths.ATTEMPTS", 1)


@pytest.mark.slow
@pytest.mark.usefixtures("once")
@pytest.mark.parametrize("bad", ["leaves_another", "stops"])
def test_a_network_that_stops_or_leaves_another_process_fails_alone(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pai_bench.execution.worker_process.SILENCE", 15.0)
    frame = pb.run(crashing(bad, "good"), out="r")
    assert {(model.partition("@")[0], status) for model, status in zip(frame.model, frame.status, strict=True)} == {
        (bad, "failed"),
        ("good", "done"),
    }


RUN = ["--criteria", "random", "--sparsities", "0.5", "--seeds", "1", "--epochs", "1", "--device", "cpu"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bad", "workers"),
    [("aborts", "1"), ("segfaults", "2"), ("cannot_be_built", "auto"), ("in_training", "auto")],
)
@pytest.mark.usefixtures("once")
def test_a_network_that_crashes_fails_alone(bad: str, workers: str, capfd: pytest.CaptureFixture[str]) -> None:
    models = ["--models", f"./nets.py:{bad},./nets.py:good"]
    assert main(["run", *RUN, *models, "--workers", workers, "--out", "r"]) == 1
    out, err = capfd.readouterr()
    statuses = {(one.trial["model"].partition("@")[0], one.status) for one in Store("r")}
    assert statuses == {(bad, "failed"), ("good", "done")}
    assert len(list(Store("r"))) == 4
    assert f"digits {bad}@" in out
    assert "failed, " in out
    said = " ".join(out.split())
    assert re.search(
        r"RuntimeError: the worker process died \(killed by signal \d+ at nets.py, line \d+, in \S+\)", said
    )
    assert "2 trials failed; --retry-failed runs them again" in out
    assert "Extension modules" not in err  # which python shows of a process that crashes


@pytest.mark.slow
@pytest.mark.parametrize("bad", ["aborts", "in_training"])
def test_a_dry_run_with_a_network_that_crashes(bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *RUN, "--models", f"./nets.py:{bad},./nets.py:good", "--dry-run"]) == 0
    assert f"not measured: a step of {bad}@" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("once")
def test_recipes_of_several_grids_with_a_network_that_crashes() -> None:
    Path("r.toml").write_text(
        'criteria = "random"\nsparsities = 0.5\nseeds = 1\nepochs = 1\nout = "r"\n'
        '[[grid]]\nmodels = "./nets.py:in_training"\n[[grid]]\nmodels = "./nets.py:good"\n'
    )
    assert main(["run", "r.toml"]) == 1
    assert sorted(record.status for record in Store("r")) == ["done", "done", "failed", "failed"]


class Answers:
    """Stands for a worker that answers with one message after the other, and then has died."""

    def __init__(self, *messages: tuple[str, Any]) -> None:
        self.messages, self.sent, self.notes = list(messages), list[Any](), list[str]()
        self.connection = SimpleNamespace(send=self.sent.append)
        self.process = SimpleNamespace(
            terminate=lambda: self.notes.append("ended"), wait=lambda _limit: self.notes.append("waited for")
        )

    def receive(self) -> tuple[str, Any]:
        if not self.messages:
            raise EOFError
        return self.messages.pop(0)

    def ended(self) -> str:
        return "exit code 3"

    def close(self) -> None:
        self.notes.append("closed")


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> list[Answers]:
    """The workers that are started, one after the other."""
    workers: list[Answers] = []
    monkeypatch.setattr("pai_bench.execution.probe.start", lambda *_: workers.pop(0))
    return workers


KNOWN = Inspection(batch_norm=True, traced=("a",))


@pytest.mark.parametrize(
    ("messages", "found", "usable", "runs"),
    [
        ([("partial", Inspection()), ("result", KNOWN)], KNOWN, True, True),
        ([("partial", Inspection()), ("error", "why")], None, True, True),  # an error, too, is told from here
        ([("unfit", "why")], None, False, False),
        ([], None, False, False),  # not even the sweep could be read
        ([("partial", KNOWN)], KNOWN, True, False),
    ],
)
def test_what_a_process_says_of_a_network(
    messages: list[tuple[str, Any]],
    found: Inspection | None,
    usable: bool,
    runs: bool,
    answering: list[Answers],
    caplog: pytest.LogCaptureFixture,
) -> None:
    sweep = crashing("good")
    catalog = resolve(sweep)
    source, model = catalog.trials[0].data, catalog.trials[0].model
    worker: Any = Answers(*messages)
    answering += [worker] if messages else [Answers(), worker]  # what dies at once is started once more
    probe = Probe(sweep)
    here = inspect_network(sweep, catalog.data["digits"], model)
    assert probe.inspect(sweep, source, catalog.data["digits"], model) == (found or here)
    assert (probe.usable, probe.hand_over() is worker) == (usable, runs)
    assert worker.notes == (["ended", "closed", "waited for"] if messages == [("unfit", "why")] else [])
    died = f"model {model} ends the process that runs it on digits (exit code 3)"
    assert caplog.messages == ([died] if found and not runs else [])
    ((kind, question),) = worker.sent
    assert (kind, pickle.loads(question)) == ("query", ("inspect", (sweep, source, model)))


def test_a_process_that_dies_as_it_begins_is_started_once_more(answering: list[Answers]) -> None:
    sweep = crashing("good")
    catalog = resolve(sweep)
    worker: Any = Answers(("result", KNOWN))
    answering += [Answers(), worker]
    probe = Probe(sweep)
    trial = catalog.trials[0]
    assert probe.inspect(sweep, trial.data, catalog.data["digits"], trial.model) == KNOWN
    assert (probe.usable, probe.hand_over() is worker) == (True, True)


def test_answers_are_given_and_errors_raised(answering: list[Answers]) -> None:
    sweep = crashing("good")
    trial = resolve(sweep).trials[0]
    answering += [Answers(("result", 7), ("error", "why")), other := Answers(("result", 8))]
    probe = Probe(sweep)
    assert probe.query("step", trial, 1, 2) == 7
    with pytest.raises(RuntimeError, match=r"^why$"):
        probe.query("sizes", trial)
    with pytest.raises(RuntimeError, match=r"^the process that ran good@\w+ died \(exit code 3\)$"):
        probe.query("sizes", trial)
    assert probe.query("score", trial) == 8  # by another process
    assert [pickle.loads(question) for _, question in other.sent] == [("score", (trial,))]


def test_a_process_is_taken_where_it_can_read_the_sweep_and_ended_after_a_mistake(
    answering: list[Answers], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = [("result", Inspection())]
    answering += [Answers(*result), Answers(), Answers(), wrong := Answers(*result)]
    assert prepared(crashing("good")).isolated_process is not None
    assert prepared(crashing("good")).isolated_process is None  # it has died
    with pytest.raises(pb.UserError, match="batch size 5000 is larger"):
        prepared(crashing("good", batch_size=5000))
    assert wrong.notes == ["ended", "closed", "waited for"]
    assert answering == []
    with monkeypatch.context() as patch:
        patch.setattr(processes, "can_start", lambda: False)
        assert prepared(crashing("good")).isolated_process is None
    split = Split(torch.zeros(40, 784), torch.arange(40) % 2)
    images = pb.DataSet("own", split, split)
    own = crashing("good", data=[images], batch_size=4, score_batch=4)
    assert prepared(own).isolated_process is None  # another process has no such data
    closed: list[str] = []
    isolated = SimpleNamespace(close=lambda: closed.append("a"))
    catalogs: Any = [SimpleNamespace(isolated_process=one) for one in (isolated, None)]
    close(catalogs)
    assert closed == ["a"]
