"""Interrupted sweeps resume from their checkpoints, and end as if nothing had interrupted them."""

import itertools
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

import pai_bench as pb
from pai_bench.execution import run_catalog
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.trial import Trial
from pai_bench.results import Record, Store
from pai_bench.results.checkpoints import CheckpointFolder
from tests.execution.interrupts import Interrupts, Notes, outcome
from tests.experiment.test_runner import Count, Fails, sweep

STRUCTURED: dict[str, Any] = {"criteria": ["snap", "cnip"], "models": ["lenet-300-100"], "data": ["digits"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"lanes": 1},
        {"lanes": 4, "criteria": ["snip", "random", Fails()], "sparsities": [0.5, 0.99]},
        {"lanes": 1, "protocol": "quick", "sparsities": [0.8], "seeds": 1, **STRUCTURED},
        {"lanes": 1, "variants": ["reinit"], "init": "vs-x"},
    ],
    ids=["alone", "stacked", "structured", "variant"],
)
def test_an_interrupted_sweep_resumes_what_it_was_training(changes: dict[str, Any]) -> None:
    """Again and again, wherever it is interrupted: each trial ends as in a sweep that was never interrupted."""
    whole = Count()
    run_catalog(resolve(sweep(**changes)), "whole", listener=whole)
    ran, resumed, epochs = list[str](), 0, itertools.cycle((2, 3, 5, 4, 2, 1))
    while True:
        listener = Interrupts(next(epochs))
        try:
            run_catalog(resolve(sweep(**changes)), "r", listener=listener)
        except KeyboardInterrupt:
            checkpoints = list(CheckpointFolder(Path("r")))
            resumed += len(checkpoints)
            assert all(0 < checkpoint.step <= checkpoint.steps for checkpoint in checkpoints)
            assert not any(Path(f"r/trials/{name}.json").exists() for one in checkpoints for name in one.trials)
            ran += listener.ran
        else:
            break
    assert sorted(ran + listener.ran) == sorted(whole.ran)
    assert resumed >= 2
    assert outcome("r") == outcome("whole")
    assert list(Path("r/checkpoints").iterdir()) == list(Path("r/claims").iterdir()) == []


def test_a_stack_of_which_some_are_stored_resumes_whole() -> None:
    """As if killed while it stored the first: the others end as beside it, and the first one's record stays."""
    run_catalog(resolve(sweep(lanes=3)), "whole")
    with pytest.raises(KeyboardInterrupt):
        run_catalog(resolve(sweep(lanes=3)), "r", listener=Interrupts(3))
    (checkpoint,) = CheckpointFolder(Path("r"))
    assert len(checkpoint.trials) == 3
    stored = Path(shutil.copy(f"whole/trials/{checkpoint.trials[1]}.json", "r/trials"))
    before, listener = stored.stat().st_mtime_ns, Count()
    run_catalog(resolve(sweep(lanes=3)), "r", listener=listener)
    assert checkpoint.trials[1] not in listener.ran
    assert stored.stat().st_mtime_ns == before
    assert outcome("r") == outcome("whole")
    assert {record.provenance.lanes for record in Store("r")} == {3}


def test_without_checkpoints_a_trial_begins_again() -> None:
    keys: dict[str, Any] = {"lanes": 1, "checkpoint_every": "never"}
    with pytest.raises(KeyboardInterrupt):
        run_catalog(resolve(sweep(**keys)), "r", listener=Interrupts(2))
    assert not Path("r/checkpoints").exists()
    run_catalog(resolve(sweep(**keys)), "r")
    run_catalog(resolve(sweep(**keys)), "whole")
    assert outcome("r") == outcome("whole")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: content[:-1], "is damaged (its content is not that of its checksum)"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "is damaged (its content is not that of its check"),
        (lambda content: content.replace(b'"step\\": ', b'"step\\":1'), "is damaged (its content is not that of its"),
        (lambda _content: b"", "is damaged ("),
        (lambda _content: b"\xff" * 100, "is damaged ("),
        (lambda _content: (2).to_bytes(8, "little") + b"[]", "is damaged ("),
    ],
)
def test_a_damaged_checkpoint_is_set_aside(damage: Any, said: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_catalog(resolve(sweep(lanes=1)), "r", listener=Interrupts(2))
    (checkpoint,) = CheckpointFolder(Path("r"))
    checkpoint.path.write_bytes(damage(checkpoint.path.read_bytes()))
    caplog.clear()
    run_catalog(resolve(sweep(lanes=1)), "r")
    (message,) = (one for one in caplog.messages if "checkpoint" in one)
    assert message.startswith(f"checkpoint {checkpoint.path} {said}")
    assert message.endswith(f"set aside as {checkpoint.path.stem}.damaged, its trials begin again")
    run_catalog(resolve(sweep(lanes=1)), "whole")
    assert outcome("r") == outcome("whole")


def test_a_checkpoint_of_another_version_is_set_aside(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_catalog(resolve(sweep(lanes=1)), "r", listener=Interrupts(2))
    monkeypatch.setattr("pai_bench.experiment.checkpoints.FORMAT", 2)
    run_catalog(resolve(sweep(lanes=1)), "r")
    (message,) = (one for one in caplog.messages if "checkpoint" in one)
    assert "is of another format: 1, here 2: set aside as " in message
    assert len(list(Path("r/checkpoints").glob("*.damaged"))) == 1


def test_a_checkpoint_of_fewer_trials_waits_for_a_sweep_that_has_all() -> None:
    """A sweep that has not all of its trials begins its own again, and leaves the file."""
    with pytest.raises(KeyboardInterrupt):
        run_catalog(resolve(sweep(lanes=3)), "r", listener=Interrupts(3))
    (checkpoint,) = CheckpointFolder(Path("r"))
    listener = Count()
    run_catalog(resolve(sweep(lanes=3, criteria=["random"], seeds=1)), "r", listener=listener)
    assert set(listener.ran) & set(checkpoint.trials)
    assert len(list(Store("r"))) == 2


def test_a_checkpoint_of_a_trial_that_is_run_again_is_resumed() -> None:
    """Its old record is still there, until the new one takes its place."""
    keys: dict[str, Any] = {"criteria": ["er"], "sparsities": [0.999], "seeds": 1, "lanes": 1}
    pb.run(sweep(**keys), out="r")
    (name,) = (record.identity for record in Store("r") if record.status == "disconnected")
    with pytest.raises(KeyboardInterrupt):
        run_catalog(resolve(sweep(**keys, train_disconnected=True)), "r", listener=Interrupts(1))
    (checkpoint,) = CheckpointFolder(Path("r"))
    assert checkpoint.trials == (name,)
    pb.run(sweep(criteria=["random"], seeds=1), out="r")
    assert [one.trials for one in CheckpointFolder(Path("r"))] == [(name,)]
    listener = Notes()
    run_catalog(resolve(sweep(**keys, train_disconnected=True)), "r", listener=listener)
    assert listener.ran == [name]
    assert {record.status for record in Store("r")} == {"done"}
    assert list(Path("r/checkpoints").iterdir()) == []


def test_an_interrupt_while_results_are_stored_loses_none() -> None:
    class Late(Notes):
        def on_finish(self, trial: Trial, record: Record, seconds: float) -> None:
            if not self.ran:
                os.kill(os.getpid(), signal.SIGINT)
            super().on_finish(trial, record, seconds)

    listener = Late()
    with pytest.raises(KeyboardInterrupt):
        run_catalog(resolve(sweep(lanes=6)), "r", listener=listener)
    assert len(listener.ran) == len(list(Store("r"))) == 6


def test_an_interrupt_after_the_last_epoch_loses_nothing() -> None:
    with pytest.raises(KeyboardInterrupt):
        run_catalog(resolve(sweep(lanes=6)), "r", listener=Interrupts(18))  # three epochs of six trials
    (checkpoint,) = CheckpointFolder(Path("r"))
    assert checkpoint.step == checkpoint.steps
    run_catalog(resolve(sweep(lanes=6)), "r")
    run_catalog(resolve(sweep(lanes=6)), "whole")
    assert outcome("r") == outcome("whole")


def test_what_cannot_be_saved_is_trained_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_arguments: Any) -> bytes:
        raise KeyError("a dtype that safetensors does not have")

    monkeypatch.setattr("pai_bench.experiment.runner.encode", fails)
    records = run_catalog(resolve(sweep(lanes=1, seeds=1, checkpoint_every="0.0001s")), "r")
    assert {record.status for record in records} == {"done"}
    told = [text for text in caplog.messages if "cannot be saved" in text]
    assert len(told) == len(records)
    assert told[0].startswith(f"trial {records[0].identity} cannot be saved (KeyError: ")
