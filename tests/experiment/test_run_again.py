"""A trial that an error ends that may pass is run again after a pause; one that fails by itself is not."""

import errno
import functools
import gc
import os
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.execution import run_catalog
from pai_bench.experiment import stages
from pai_bench.experiment.resolve import resolve
from pai_bench.results import Store
from pai_bench.scoring import MaskedModel
from tests.experiment.test_runner import sweep

FULL = OSError(errno.EMFILE, "Too many open files")

errors: list[Exception | None] = []
"""What the next scores raise, one after the other."""

networks: list["weakref.ref[nn.Module]"] = []
"""That were scored."""


@dataclass(frozen=True)
class Raises(pb.Criterion):
    """Raises the next of `errors`."""

    def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
        networks.append(weakref.ref(model.network))
        if errors and (error := errors.pop(0)) is not None:
            raise error
        return model.weights()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that are made, which take no time."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    errors.clear()
    networks.clear()
    return made


def run(**changes: Any) -> list[str]:
    """The status of each trial of a sweep of one network, the dense one first."""
    keys: dict[str, Any] = {"criteria": [Raises()], "seeds": 1, "epochs": 1}
    return [record.status for record in run_catalog(resolve(sweep(**keys | changes)), "r", backend="in-process")]


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_failure_that_passes(times: int, pauses: list[float], caplog: pytest.LogCaptureFixture) -> None:
    errors[:] = [FULL] * times
    assert run() == ["done", "failed" if times == 3 else "done"]
    assert pauses == [5.0, 30.0][:times]
    (identity,) = (record.identity for record in Store("r") if "Raises" in record.identity)
    said = f"trial {identity} failed (OSError: [Errno 24] Too many open files"
    warnings = [text for text in caplog.messages if text.startswith(said)]
    assert [text.rpartition("; ")[2] for text in warnings] == ["once more in 5 s", "once more in 30 s"][:times]
    assert errors == []


def test_the_own_failure_of_a_trial(pauses: list[float]) -> None:
    errors[:] = [RuntimeError("no score today")]
    assert run() == ["done", "failed"]
    assert pauses == []
    errors[:] = [FULL, RuntimeError("no score today")]
    assert run(seeds=[1]) == ["done", "failed"]
    assert pauses == [5.0]


def test_what_comes_of_a_trial_that_was_run_again_is_what_it_would_have_been() -> None:
    errors[:] = [MemoryError(), FULL]
    again = pb.run(sweep(criteria=[Raises()], seeds=1), out="a")
    errors.clear()
    once = pb.run(sweep(criteria=[Raises()], seeds=1), out="b")
    assert again.test_loss.tolist() == once.test_loss.tolist()


def test_memory_that_is_short_in_training_is_free_in_the_pause(
    pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the network nor what an error has left in its traceback is there; the others of its lanes are done."""
    train, alive = stages.train_networks, list["weakref.ref[Any]"]()

    def short(inputs: Any, made: Any, *arguments: Any) -> Any:
        if len(made) > 1 or (made[0].trial.seed == 1 and len(pauses) < 2):
            activations = torch.zeros(3)
            alive.extend([weakref.ref(activations), *(weakref.ref(one.model) for one in made)])
            raise torch.OutOfMemoryError("CUDA out of memory")
        return train(inputs, made, *arguments)

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        assert [reference() for reference in alive] == [None] * len(alive)

    monkeypatch.setattr(stages, "train_networks", short)
    monkeypatch.setattr(time, "sleep", pause)
    gc.disable()  # nothing is left to it
    try:
        assert run(criteria=["random"], sparsities=[0.5], seeds=3, lanes=3) == ["done"] * 6
    finally:
        gc.enable()
    assert pauses == [5.0, 30.0]


def test_there_are_no_more_pauses_for_what_never_passes(pauses: list[float]) -> None:
    """Such as a network that is too large; when a trial of it is done, there are again."""
    errors[:] = [*[MemoryError()] * 4, None, None, None, MemoryError()]  # the first that is done has three scores
    assert run(sparsities=[0.1, 0.2, 0.3, 0.4, 0.5]) == ["done", "failed", "failed", "done", "done", "done"]
    assert pauses == [5.0, 30.0, 5.0]


def test_an_interrupt_ends_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    errors[:] = [FULL]
    with pytest.raises(KeyboardInterrupt):
        run()
    assert [record.status for record in Store("r")] == ["done"]
    assert run() == ["done", "done"]


SHORT = """
import errno
from dataclasses import dataclass
import pai_bench as pb

@dataclass(frozen=True)
class Short(pb.Criterion):
    def score(self, model, batch):
        raise OSError(errno.ENFILE, "Too many open files in system")
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["in-process", "processes"])
def test_a_signal_ends_a_pause_of_this_process_or_of_a_worker(backend: str) -> None:
    Path("short.py").write_text(SHORT)
    command = [sys.executable, "-m", "pai_bench", "run", "--criteria", "./short.py:Short", "--models", "lenet-300-100"]
    command += ["--sparsities", "0.9", "--seeds", "1", "--epochs", "0", "--device", "cpu", "--backend", backend]
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=listen) as run:
        assert run.stderr is not None
        while "once more in 30 s" not in run.stderr.readline():
            assert run.poll() is None
        start = time.monotonic()
        os.killpg(run.pid, signal.SIGINT)
        assert run.wait(timeout=60) == 130
        assert time.monotonic() - start < 25  # before the pause would have ended
