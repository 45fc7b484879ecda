"""What the driver of a Ray cluster does with messages of tasks; the cluster is a fake."""

import itertools
import os
import pickle
import signal
from collections.abc import Iterable
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from pai_bench.execution import Callbacks, ExecutionPlan, RayCluster
from pai_bench.execution.ray_backend import Task
from pai_bench.execution.ray_task import SentCheckpoints
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.takeover import ClaimedTrials
from tests.execution.sweeps import named

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")


class FakeCluster:
    """The queue of a cluster, its tasks, which are named by numbers, and the checkpoints of the driver."""

    def __init__(self, empty: type[Exception]) -> None:
        self.empty = empty
        self.messages, self.ended, self.cancelled = list[bytes](), set[Any](), list[tuple[Any, bool]]()
        self.written, self.taken_over = list[tuple[Any, bytes]](), set[str]()
        self.removed, self.set_aside_for = list[Any](), list[tuple[Any, str]]()

    def send(self, number: int, message_type: str, content: Any) -> None:
        self.messages.append(pickle.dumps((number, message_type, content)))

    def get(self, timeout: float) -> bytes:
        if not self.messages:
            raise self.empty
        return self.messages.pop(0)

    def qsize(self) -> int:
        return len(self.messages)

    def get_nowait_batch(self, number: int) -> list[bytes]:
        taken, self.messages = self.messages[:number], self.messages[number:]
        return taken

    def wait(self, references: list[Any], **_options: Any) -> tuple[list[Any], list[Any]]:
        return [one for one in references if one in self.ended], []

    def cancel(self, reference: Any, *, force: bool, recursive: bool) -> None:
        """It sends a last checkpoint, and ends."""
        self.cancelled.append((reference, force))
        self.send(reference, "checkpoint", ((reference,), b"last"))
        self.ended.add(reference)

    def write(self, trials: Any, content: bytes) -> None:
        self.written.append((trials, content))

    def remove(self, trials: Any) -> None:
        self.removed.append(trials)

    def set_aside(self, trials: Any, why: str) -> None:
        self.set_aside_for.append((trials, why))

    def claimed(self, trials: Iterable[str]) -> frozenset[str]:
        return frozenset(trials) - self.taken_over

    def holds(self, _trials: Any) -> bool:
        return False


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    from ray.util.queue import Empty

    fake = FakeCluster(Empty)
    monkeypatch.setattr("pai_bench.execution.ray_cluster.present_nodes", lambda: [{"CPU": 1}])
    monkeypatch.setattr("ray.wait", fake.wait)
    monkeypatch.setattr("ray.cancel", fake.cancel)
    return fake


def driver(cluster: FakeCluster, tasks: int = 1) -> tuple[RayCluster, Callbacks, list[Any]]:
    """A driver that has given so many tasks of one trial to a cluster, callbacks, and what these note."""
    runner: Any = Runner(resolve(named(epochs=0)))
    runner.checkpoints, notes = cluster, list[Any]()
    backend = RayCluster(runner, ExecutionPlan(), None, [{"CPU": 1}])
    backend._queue = cluster  # type: ignore[assignment]
    backend._callbacks = callbacks = Callbacks(
        list,
        lambda trial, epoch: notes.append((trial.identity, epoch)),
        lambda cell, records, _seconds: notes.append((cell[0].identity, *records)),
    )
    for number, trial in enumerate(runner.catalog.trials[:tasks]):
        submit(backend, cluster, number, trial)
    return backend, callbacks, notes


def submit(backend: RayCluster, cluster: FakeCluster, number: int, trial: Any) -> None:
    """Give a task to a cluster."""
    reference: Any = number
    backend._tasks[number] = Task([trial], reference, ClaimedTrials(cluster, [trial.identity]))  # type: ignore[arg-type]


def test_files_of_checkpoints_are_those_of_the_driver(cluster: FakeCluster) -> None:
    backend, callbacks, _ = driver(cluster)
    send: Any = lambda message_type, content: backend._handle((0, message_type, content), callbacks)  # noqa: E731
    checkpoints = SentCheckpoints(SimpleNamespace(send=send), ["a", "b"], None)  # type: ignore[arg-type]
    checkpoints.write(["a", "b"], b"content")
    checkpoints.remove(["a", "b"])
    checkpoints.set_aside(["c"], "is damaged")
    assert (cluster.written, cluster.removed, cluster.set_aside_for) == (
        [(("a", "b"), b"content")],
        [("a", "b")],
        [(("c",), "is damaged")],
    )


@pytest.mark.parametrize(
    ("message_type", "content"), [("epoch", (0, 2)), ("checkpoint", None)], ids=["epoch", "checkpoint"]
)
def test_a_task_of_which_another_process_has_taken_over_a_trial_ends(
    message_type: str, content: Any, cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is written, and later messages are dropped."""
    backend, callbacks, notes = driver(cluster)
    name = backend._tasks[0].cell[0].identity
    backend._handle((0, "epoch", (0, 1)), callbacks)
    backend._handle((0, "checkpoint", ((name,), b"old")), callbacks)
    cluster.taken_over.add(name)
    backend._handle((0, message_type, content or ((name,), b"new")), callbacks)
    backend._handle((0, "records", ([0], ["a record"], 1.0)), callbacks)
    assert notes == [(name, 1)]
    assert cluster.written == [((name,), b"old")]
    assert cluster.cancelled == [(0, True)]
    assert backend._tasks == {}
    assert caplog.messages == [f"another process has taken over {name}: it is no longer trained here"]


def test_a_task_that_leaves_its_trials_is_no_failure(cluster: FakeCluster) -> None:
    backend, callbacks, notes = driver(cluster)
    backend._handle((0, "taken over", None), callbacks)
    assert backend._end(0, callbacks) == notes == []


def test_an_interrupt_loses_nothing_that_has_come(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what is handled, nor what waits, nor what tasks send at their end."""
    backend, callbacks, notes = driver(cluster, tasks=3)
    first, second, third = (task.cell[0].identity for task in backend._tasks.values())
    cluster.send(0, "records", ([0], ["of the first"], 1.0))
    cluster.send(1, "epoch", (0, 1))
    cluster.send(1, "checkpoint", ((second,), b"before"))
    cluster.send(2, "records", ([0], ["of the third"], 1.0))
    with monkeypatch.context() as patch:
        patch.setattr(backend._deaths, "on_finish", lambda _trial: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            backend.run([], callbacks)
    assert notes == [(first, "of the first")]
    backend._cancel()
    assert notes == [(first, "of the first"), (second, 1), (third, "of the third")]
    assert cluster.written == [((second,), b"before"), ((1,), b"last")]
    assert cluster.cancelled == [(1, False), (2, False)]


def test_tasks_that_do_not_end_are_ended(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, _, _ = driver(cluster)
    monkeypatch.setattr("pai_bench.execution.ray_backend.PATIENCE", 0.1)
    monkeypatch.setattr(
        "ray.cancel", lambda reference, *, force, recursive: cluster.cancelled.append((reference, force))
    )
    backend._cancel()
    assert cluster.cancelled == [(0, False), (0, True)]
    assert backend._tasks == {}


@pytest.mark.parametrize("finished", [False, True])
def test_messages_of_a_lost_task_are_none_of_its_successor(
    finished: bool, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node may have been out of reach only. What came before it was lost counts."""
    backend, callbacks, notes = driver(cluster)
    (cell, name), submitted = (backend._tasks[0].cell, backend._tasks[0].cell[0].identity), list[int]()
    backend._numbers = itertools.count(1)
    monkeypatch.setattr("pai_bench.execution.ray_cluster.how_ended", lambda _reference: ("a node was lost", False))

    def submit_again(number: int, again: Any) -> Task:
        assert again == cell
        submitted.append(number)
        for late in (("epoch", (0, 7)), ("checkpoint", ((name,), b"old")), ("records", ([0], ["old"], 1.0))):
            cluster.send(0, *late)
        cluster.send(number, "epoch", (0, 2))
        cluster.send(number, "records", ([0], ["new"], 1.0))
        return Task(again, number, ClaimedTrials(None, []))  # type: ignore[arg-type]

    monkeypatch.setattr(backend, "_submit", submit_again)
    cluster.send(0, "epoch", (0, 1))
    if finished:
        cluster.send(0, "records", ([0], ["old"], 1.0))
    cluster.ended.add(0)
    backend.run([], callbacks)
    assert notes == [(name, 1), (name, "old")] if finished else [(name, 1), (name, 2), (name, "new")]
    assert submitted == [] if finished else [1]
    assert cluster.written == []
