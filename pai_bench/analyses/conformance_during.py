"""What a criterion that prunes during training is held to besides: its moments, and whole tiny trainings."""

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pai_bench import DataSet, Sweep
from pai_bench.analyses.errors import CheckError
from pai_bench.experiment import stages
from pai_bench.experiment.changes import MaskChanges
from pai_bench.experiment.levels import MOST_LEVELS
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.stages import Pruned
from pai_bench.experiment.trial import Trial
from pai_bench.masks import get_schedule
from pai_bench.scoring import Batch, Criterion, DuringTraining, IterativePruning, Moment, Timeline
from pai_bench.support.errors import UserError
from pai_bench.training.trainer import ENGINE

SPARSITY = 0.7

LENGTHS = (4, 16, 64, 256, 1024)
"""Epochs of a tiny training: the first are taken in which the changes of a method fit."""

BATCH = 4
"""Examples of a batch."""

LONG = 10**6
"""Steps of a training in which any level may begin."""


class InDouble(nn.Sequential):
    """Layers in float64, for examples in float32: what a method decides does not depend on the order of sums."""

    def forward(self, input: Tensor) -> Tensor:
        for layer in self:
            input = layer(input.double())
        return input


@dataclass(frozen=True)
class Watched:
    """A method whose changes must leave what they are given."""

    method: DuringTraining

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    def change(self, moment: Moment) -> Any:
        """The change of the method."""
        before = given(moment)
        made = self.method.change(moment)
        after = given(moment)
        if altered := [name for name, content in before.items() if content != after[name]]:
            raise CheckError(f"change alters {', '.join(altered)}; only the state of a moment may be altered")
        return made


def given(moment: Moment) -> dict[str, object]:
    """What a change may not alter, bit for bit."""
    parts = {"mask": moment.mask, "weights": moment.weights, "gradients": moment.gradients}
    found: dict[str, object] = {
        f"the {part} of {name!r}": tensor.numpy().tobytes() for part, of in parts.items() for name, tensor in of.items()
    }
    found |= {"torch's random state": torch.get_rng_state().tolist(), "Python's random state": random.getstate()}
    return found | {"numpy's random state": [str(part) for part in np.random.get_state()]}


def in_order(criterion: Criterion, model: nn.Module, batch: Batch) -> None:
    """The moments are in order and within the training, and the same for the same training."""
    assert isinstance(criterion, DuringTraining)
    densities = tuple(get_schedule(criterion.schedule).densities(1 - SPARSITY))
    per_epoch = len(batch.targets) // BATCH
    for steps in (per_epoch * epochs for epochs in LENGTHS):
        for line in (Timeline(steps, per_epoch, budget, densities) for budget in (1.0, 0.5)):
            try:
                first = list(criterion.moments(line))
            except UserError:  # too short for them
                continue
            if first != list(criterion.moments(line)):
                raise CheckError(f"the moments of {steps} steps differ when asked for again")
            criterion.checked_moments(line)


def whole_training(criterion: Criterion, model: nn.Module, batch: Batch) -> None:
    """A training ends with the exact number of connections, all others zero; and with the same mask once more."""
    runner, trials = trials_of(criterion, model, batch)
    (made,), (again,) = (trained(runner, trials[:1]) for _ in range(2))
    assert made.mask is not None
    assert again.mask is not None
    wanted = round((1 - SPARSITY) * made.mask.size)
    exact = criterion.combined or not criterion.structured  # whole units may be a few weights less
    if criterion.ties == "position" and not (made.mask.kept == wanted or (not exact and made.mask.kept < wanted)):
        raise CheckError(f"{made.mask.kept} of {made.mask.size} connections are kept at the end, not {wanted}")
    for name, keep in (made.training_mask or {}).items():
        if bool(made.model.get_parameter(name)[~keep].any()):
            raise CheckError(f"removed weights of {name!r} are not zero at the end")
    expect_same_mask(made, again, "the same training ends with another mask when it is run again")


def together(criterion: Criterion, model: nn.Module, batch: Batch) -> None:
    """Two trainings in one program end with the masks that each has alone; those of units are never in one."""
    runner, trials = trials_of(criterion, model, batch)
    if not criterion.structured:
        for trial, made in zip(trials, trained(runner, trials), strict=True):
            (alone,) = trained(runner, [trial])
            expect_same_mask(made, alone, "a training beside another ends with another mask than alone")


def no_traces(criterion: Criterion, model: nn.Module, batch: Batch) -> None:
    """A change alters nothing that it is given, but the state of the moment."""
    runner, trials = trials_of(criterion, model, batch)
    trained(runner, trials[:1], watched=True)


def levels(criterion: Criterion, model: nn.Module, batch: Batch) -> None:
    """Levels go down to the dense network, and begin within the training."""
    assert isinstance(criterion, IterativePruning)
    sparsity, count = SPARSITY, 0
    while sparsity := criterion.checked_sparsity_before(sparsity):
        if (count := count + 1) == MOST_LEVELS:
            raise CheckError(f"{MOST_LEVELS:,} levels do not lead from sparsity {SPARSITY} to the dense network")
    criterion.checked_beginning(Timeline(steps=LONG, epoch=LONG // 100, densities=(1 - SPARSITY,)))


def trials_of(criterion: Criterion, model: nn.Module, batch: Batch) -> tuple[Runner, list[Trial]]:
    """Trials of two seeds, in the shortest training that the changes fit in."""

    def network(_shape: tuple[int, ...], _classes: int) -> nn.Module:
        return InDouble(*copy.deepcopy(model))  # type: ignore[misc]  # all networks of the suite are sequential

    examples: Any = (batch.inputs.float(), batch.targets)
    settings: dict[str, Any] = {"sparsities": [SPARSITY], "seeds": 2, "score_batch": len(batch.targets)}
    settings |= {"protocol": "short", "batch_size": BATCH, "device": "cpu"}
    for epochs in LENGTHS:
        sweep = Sweep(
            criteria=[criterion],
            models=[network],
            data=[DataSet("examples", train=examples, test=examples)],
            epochs=epochs,
            **settings,
        )
        try:
            catalog = resolve(sweep)
        except UserError:
            if epochs == LENGTHS[-1]:
                raise
        else:
            break
    return Runner(catalog), [trial for trial in catalog.trials if trial.criterion is not None]


def trained(runner: Runner, trials: Sequence[Trial], *, watched: bool = False) -> list[Pruned]:
    """The networks of trials after training in one program."""
    networks = []
    for trial in trials:
        model = runner.inputs.model(trial)
        networks.append(stages.apply(runner.inputs, trial, model, runner.probe.mask(trial, model)[0]))
    changes = MaskChanges(runner.inputs, networks)
    if watched:
        for lane in changes.lanes:
            lane.method = lane.method and Watched(lane.method)  # type: ignore[assignment]
    stages.train_networks(runner.inputs, networks, lambda _trial, _epoch: None, ENGINE, None, changes.events)
    return changes.finished(networks)


def expect_same_mask(made: Pruned, other: Pruned, message: str) -> None:
    """The same mask."""
    for name, keep in (made.mask or {}).items():
        if other.mask is None or not torch.equal(keep, other.mask[name]):
            raise CheckError(f"{message}, in {name!r}")


DURING_CHECKS = {
    "moments": (in_order, ("mlp",)),
    "whole-training": (whole_training, ("mlp", "cnn")),
    "together": (together, ("mlp", "cnn")),
    "no-side-effects-of-changes": (no_traces, ("mlp", "cnn")),
}
"""What every criterion is held to that prunes during training: the check, and the networks that it runs on."""

ITERATIVE_CHECKS = {"levels": (levels, ("mlp",))}
"""What every criterion is held to that prunes in levels."""
