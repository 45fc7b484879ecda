"""What scoring costs: seconds and memory of a criterion, beside a bare forward and backward and a training step."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from pai_bench.analyses.smaller import measure_smaller
from pai_bench.execution.measure import step_seconds
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.stages import mask_maker
from pai_bench.experiment.trial import Trial
from pai_bench.groups import GroupMask
from pai_bench.networks.private_copy import BATCH_NORMS, copied
from pai_bench.results import Cost, Environment, Provenance
from pai_bench.scoring import Batch, Criterion, prunable_parameters
from pai_bench.support.environment import describe
from pai_bench.support.precision import reproducible
from pai_bench.support.timing import repeat
from pai_bench.training.trainer import ENGINE


def measure_step(runner: Runner, trial: Trial, *, seconds: float = 1.0) -> float:
    """Seconds of a training step of the trial's network, as it is trained by itself, over about so many `seconds`."""
    # a protocol of no epochs has a step, too
    lasting = dataclasses.replace(trial, protocol=trial.protocol.lasting(1))
    return step_seconds(runner, lasting, 1, ENGINE, seconds=seconds)[0]


def measure_cost(
    runner: Runner, trial: Trial, step_seconds: float, *, rounds: int | None = None, budget: float = 30.0
) -> Cost:
    """The cost of one score, and of a whole pruning, by the criterion of `trial`, beside `step_seconds` of training.

    Each is measured `rounds` times, by default as often as `repeat` says, within about `budget` seconds. So is what the
    smaller network of a structured criterion takes.
    """
    assert trial.criterion is not None
    assert trial.schedule is not None
    batch, model = runner.inputs.score_batch(trial), runner.inputs.model(trial)
    criterion, schedule = trial.criterion, trial.schedule
    names = runner.inputs.prunable(trial, model, biases=criterion.biases)
    make_scorer, make_mask = runner.inputs.scorer_maker(trial, model), mask_maker(runner.inputs, trial, model)
    mask = make_mask(schedule) if trial.structured else None

    def score() -> None:
        with make_scorer() as scorer:
            scorer.score(batch)

    floor = bare(model, batch, criterion, names)
    scoring = repeat(score, runner.device, floor=floor, rounds=rounds, budget=budget)
    pruning = repeat(lambda: make_mask(schedule), runner.device, rounds=rounds, budget=budget)
    return Cost(
        trial=trial.configuration(),
        weights=sum(model.get_parameter(name).numel() for name in runner.inputs.prunable(trial, model)),
        cuts=len(schedule.densities(1 - trial.sparsity)),
        batch_norm=runner.inputs.batch_norm(trial, model),
        rounds=len(scoring.seconds),
        cold=scoring.cold,
        seconds=scoring.median,
        iqr=scoring.iqr,
        peak_bytes=scoring.peak_bytes,
        floor_seconds=scoring.median / scoring.ratio if scoring.ratio else math.nan,
        floor_peak_bytes=scoring.floor_peak_bytes,
        prune_rounds=len(pruning.seconds),
        prune_cold=pruning.cold,
        prune_seconds=pruning.median,
        prune_iqr=pruning.iqr,
        prune_peak_bytes=pruning.peak_bytes,
        step_seconds=step_seconds,
        device=runner.device.type,
        environment=Environment(**describe(runner.device)),
        provenance=Provenance(**runner.provenance()),
        precision="fp32",
        memory_format="contiguous",
        device_seconds=scoring.device_seconds,
        floor_device_seconds=scoring.floor_device_seconds,
        prune_device_seconds=pruning.device_seconds,
        smaller=measure_smaller(runner, trial, mask, rounds=rounds, budget=budget)
        if isinstance(mask, GroupMask)
        else None,
    )


def bare(
    model: nn.Module, batch: Batch, criterion: Criterion, prunable: Sequence[str] | None = None
) -> Callable[[], Any]:
    """A bare forward and backward pass of `batch` on a copy of `model`: the gradients of what `criterion` scores.

    These are the `prunable` parameters, by name, or those of the usual layers.
    Batch norm is in the criterion's mode, and several score batches go through the network one by one.
    """
    copy = copied(model).requires_grad_(False).eval()
    parameters = prunable_parameters(copy, biases=criterion.biases, only=prunable).values()
    weights = [weight.requires_grad_(True) for weight in parameters]
    for module in copy.modules():
        module.training = criterion.bn == "train" and isinstance(module, BATCH_NORMS)

    def pass_() -> None:
        with reproducible(batch.inputs.device):  # as scores are computed
            for part in batch.split():
                torch.autograd.grad(F.cross_entropy(copy(part.inputs), part.targets), weights)

    return pass_
