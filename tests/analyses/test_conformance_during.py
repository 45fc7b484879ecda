"""Checks of criteria that prune during training: some that keep the contract, and some of which each breaks a part."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import pai_bench as pb
from pai_bench.analyses.conformance import Result, run_check, run_checks
from pai_bench.analyses.conformance_during import DURING_CHECKS, ITERATIVE_CHECKS
from pai_bench.cli.entry import main
from pai_bench.scoring import Change, DuringTraining, IterativePruning, MaskedModel, Moment, Rewind, Scores, Timeline

DOCUMENT = Path(__file__).parents[2] / "docs/pruning-during-training.md"


@dataclass(frozen=True)
class OneCut(DuringTraining):
    """Does nothing wrong: all cuts after half of the steps."""

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        return {name: weight.abs() for name, weight in model.weights().items()}

    def moments(self, timeline: Timeline) -> list[int]:
        return [timeline.steps // 2]

    def change(self, moment: Moment) -> object:
        return moment.cut(moment.density)


@dataclass(frozen=True)
class Backwards(OneCut):
    def moments(self, timeline: Timeline) -> list[int]:
        return [timeline.steps // 2, timeline.steps // 3]


@dataclass(frozen=True)
class Late(OneCut):
    def moments(self, timeline: Timeline) -> list[int]:
        return [timeline.steps + 1]


@dataclass(frozen=True)
class Undecided(OneCut):
    """Its moments are others when they are asked for a second time."""

    asked: ClassVar = itertools.count()

    def moments(self, timeline: Timeline) -> list[int]:
        return [timeline.steps // 2 + (next(self.asked) == 1)]


@dataclass(frozen=True)
class Rounding(OneCut):
    """Keeps one connection more."""

    def change(self, moment: Moment) -> object:
        return moment.cut(moment.density + 1 / moment.mask.size)


@dataclass(frozen=True)
class Fickle(OneCut):
    """Its masks depend on how often it was called."""

    calls: ClassVar = itertools.count()

    def change(self, moment: Moment) -> object:
        places = torch.Generator().manual_seed(next(self.calls))
        scores = {name: torch.rand(weight.shape, generator=places) for name, weight in moment.weights.items()}
        return moment.select(scores, moment.density)


@dataclass(frozen=True)
class Neighbourly(OneCut):
    """What it gives depends on the training that has asked before, which is another one beside it."""

    asked: ClassVar[list[int]] = []

    def change(self, moment: Moment) -> object:
        seed = moment.random.initial_seed()
        beside = bool(self.asked) and self.asked[-1] != seed
        self.asked.append(seed)
        scores = moment.score()
        return moment.select({n: -s for n, s in scores.items()} if beside else scores, moment.density)


@dataclass(frozen=True)
class Scaling(OneCut):
    """Halves the weights, in which only their order counts."""

    def change(self, moment: Moment) -> object:
        made = moment.cut(moment.density)
        for weight in moment.weights.values():
            weight.div_(2)
        return made


@dataclass(frozen=True)
class Drawing(OneCut):
    """Draws from torch's own generator."""

    def change(self, moment: Moment) -> object:
        torch.rand(1)
        return moment.cut(moment.density)


@dataclass(frozen=True)
class Masking(OneCut):
    """Changes the mask that it is given."""

    def change(self, moment: Moment) -> object:
        made = moment.cut(moment.density)
        for name, keep in moment.mask.items():
            keep &= made[name]
        return made


@dataclass(frozen=True)
class Forgetful(OneCut):
    """Gives no mask of the last layer."""

    def change(self, moment: Moment) -> object:
        *most, _ = moment.cut(moment.density).items()
        return Change(dict(most))


def checked(criterion: pb.Criterion) -> list[Result]:
    """The results of the checks of pruning during training alone."""
    return [run_check(name, run, criterion, net) for name, (run, nets) in DURING_CHECKS.items() for net in nets]


TRAININGS = {"whole-training", "together", "no-side-effects-of-changes"}


@pytest.mark.parametrize(
    ("criterion", "failing", "message"),
    [
        (OneCut(), set(), ""),
        (Backwards(), {"moments", *TRAININGS}, "Backwards gives moments that are not in order, or not in 0..12 steps"),
        (Late(), {"moments", *TRAININGS}, "Late gives moments that are not in order, or not in 0..12 steps"),
        (Undecided(), {"moments"}, "Undecided on mlp: the moments of 12 steps differ when asked for again"),
        (Rounding(), TRAININGS, "Rounding: 190 of 631 connections are kept at the end, not 189"),
        (Fickle(), {"whole-training", "together"}, "ends with another mask when it is run again, in '1.weight'"),
        (
            Neighbourly(),
            {"together"},
            "Neighbourly on mlp: a training beside another ends with another mask than alone",
        ),
        (
            Scaling(),
            {"no-side-effects-of-changes"},
            "Scaling on mlp: change alters the weights of '1.weight', the weights",
        ),
        (
            Drawing(),
            {"no-side-effects-of-changes"},
            "change alters torch's random state; only the state of a moment may",
        ),
        (
            Masking(),
            {"no-side-effects-of-changes"},
            "Masking on mlp: change alters the mask of '1.weight', the mask of",
        ),
        (
            Forgetful(),
            TRAININGS,
            "Forgetful: '5.weight' is in one of the masks before and after a change alone",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, OneCut) else "",
)
def test_each_check_finds_what_it_is_for(criterion: OneCut, failing: set[str], message: str) -> None:
    Neighbourly.asked.clear()
    failed = [result for result in checked(criterion) if not result.passed]
    assert {result.check for result in failed} == failing
    assert message in "\n".join(result.message for result in failed)


@dataclass(frozen=True)
class InLevels(IterativePruning):
    """Halves what is left, with mistakes where they are asked for."""

    factor: float = 0.5
    begin: int = 0

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        return {name: weight.abs() for name, weight in model.weights().items()}

    def sparsity_before(self, sparsity: float) -> float:
        return self.factor * sparsity if sparsity > 0.1 else 0.0

    def beginning(self, timeline: Timeline) -> Rewind:
        return Rewind(self.begin)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, ""),
        ({"factor": 1 - 1e-4}, "1,000 levels do not lead from sparsity 0.7 to the dense network"),
        ({"factor": 2.0}, "the level before sparsity 0.7 would have 1.4"),
        ({"begin": -1}, "a level begins with a Rewind within 1000000 steps, and not with Rewind(step=-1"),
    ],
)
def test_levels_go_down_to_the_dense_network(options: dict[str, Any], message: str) -> None:
    run, (network,) = ITERATIVE_CHECKS["levels"]
    found = run_check("levels", run, InLevels(**options), network)
    assert found.passed == (not message)
    assert message in found.message


def test_iterative_pruning_is_checked() -> None:
    assert [result.passed for result in run_checks("imp") if result.check == "levels"] == [True]


def texts() -> Iterator[str]:
    """The examples of the page on pruning during training."""
    yield from re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


def test_the_example_of_the_page_goes_through_them(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = texts()
    Path("two_cuts.py").write_text(example)
    assert main(["check", "./two_cuts.py:TwoCuts"]) == 0
    out = capsys.readouterr().out
    for name in DURING_CHECKS:
        assert name in out
    assert re.search(r"TwoCuts@\w+: 52 checks passed", out)


def test_a_method_of_a_file_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = texts()
    Path("two_cuts.py").write_text(example.replace("timeline.steps // 3, 2", "timeline.steps, 2"))
    assert main(["check", "./two_cuts.py:TwoCuts"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"TwoCuts@\w+: 7 of 52 checks failed", out)
    assert out.count("moments that") == 1  # one row for all of them


@pytest.mark.parametrize(
    "name", [*(f"{kind}-it:when=during:delay=0:every=1" for kind in ("snip", "snap", "cnip")), "gmp:returns=true"]
)
def test_methods_that_prune_during_training_as_an_option(name: str) -> None:
    assert [result.message for result in checked(pb.get_criterion(name)) if not result.passed] == []
