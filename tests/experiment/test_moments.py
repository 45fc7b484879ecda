"""When masks change: by the epochs and steps of a sweep's trainings, scaled by a budget; what does not fit is refused.

Training on 40 examples in batches of 8 or 10: an epoch has 5 or 4 steps.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.data import Split
from pai_bench.experiment.moments import moments, timeline
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.trial import Trial
from pai_bench.scoring import Batch, DuringTraining, MaskedModel, Moment, Scores, Timeline


def tiny(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0], 8), nn.ReLU(), nn.Linear(8, classes))


def points() -> pb.DataSet:
    inputs, targets = torch.rand(50, 5, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 3
    return pb.DataSet("points", Split(inputs[:40], targets[:40]), Split(inputs[40:], targets[40:]))


def trial(criterion: Any, **keys: Any) -> Trial:
    """The pruned trial of a sweep of one criterion."""
    usual: dict[str, Any] = {"sparsities": [0.9], "seeds": 1, "device": "cpu", "batch_size": 10, "score_batch": 9}
    chosen = {**usual, "epochs": 40, "protocol": "short", **keys}
    return resolve(pb.Sweep(criteria=[criterion], models=[tiny], data=[points()], **chosen)).trials[1]


def steps(criterion: Any, **keys: Any) -> list[int]:
    return moments(trial(criterion, **keys), 40)


@pytest.mark.parametrize(
    ("criterion", "keys", "expected"),
    [
        ("snip-it:when=during", {}, [4 * epoch for epoch in (8, 12, 16, 20, 24, 28, 32)]),  # the published defaults
        ("snap-it:when=during:delay=0:every=1", {}, [4, 8, 12, 16, 20, 24, 28]),
        ("cnip-it:when=during:delay=1:every=2", {"batch_size": 8}, [15, 25, 35, 45, 55, 65, 75]),
        ("snip-it:when=during", {"schedule": "linear:steps=3"}, [32, 48, 64]),
        ("snip-it:when=during", {"sparsities": [0.5]}, [32]),  # of which the halving schedule has one cut
        ("snip-it:when=during", {"budget": 0.25, "sparsities": [0.95]}, [8, 12, 16, 20, 24, 28, 32]),
        ("snip-it:when=during", {"budget": 0.1}, [round(0.4 * epoch) for epoch in (8, 12, 16, 20, 24, 28, 32)]),
        ("gmp", {"epochs": 3}, [2, 3, 4, 5, 6, 7, 8, 9]),  # of 12 steps, from 2.4 to 9
        ("gmp", {"epochs": 100}, [*range(80, 300, 4), 300]),
        ("gmp:every=10", {"epochs": 25, "budget": 0.2}, [4, 6, 8, 10, 12, 14, 15]),
        ("set:every=epoch", {"epochs": 3}, [4, 8]),
        ("rigl", {"epochs": 75}, [100, 200]),
        ("rigl", {"epochs": 75, "budget": 0.2}, [20, 40]),
        ("snip", {"prune_at": "7"}, [7]),
        ("snip", {"prune_at": "7", "budget": 0.5}, [4]),  # 3.5, rounded to the even number
        ("snip", {"prune_at": "1", "budget": 0.1}, [1]),
        ("snap", {"prune_at": "2.5%"}, [4]),
        ("snip", {"prune_at": "0.01%"}, [1]),
        ("snip", {"prune_at": "100%"}, [160]),
        ("snip", {}, []),
        ("snip-it", {}, []),
    ],
)
def test_times(criterion: str, keys: dict[str, Any], expected: list[int]) -> None:
    assert steps(criterion, **keys) == expected


def test_a_part_of_the_training_set_has_shorter_epochs() -> None:
    part = trial("snip-it:when=during:delay=0:every=1", train_fraction=0.5)
    assert moments(part, 20) == [2, 4, 6, 8, 10, 12, 14]


def test_the_timeline_of_a_trial() -> None:
    line = timeline(trial("snip-it", budget=0.5), 40)
    assert (line.steps, line.epoch, line.budget) == (80, 4, 0.5)
    assert line.densities == pytest.approx([1 - 0.9 + 0.4 * 0.5**i for i in range(6)] + [0.1])
    assert line.after(100) == 50
    assert line.after(0.1) == 1
    assert line.after_epochs(3) == 6


@pytest.mark.parametrize(
    ("criterion", "keys", "message"),
    [
        (
            "snip-it:when=during",
            {"epochs": 32},
            "snip-it:when=during: its 7 cuts end after 32 epochs, and training has 32: give a smaller delay and every, "
            "fewer steps of the schedule, or more epochs",
        ),
        ("snip-it:when=during", {"budget": 0.5, "epochs": 30}, "its 7 cuts end after 16 epochs, and training has 15"),
        ("snap-it:when=during:delay=0:every=1", {"budget": 0.1, "batch_size": 40}, "its 7 cuts end after 0.7 epochs"),
        ("snip-it:every=2", {}, "delay and every are for when=during: before training, nothing waits"),
        ("cnip-it:delay=1", {}, "delay and every are for when=during: before training, nothing waits"),
        ("snip-it:when=during:delay=-1", {}, "delay=-1 must be at least 0"),
        ("snip-it:when=during:every=0", {}, "every=0 must be at least 1"),
        ("snip-it:when=later", {}, "when=later is not one of before, during"),
        (
            "gmp",
            {"schedule": "halving"},
            "gmp has its own times and sparsities: it takes no schedule, as this of 7 cuts",
        ),
        ("gmp:first=0.95", {}, "gmp:first=0.95: first=0.95 is above the sparsity 0.9, which it rises to"),
        (
            "rigl",
            {"epochs": 25},
            "rigl: no change comes, the first after 100 steps, the last before 75: give a smaller",
        ),
        ("snip", {"prune_at": "161"}, "prune-at 161 is not within the 160 steps of training"),
        ("snip", {"prune_at": "-5"}, "prune-at -5 is not within the 160 steps of training"),
        ("snip", {"prune_at": "0.0 %"}, "prune-at 0% is before training: leave it out"),
        ("snip", {"prune_at": "101%"}, "prune-at 101% is outside [0, 100%]: it is a share of the steps of training"),
        ("snip", {"prune_at": "nan%"}, "prune-at=nan is not a finite number"),
        ("snip", {"prune_at": "2%", "epochs": 0}, "prune-at 2% is a share of the steps of training, which has none"),
        (
            "snip",
            {"prune_when": "stable", "epochs": 0},
            "prune-when stable is for a network that is trained: training has no steps",
        ),
        ("snip", {"prune_at": "half"}, "prune-at=half is not a whole number"),
        ("snip", {"prune_at": "1.5"}, "prune-at=1.5 is not a whole number"),
        ("gmp", {"prune_at": "5"}, "prune-at 5 is for criteria that prune at once: gmp has its own times"),
        (
            "set:every=2",
            {"prune_at": "5"},
            "prune-at 5 is for criteria that prune at once: set:every=2 has its own times",
        ),
        ("gmp", {"variants": ["shuffle"]}, "variant shuffle is for pruning before training: gmp prunes during it"),
        (
            "snip",
            {"prune_at": "5", "variants": ["reinit"]},
            "variant reinit is for pruning before training: prune-at 5",
        ),
        ("gmp", {"target": "effective"}, "target effective is for all cuts at once: gmp prunes during training"),
        ("rigl", {"repair": "effective-only"}, "repair effective-only is for all cuts at once: rigl prunes during"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(criterion: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(pb.UserError) as raised:
        trial(criterion, **keys)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_share_is_rounded_to_steps() -> None:
    assert [Timeline(10, 5).step_of(f"{share}%", "prune-at") for share in (1, 15, 16, 99)] == [1, 2, 2, 10]


@dataclass(frozen=True)
class Given(DuringTraining):
    """Changes the mask at given moments."""

    at: str = ""
    gradients: bool = False
    instead: bool = False

    def score(self, model: MaskedModel, batch: Batch) -> Scores:
        return {name: weight.abs() for name, weight in model.weights().items()}

    @property
    def needs_gradients(self) -> bool:
        return self.gradients

    @property
    def replaces_step(self) -> bool:
        return self.instead

    def moments(self, timeline: Timeline) -> list[int]:
        return [int(step) for step in self.at.split()]

    def change(self, moment: Moment) -> object:
        return moment.mask


@pytest.mark.parametrize(
    ("gradients", "instead", "first", "last"),
    [(False, False, 0, 160), (True, False, 1, 160), (False, True, 0, 159), (True, True, 0, 159)],
)
def test_moments_are_in_order_and_within_the_training(first: int, last: int, *, gradients: bool, instead: bool) -> None:
    def given(at: str) -> list[int]:
        return steps(Given(at, gradients=gradients, instead=instead))

    assert given(f"{first} 7 {last}") == [first, 7, last]
    with pytest.raises(pb.UserError, match=r"cannot say when it changes the mask \(ValueError: invalid"):
        given("soon")
    for wrong in (f"{first - 1} 7", f"7 {last + 1}", "7 6", "7 7"):
        with pytest.raises(pb.UserError, match=f"gives moments that are not in order, or not in {first}..{last} steps"):
            given(wrong)
    with pytest.raises(pb.UserError, match="begins dense and gives no moment at which the mask is changed"):
        given("")
