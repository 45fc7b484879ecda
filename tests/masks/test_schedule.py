"""Schedules, by the formulas and by hand."""

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import pai_bench as pb
from pai_bench.experiment.resolve import resolve
from pai_bench.masks import Exponential, Halving, Linear, OneShot, Schedule, get_schedule
from pai_bench.pruning.variant import Variant
from pai_bench.scoring import MaskedModel
from pai_bench.support.errors import UserError
from pai_bench.support.registry import SCHEDULES


def test_by_hand() -> None:
    assert OneShot().densities(0.02) == [0.02]
    assert Linear(steps=4).densities(0.2) == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert Exponential(steps=2).densities(0.01) == pytest.approx([0.1, 0.01])


def test_halving_cuts_seven_times() -> None:
    # s = 0.98: the distance 0.48 from 0.5 is halved six times from i = 0 on, then s itself
    sparsities = [1 - d for d in Halving(steps=5).densities(0.02)]
    assert sparsities == pytest.approx([0.5, 0.74, 0.86, 0.92, 0.95, 0.965, 0.98])


def test_halving_is_one_shot_up_to_a_half() -> None:
    assert Halving().densities(0.5) == [0.5]
    assert Halving().densities(0.7) == [0.7]


@given(st.sampled_from(sorted(SCHEDULES)), st.floats(1e-6, 1, exclude_min=True))
def test_densities_fall_to_the_target(name: str, density: float) -> None:
    densities = get_schedule(name).densities(density)
    assert densities[-1] == density
    assert all(a >= b for a, b in itertools.pairwise(densities))
    assert 0 < min(densities) <= max(densities) <= 1


@pytest.mark.parametrize("schedule", [OneShot(), Linear(steps=7), Exponential(steps=60, returns=True), Halving()])
def test_text_and_back(schedule: Schedule) -> None:
    assert get_schedule(str(schedule)) == schedule


def test_texts_hold_what_is_not_the_default() -> None:
    assert [str(get_schedule(name)) for name in sorted(SCHEDULES)] == [
        "exponential:steps=100",
        "halving:steps=5",
        "linear:steps=100",
        "one-shot",
    ]
    assert str(Linear(steps=1, returns=True)) == "linear:steps=1:returns=true"
    assert not any(get_schedule(name).returns for name in SCHEDULES)


def test_one_step_by_default() -> None:
    class Own(Schedule):
        name = "own"

        def densities(self, density: float) -> list[float]:
            return [density] * self.steps

    assert Own().densities(0.5) == [0.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exponentail", "did you mean exponential"),
        ("linear:steps=0", "steps=0"),
        ("linear:steps=x", "steps=x is not a whole number"),
        ("linear:step=3", "did you mean steps"),
        ("one-shot:steps=3", "single step"),
        ("linear:3", "OPTION=VALUE"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_schedule(text)


@dataclass(frozen=True)
class Counting(pb.Criterion):
    """Counts how often it is asked for a score."""

    calls: ClassVar[list[None]] = []
    uses_data: ClassVar[bool] = False

    def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
        self.calls.append(None)
        return model.weights()


@dataclass(frozen=True)
class OnTheClass(Counting):
    schedule = "linear:steps=3"  # type: ignore[assignment]  # a text


@dataclass(frozen=True)
class Annotated(Counting):
    schedule: ClassVar[Any] = "linear:steps=3"


@dataclass(frozen=True)
class AsAnOption(Counting):
    schedule: str = "linear:steps=3"  # type: ignore[misc, assignment]  # a field


@dataclass(frozen=True)
class Inherited(OnTheClass):
    pass


@pytest.mark.parametrize("cls", [OnTheClass, Annotated, AsAnOption, Inherited])
def test_a_schedule_of_a_class_may_be_a_text(cls: type[Counting]) -> None:
    model, batch = nn.Linear(8, 4), pb.Batch(torch.randn(6, 8), torch.arange(6) % 4)
    cls.calls.clear()
    pb.prune(model, batch, cls(), 0.5)
    assert len(cls.calls) == 3
    trial = resolve(pb.Sweep(criteria=[cls()], models=["lenet-300-100"], seeds=1)).trials[1]
    assert str(trial.schedule) == "linear:steps=3"
    assert str(Variant("quota", cls())) == f"quota:{cls.__name__}"
    assert cls is AsAnOption or isinstance(cls.schedule, Linear)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("linaer", "Wrong.schedule: unknown schedule 'linaer': did you mean linear"),
        (None, "not None"),
        (Linear, "not <"),
    ],
)
def test_a_schedule_that_is_none_is_named_with_its_class(schedule: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        type("Wrong", (Counting,), {"schedule": schedule})


def test_a_single_property_may_be_a_text() -> None:
    class Single(Counting):
        properties = "loss-scale"  # type: ignore[assignment]  # a text

    assert list(Single.properties) == ["loss-scale"]
