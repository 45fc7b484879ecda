"""What a worker process does with the messages that it is sent, here in this process."""

import dataclasses
import faulthandler
import logging
import pickle
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import pai_bench as pb
from pai_bench.execution import worker
from pai_bench.execution.execution_plan import ExecutionPlan, kind_of
from pai_bench.execution.worker import SharedConnection, serve
from pai_bench.experiment.resolve import Inspection, resolve
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.sweep import Execution
from pai_bench.experiment.trial import Trial
from pai_bench.support import environment, memory
from pai_bench.support.logs import Sender
from pai_bench.support.registry import INITIALISATIONS
from pai_bench.training.trainer import Engine
from tests.execution.sweeps import named


class Parent:
    """The other end of a connection: what it sends, and what it is sent; then it is gone."""

    def __init__(self, messages: Sequence[Any]) -> None:
        self.messages, self.heard = list(messages), list[tuple[str, Any]]()

    def recv(self) -> Any:
        """The next message."""
        if not self.messages:
            raise EOFError
        return self.messages.pop(0)

    recv_bytes = recv

    def send(self, message: tuple[str, Any]) -> None:
        """Hear a message."""
        self.heard.append(message)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Afterwards, this process is as it was before, whatever is set for a worker."""
    threads = torch.get_num_threads()
    notes: list[Any] = []
    note: Any = lambda *given, **named: notes.append((*given, *named.items()))  # noqa: E731
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: note("memory"))
    monkeypatch.setattr(environment, "ignore_harmless_warnings", lambda: note("warnings"))
    monkeypatch.setattr(faulthandler, "enable", note)
    monkeypatch.setattr(logging, "basicConfig", note)
    monkeypatch.setattr("sys.argv", ["worker", "0", "77"])
    yield notes
    torch.set_num_threads(threads)


def served(*messages: Any, execution: Any = None, ended: bool = True) -> list[tuple[str, Any]]:
    """What a worker answers."""
    execution = Execution(device="cpu") if execution is None else execution
    parent = Parent([pickle.dumps((30, execution, {})), *messages])
    with suppress(EOFError):
        serve(SharedConnection(parent))  # type: ignore[arg-type]
    assert bool(parent.messages) != ended
    return parent.heard


def trials(**changes: Any) -> list[Trial]:
    return resolve(named(seeds=1, protocol="quick", **changes)).trials


@pytest.mark.usefixtures("begun")
def test_trials_are_run_as_planned() -> None:
    every = trials()
    plan = ExecutionPlan(workers=3, threads=1, engine_of={kind_of(every[0]): Engine(together="branches")})
    runs = [("run", pickle.dumps(part)) for part in (every[:1], every[1:])]
    messages = served(("plan", (plan, Runner, {"command": "a command"})), *runs)
    one, rest = len(every[:1]), len(every[1:])
    assert [message for message, _ in messages] == [
        *("ready", *["epoch"] * 2 * one, "records"),
        *(*["epoch"] * 2 * rest, "records"),
    ]
    epochs = [content for message, content in messages if message == "epoch"]
    assert epochs == [(0, 0), (0, 1), *((i, epoch) for epoch in (0, 1) for i in range(rest))]
    parts = [content for message, content in messages if message == "records"]
    assert [indices for indices, _ in parts] == [[0], list(range(rest))]
    records = [record for _, records in parts for record in records]
    assert [record.status for record in records] == ["done"] * len(every)
    assert [record.identity for record in records] == [trial.identity for trial in every]
    for record in records:
        assert (record.provenance.workers, record.provenance.command) == (3, "a command")
        assert record.environment.threads == 1


@pytest.mark.usefixtures("begun")
def test_a_trial_that_another_process_has_taken_over_ends() -> None:
    first, second, *_ = trials(epochs=2)
    claims = iter([{first.identity, second.identity}, {first.identity}, set[str](), {second.identity}])
    checkpoints = SimpleNamespace(claimed=lambda _trials: next(claims, {second.identity}), read=lambda _trials: None)
    runs = [("run", pickle.dumps([trial])) for trial in (first, second)]
    messages = served(("plan", (ExecutionPlan(), Runner, {"command": "a command", "checkpoints": checkpoints})), *runs)
    kinds = [message for message, _ in messages if message != "log"]
    assert kinds == ["ready", "epoch", "taken over", *["epoch"] * 3, "records"]


@pytest.mark.usefixtures("begun")
def test_what_does_not_fit_is_told_and_the_worker_goes_on() -> None:
    (_, trial, *_) = trials(init="rn")
    gone = dataclasses.replace(trial, model=dataclasses.replace(trial.model, reference="gone"))
    messages = served(
        ("run", b"nothing that was pickled"),
        ("run", pickle.dumps([dataclasses.replace(trial, data=dataclasses.replace(trial.data, checksum="0"))])),
        ("run", pickle.dumps([dataclasses.replace(trial, init="of-mine")])),
        ("run", pickle.dumps([gone])),
        ("query", pickle.dumps(("sizes", (trial,)))),
    )
    assert [message for message, _ in messages] == [*["unfit"] * 4, "result"]
    texts = [content for _, content in messages]
    assert texts[3].startswith("UserError: unknown model 'gone'")
    assert texts[0].startswith("UnpicklingError: ")
    assert texts[1].startswith("UserError: a function of yours makes other data in each process")
    assert texts[2] == "UserError: initialisation 'of-mine' is not registered in other processes"


@pytest.mark.usefixtures("begun")
def test_a_trial_that_is_another_one_here_is_told() -> None:
    class Other(Trial):
        """What a file of a user makes of it in each process."""

        @property
        def identity(self) -> str:
            """Another one in a copy."""
            return f"{id(self)}"

    (_, trial, *_) = trials()
    other = Other(**{field.name: getattr(trial, field.name) for field in dataclasses.fields(trial)})
    runner: Any = type("Of", (), {"inputs": type("In", (), {"loaded": staticmethod(lambda _: None)})})
    with pytest.raises(pb.UserError, match=f"trial {other.identity} is another one in other processes, "):
        worker.check_trial(runner, other)
    worker.check_trial(runner, trial)
    with pytest.raises(pb.UserError, match="is not registered in other processes"):
        worker.check_trial(runner, dataclasses.replace(trial, init="of-mine"))
    for init in ("own", *INITIALISATIONS):
        worker.check_trial(runner, dataclasses.replace(trial, init=init))


@pytest.mark.usefixtures("begun")
def test_questions_are_answered_or_the_reason_told() -> None:
    sweep = named(seeds=1)
    trial = resolve(sweep).trials[1]
    messages = served(
        ("query", pickle.dumps(("obstacle", (trial, "stacked")))),
        ("query", pickle.dumps(("sizes", (trial, 1, 2, 3, 4)))),
        ("query", pickle.dumps(("inspect", (sweep, trial.data, trial.model)))),
        ("query", pickle.dumps(("inspect", (dataclasses.replace(sweep, prunable="of-mine"), trial.data, trial.model)))),
    )
    assert [message for message, _ in messages] == [
        *("result", "error"),
        *("partial", "partial", "result"),
        *("partial", "partial", "error"),
    ]
    assert messages[0][1] is None
    assert "takes" in messages[1][1]
    assert [content for _, content in messages[2:5]] == [Inspection(), Inspection(), Inspection(connections=266_200)]
    assert messages[7][1].startswith("UserError: unknown prunable parameter of Sequential 'of-mine'")


@pytest.mark.usefixtures("begun")
@pytest.mark.parametrize("execution", [Execution(device="cuda:999"), "no execution"])
def test_a_worker_that_cannot_begin_says_why(execution: Any) -> None:
    ((message, content),) = served(("run", b""), execution=execution, ended=False)
    assert message == "unfit"
    assert "device" in content


def test_a_worker_gives_signs_of_life_until_its_parent_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    parent, pause, pauses = Parent([]), time.sleep, list[float]()
    before, beating = threading.enumerate(), list[threading.Thread]()
    monkeypatch.setattr(worker, "HEARTBEAT", 0.001)

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        pause(seconds)

    monkeypatch.setattr(worker, "time", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(worker, "connection_to_parent", lambda: parent)

    def served(connection: SharedConnection) -> None:
        end = time.monotonic() + 10
        while len(parent.heard) < 3 and time.monotonic() < end:
            pause(0.001)
        beating.extend(thread for thread in threading.enumerate() if thread not in before)
        parent.send = gone  # type: ignore[method-assign]
        raise EOFError

    def gone(message: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(worker, "serve", served)
    worker.main()
    assert parent.heard[:3] == [("alive", None)] * 3
    assert set(pauses) == {0.001}
    assert [thread.daemon for thread in beating] == [True]  # it does not keep the process alive


def test_a_worker_is_made_ready_to_train_and_to_tell_how_it_crashes(begun: list[Any]) -> None:
    assert served() == []
    assert (77, ("all_threads", False)) in begun  # the file in which this process looks for a crash
    assert {("memory",), ("warnings",)} <= {*begun}
    assert begun[-1][:2] == (("level", logging.WARNING), ("format", "%(message)s"))
    assert isinstance(begun[-1][2][1][0], Sender)  # to the parent
