"""What is counted and timed of a training step, by clocks and devices that stand for the real ones."""

import dataclasses
import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pai_bench.execution import measure
from pai_bench.execution.measure import (
    evaluation_steps,
    measured_step,
    step_seconds,
    timed,
    training_step,
    training_steps,
)
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.training.batches import Batches, Order
from pai_bench.training.recorded import WARM_UP
from pai_bench.training.trainer import ENGINE, Engine
from tests.experiment.test_runner import sweep


@pytest.mark.parametrize("error", [None, ValueError("x")])
def test_threads_are_as_many_as_before_after_an_error_too(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen = torch.get_num_threads(), list[int]()

    def measured(*_arguments: Any) -> tuple[float, int]:
        seen.append(torch.get_num_threads())
        if error is not None:
            raise error
        return 1.0, 2

    monkeypatch.setattr(measure, "step_seconds", measured)
    runner = Runner(resolve(sweep(seeds=1)))
    for _ in range(2):
        with nullcontext() if error is None else pytest.raises(ValueError, match="x"):
            assert measured_step(runner, runner.catalog.trials[0], before + 1, 1, ENGINE) == (1.0, 2)
        assert torch.get_num_threads() == before
    assert seen == [before + 1] * (1 if error is None else 2)  # what was measured is kept


@pytest.mark.parametrize(("epochs", "passes"), [(0, 1), (1, 1), (3, 3)])
def test_steps_and_what_testing_costs(epochs: int, passes: int) -> None:
    """Of 240 examples in batches of 50; after each epoch, 60 are tested by a forward pass, a third of a step."""
    runner = Runner(resolve(sweep(seeds=1, epochs=epochs, batch_size=50)))
    trial = runner.catalog.trials[0]
    assert training_steps(trial, runner.inputs.whole(trial)) == epochs * 4
    assert evaluation_steps(trial, runner.inputs.whole(trial)) == pytest.approx(passes * 60 / 50 / 3)
    if not epochs:
        assert step_seconds(runner, trial, 1, ENGINE) == (0.0, 0)


class Event:
    """Stands for an event of CUDA; the host waits for it."""

    def __init__(self, notes: list[Any], number: int) -> None:
        self.notes, self.number = notes, number

    def record(self, _stream: object) -> None:
        self.notes.append(("queued", self.number))

    def synchronize(self) -> None:
        self.notes.append(("waited for", self.number))


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_steps_are_timed_by_the_clock_and_few_are_in_flight(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[Any] = []
    numbers, clock = itertools.count(), itertools.count()
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    monkeypatch.setattr(measure, "synchronise", lambda device: notes.append(device.type))
    monkeypatch.setattr(torch.cuda, "Event", lambda: Event(notes, next(numbers)))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)
    step: Any = lambda inputs, targets, rate: notes.append((inputs, targets, rate))  # noqa: E731
    batches: Any = iter(zip(range(10), range(10, 20), strict=True))
    # the clock is read before, before each step but the first, and after: 0, 1, 2, 3, 4 and 5
    assert timed(step, batches, 0.1, torch.device(kind), 4.0) == 5 / 4
    steps = [(i, 10 + i, 0.1) for i in range(4)]
    if kind == "cpu":
        assert notes == ["cpu", *steps, "cpu"]
        return
    queued, waited = ([(word, i) for i in range(4)] for word in ("queued", "waited for"))
    assert notes == [
        "cuda",
        *(steps[0], queued[0]),
        *(steps[1], queued[1]),
        *(steps[2], queued[2], waited[0]),
        *(steps[3], queued[3], waited[1]),
        "cuda",
    ]


def test_one_step_is_timed_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    step: Any = lambda *given: made.append(given)  # noqa: E731
    assert timed(step, iter([(1, 2)]), 0.1, torch.device("cpu"), 0.0) >= 0  # type: ignore[list-item]
    assert made == [(1, 2, 0.1)]


def test_a_training_step_changes_the_network_as_training_does() -> None:
    """By SGD without momentum and decay: w - rate g, of the same batch each time."""
    keys: dict[str, Any] = {"seeds": 1, "epochs": 1}
    runner = Runner(resolve(sweep(**keys)))
    trial = runner.catalog.trials[0]
    protocol = dataclasses.replace(trial.protocol, momentum=0.0, weight_decay=0.0, learning_rate=0.1)
    trial = dataclasses.replace(trial, protocol=protocol)
    batch = next(Batches(runner.inputs.data(trial), [Order(0)], protocol).endless())
    model, copy = runner.inputs.model(trial), runner.inputs.model(trial)
    step = training_step(runner, trial, model, ENGINE, batch)
    step()
    for _ in range(2):  # the first one has warmed up
        loss = torch.nn.functional.cross_entropy(copy(batch[0][0]), batch[1][0])
        gradients = torch.autograd.grad(loss, list(copy.parameters()))
        with torch.no_grad():
            for weight, gradient in zip(copy.parameters(), gradients, strict=True):
                weight.sub_(protocol.rate(0, 1) * gradient)
    for first, second in zip(model.parameters(), copy.parameters(), strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize(("together", "networks", "built"), [("stacked", 3, 1), ("branches", 3, 3), ("stacked", 1, 1)])
def test_what_is_timed_is_a_step_of_a_warm_program(
    together: Any, networks: int, built: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU it is recorded by then; its memory is that of the first step, and its time that of one network."""
    runner = Runner(resolve(sweep(seeds=1)))
    trial, data, made = runner.catalog.trials[0], runner.catalog.data["blobs"], list[Any]()
    notes, asked = list[Any](), list[int]()

    @contextmanager
    def first(device: torch.device, *, memory: bool) -> Iterator[Any]:
        notes.append(("begin", memory))
        yield SimpleNamespace(peak_bytes=123)
        notes.append("end")

    def model(_trial: object) -> nn.Module:
        made.append(network := nn.Linear(5, 3))
        return network

    def timed(_step: Any, _batches: Any, _rate: float, _device: torch.device, seconds: float) -> float:
        notes.append("timed")
        assert 0.05 <= seconds <= 0.5  # several are taken where a sweep begins
        return 6.0

    monkeypatch.setattr(measure, "measured", first)
    monkeypatch.setattr(measure, "timed", timed)
    monkeypatch.setattr(measure, "arithmetic", lambda _precision, _device: nullcontext())
    monkeypatch.setattr(measure, "step_for", lambda *_, **__: lambda *_batch: notes.append("step"))
    monkeypatch.setattr(Engine, "program", lambda _self, models, _masks, _example: asked.append(len(models)))
    runner.inputs.model = model  # type: ignore[method-assign,assignment]
    for kind, warm in (("cpu", 0), ("cuda", WARM_UP + 1)):
        notes.clear()
        made.clear()
        runner.inputs._resident[trial.data] = data
        runner.inputs.device = torch.device(kind)
        engine = Engine(together=together)
        assert step_seconds(runner, trial, networks, engine) == (6.0 / networks, 123)
        assert notes == [("begin", True), "step", "end", *["step"] * warm, "timed"]
        assert (asked.pop(), len(made)) == (networks, built)
