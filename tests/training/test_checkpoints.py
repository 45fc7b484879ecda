"""A training that resumes from any of its states ends bit for bit as one that was never interrupted."""

import copy
import dataclasses
import os
import random
import signal
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pai_bench as pb
from pai_bench.support.randomness import generator_states, random_state, restore_generators
from pai_bench.training.batches import Order
from pai_bench.training.checkpoints import Saver, StateError, TrainingState
from pai_bench.training.events import Event, Pause
from pai_bench.training.loop import History
from pai_bench.training.protocol import Protocol
from pai_bench.training.trainer import Engine, train_together
from tests.training.test_branches import PROTOCOL, images

ALL = dataclasses.replace(PROTOCOL, epochs=3, augmentation="flip-crop", momentum=0.9, clip_norm=1.0)


def network(seed: int, dropout: float = 0.0) -> nn.Module:
    with random_state(seed):
        layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(4 * 36, 3))


def half_mask(model: nn.Module, seed: int) -> pb.Mask:
    generator = torch.Generator().manual_seed(seed)
    weights = {name: model.get_parameter(name) for name in ("0.weight", "5.weight")}
    return pb.Mask({name: torch.rand(weight.shape, generator=generator) > 0.5 for name, weight in weights.items()})


def states_of(saved: list[TrainingState]) -> Saver:
    """A saver that keeps a copy of the state after each step."""

    def save(state: TrainingState) -> None:
        tensors = {name: tensor.clone() for name, tensor in state.tensors.items()}
        saved.append(TrainingState(tensors, copy.deepcopy(dict(state.values))))

    saver = Saver(save, every=0)
    saver.is_due = lambda: True  # type: ignore[method-assign]
    return saver


def trained(
    models: Sequence[nn.Module],
    saver: Saver | None,
    protocol: Protocol = ALL,
    events: Sequence[Event] = (),
    **options: Any,
) -> tuple[list[History], list[dict[str, Tensor]]]:
    """The histories without their seconds, and all weights and buffers."""
    orders = [Order(10 + i) for i in range(len(models))]
    masks = [half_mask(model, i) for i, model in enumerate(models)]
    with random_state(0):
        histories = train_together(
            models, images(), protocol, masks=masks, orders=orders, saver=saver, events=events, engine=Engine(**options)
        )
    return [dataclasses.replace(history, seconds=0.0, event_seconds=0.0) for history in histories], [
        m.state_dict() for m in models
    ]


def same(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> bool:
    return all(torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("count", "together", "dropout"), [(1, "stacked", 0.5), (3, "stacked", 0.0), (2, "branches", 0.0)]
)
def test_it_ends_as_if_nothing_had_been(count: int, together: Any, dropout: float, optimizer: Any) -> None:
    protocol = dataclasses.replace(ALL, optimizer=optimizer)

    def fresh() -> list[nn.Module]:
        return [network(i, dropout) for i in range(count)]

    expected = trained(fresh(), None, protocol, together=together)
    saved = list[TrainingState]()
    watched = trained(fresh(), states_of(saved), protocol, together=together)
    assert watched[0] == expected[0]
    assert same(watched[1], expected[1])
    steps = protocol.steps(len(images().train.targets))
    assert [state.values["step"] for state in saved] == list(range(1, steps + 1))
    for state in saved:  # the first of an epoch, those in its midst, its last, and the last of all
        resumed = trained(fresh(), Saver(lambda _state: None, every=1e9, state=state), protocol, together=together)
        assert resumed[0] == expected[0]
        assert same(resumed[1], expected[1])


@pytest.mark.parametrize("count", [1, 2])
def test_masks_of_events_are_those_of_the_state(count: int) -> None:
    """Two events replace them: what resumes between them has the masks of the first, and runs the second alone."""
    calls = list[tuple[int, bool]]()

    def cut(pause: Pause) -> None:
        calls.append(
            (pause.step, pause.step == 2 or all(not mask["5.weight"][0].any() for mask in pause.masks if mask))
        )
        rows = {2: 1, 5: 2}[pause.step]
        new = [{name: keep.clone() for name, keep in (mask or {}).items()} for mask in pause.masks]
        for mask in new:
            mask["5.weight"][:rows] = False
        pause.replace(new)

    events = [Event(2, cut), Event(5, cut)]
    saved = list[TrainingState]()
    expected = trained([network(i) for i in range(count)], states_of(saved), events=events)
    assert calls == [(2, True), (5, True)]
    assert all(not state["5.weight"][:2].any() for state in expected[1])
    calls.clear()
    resumed = trained([network(i) for i in range(count)], Saver(print, every=1e9, state=saved[3]), events=events)
    assert calls == [(5, True)]
    assert resumed[0] == expected[0]
    assert same(resumed[1], expected[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_answered_after_the_step_with_a_state(number: int) -> None:
    saved = list[TrainingState]()
    saver = states_of(saved)
    saver.is_due = lambda: False  # type: ignore[method-assign]
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def interrupt(_pause: Pause) -> None:
        os.kill(os.getpid(), number)

    try:
        with pytest.raises(KeyboardInterrupt):
            trained([network(0)], saver, events=[Event(4, interrupt)])
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert [state.values["step"] for state in saved] == [4]


def test_a_handler_that_only_counts_does_not_end_a_training() -> None:
    """The state is saved, and training goes on; a handler of SIGALRM is none of ours, and is called at once."""
    saved, calls, expected = list[TrainingState](), list[int](), trained([network(0)], None)
    saver = states_of(saved)
    saver.is_due = lambda: False  # type: ignore[method-assign]
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}

    def interrupt(pause: Pause) -> None:
        os.kill(os.getpid(), signal.SIGTERM if pause.step == 4 else signal.SIGALRM)
        calls.append(0)

    try:
        for number in before:
            signal.signal(number, lambda number, _frame: calls.append(number))
        resumed = trained([network(0)], saver, events=[Event(3, interrupt), Event(4, interrupt)])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert calls == [signal.SIGALRM, 0, 0, signal.SIGTERM]
    assert [state.values["step"] for state in saved] == [4]
    assert same(resumed[1], expected[1])


def test_an_interrupt_in_a_test_is_answered_with_the_state_before_it() -> None:
    saved = list[TrainingState]()
    saver, expected = states_of(saved), trained([network(0)], None)
    saver.is_due = lambda: False  # type: ignore[method-assign]
    model, per_epoch = network(0), len(images().train.targets) // ALL.batch_size
    tests = list[int]()

    def interrupt(module: nn.Module, _inputs: Any, _output: Any) -> None:
        if module is model[5] and not module.training and not tests:  # type: ignore[index]
            tests.append(1)
            os.kill(os.getpid(), signal.SIGINT)

    handle = model[5].register_forward_hook(interrupt)  # type: ignore[index]
    with pytest.raises(KeyboardInterrupt):
        trained([model], saver)
    handle.remove()
    assert [state.values["step"] for state in saved] == [per_epoch]
    assert saved[0].values["curves"] == [[]]
    resumed = trained([network(0)], Saver(print, every=1e9, state=saved[0]))
    assert resumed[0] == expected[0]
    assert same(resumed[1], expected[1])


class Counts(nn.Linear):
    """Counts its calls in an attribute: a number, a tensor that is replaced, or one that is changed in place."""

    def __init__(self, count: Any, *, in_place: bool = False) -> None:
        super().__init__(144, 3)
        self.count, self.in_place = count, in_place

    def forward(self, input: Tensor) -> Tensor:
        if self.in_place:
            self.count.add_(1)
        else:
            self.count = self.count + 1
        output: Tensor = super().forward(input) / self.count
        return output


class Hides(nn.Linear):
    """Has a tensor in a list, or modules that it does not register, which each call changes."""

    def __init__(self, *hidden: Any) -> None:
        super().__init__(144, 3)
        self.hidden = list(hidden)

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = super().forward(input)
        for one in self.hidden:
            output = one(output) if callable(one) else output / one.add_(1)
        return output


class Ramp:
    """A function with a counter."""

    calls = 0

    def __call__(self, input: Tensor) -> Tensor:
        self.calls += 1
        return input * self.calls


@pytest.mark.parametrize(
    "counts",
    [
        lambda: Counts(0),
        lambda: Counts(torch.zeros(())),
        lambda: Counts(torch.zeros(()), in_place=True),
        lambda: Hides(torch.zeros(())),
        lambda: Hides(nn.BatchNorm1d(3)),
        lambda: Hides(Ramp()),
    ],
    ids=["number", "tensor", "in place", "in a list", "not registered", "callable"],
)
def test_networks_with_a_state_of_their_own_are_not_saved(counts: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Interrupts end them all the same."""

    def fresh() -> nn.Module:
        with random_state(0):
            return nn.Sequential(*network(0)[:5], counts())  # type: ignore[index]

    saved = list[TrainingState]()
    expected, watched = trained([fresh()], None), trained([fresh()], states_of(saved))
    assert (saved, watched[0]) == ([], expected[0])
    assert caplog.messages == ["Sequential keeps a state of its own: it has no checkpoints"]
    steps = list[int]()

    def interrupt(pause: Pause) -> None:
        steps.append(pause.step)
        if pause.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    events = [Event(number, interrupt) for number in (3, 4, 5)]
    with pytest.raises(KeyboardInterrupt):
        trained([fresh()], states_of(saved), events=events)
    assert (steps, saved) == ([3, 4], [])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"momentum": 0.0}, "another optimizer: momentum.0"),
        ({"epochs": 4}, "after step 4 of 12, and this training has 16"),
        ({"optimizer": "adam"}, "another optimizer: average.0"),
    ],
)
def test_a_state_of_another_training_is_refused(change: Any, error: str) -> None:
    saved = list[TrainingState]()
    trained([network(0)], states_of(saved))
    model = network(0)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(StateError, match=error):
        trained([model], Saver(print, every=1e9, state=saved[3]), dataclasses.replace(ALL, **change))
    half_mask(model, 0).apply_(model)
    assert same([model.state_dict()], [{n: t * (model.state_dict()[n] != 0) for n, t in before.items()}])


def test_what_takes_long_to_save_is_saved_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds are one hundredth of 200; a single slow one, as the first may be, does not count."""
    now = [0.0]
    monkeypatch.setattr("pai_bench.training.checkpoints.time.monotonic", lambda: now[0])
    took = iter([2.0, 2.0, 40.0, 3.0, 3.0])

    def save(_state: TrainingState) -> None:
        now[0] += next(took)

    saver = Saver(save, every=60)
    for pause in (60, 60, 200, 200, 300):
        now[0] += pause - 0.1
        assert not saver.is_due()
        now[0] += 0.2
        assert saver.is_due()
        saver.save(TrainingState({}, {}))


def test_seconds_are_those_of_training_alone_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes one second, a test, an event and saving take many."""
    clock, saved, steps = [50.0], list[TrainingState](), ALL.steps(len(images().train.targets))
    monkeypatch.setattr("pai_bench.training.loop.time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def wait(seconds: float) -> None:
        clock[0] += seconds

    def run(saver: Saver) -> float:
        model = network(0)
        model.register_forward_pre_hook(lambda module, _inputs: wait(1 if module.training else 100))
        events = [Event(2, lambda _pause: wait(1000))]
        (history,) = train_together([model], images(), ALL, masks=[None], orders=[Order(0)], saver=saver, events=events)
        return history.seconds

    watched = states_of(saved)
    keep = watched.save

    def save(state: TrainingState) -> None:
        keep(state)
        wait(10)

    watched.save = save  # type: ignore[method-assign]
    assert run(watched) == steps
    assert [state.values["seconds"] for state in saved] == list(range(1, steps + 1))
    for state in saved:
        assert run(Saver(print, every=1e9, state=state)) == steps


def test_states_of_generators() -> None:
    cpu = torch.device("cpu")
    random.gauss(0, 1)
    np.random.normal()
    states = generator_states(cpu)
    draws = [(random.random(), random.gauss(0, 1), np.random.normal(), float(torch.rand(()))) for _ in range(2)]
    restore_generators(states, cpu)
    assert draws == [(random.random(), random.gauss(0, 1), np.random.normal(), float(torch.rand(()))) for _ in range(2)]
