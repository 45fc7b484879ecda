"""What scoring costs: seconds and memory of a criterion, beside a bare forward and backward and a training step."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from pai_bench.environment import describe
from pai_bench.plan import Trial
from pai_bench.pruning import Batch, BatchNormMode, Scorer, get_schedule, prunable_parameters, prune
from pai_bench.pruning.guard import BATCH_NORMS
from pai_bench.runner import Runner
from pai_bench.store import Cost
from pai_bench.timing import repeat


def measure_cost(runner: Runner, trial: Trial, step_seconds: float, *, rounds: int = 5, budget: float = 30.0) -> Cost:
    """The cost of one score, and of a whole pruning, by the criterion of `trial`, beside `step_seconds` of training.

    Each is measured up to `rounds` times within about `budget` seconds, once at least.
    """
    assert trial.criterion is not None
    data, model = runner.data(trial), runner.model(trial)
    batch, draw = runner.score_batch(trial, data), runner.draw(trial)
    criterion = runner.catalog.criteria[trial.criterion.name]
    schedule = get_schedule(trial.criterion.schedule)
    floor = bare(model, batch, criterion.bn)

    def score() -> None:
        Scorer(criterion, model, draw=draw).score(batch)

    def whole() -> None:
        prune(model, batch, criterion, trial.sparsity, schedule=schedule, scope=trial.scope, draw=draw)

    scoring = repeat(score, runner.device, floor=floor, rounds=rounds, budget=budget)
    pruning = repeat(whole, runner.device, rounds=rounds, budget=budget)
    return Cost(
        data=trial.data,
        model=trial.model,
        weights=sum(weight.numel() for weight in prunable_parameters(model).values()),
        criterion=trial.criterion.name,
        schedule=trial.criterion.schedule,
        cuts=len(schedule.densities(1 - trial.sparsity)),
        sparsity=trial.sparsity,
        score_batch=len(batch.inputs),
        batch_norm=criterion.bn if any(isinstance(module, BATCH_NORMS) for module in model.modules()) else None,
        rounds=len(scoring.seconds),
        seconds=scoring.median,
        iqr=scoring.iqr,
        peak_bytes=scoring.peak_bytes,
        floor_seconds=scoring.median / scoring.ratio if scoring.ratio else math.nan,
        floor_peak_bytes=scoring.floor_peak_bytes,
        prune_seconds=pruning.median,
        prune_iqr=pruning.iqr,
        prune_rounds=len(pruning.seconds),
        prune_peak_bytes=pruning.peak_bytes,
        step_seconds=step_seconds,
        step_batch=trial.protocol.batch_size,
        device=runner.device.type,
        environment=describe(runner.device),
        provenance=runner.provenance(),
    )


def bare(model: nn.Module, batch: Batch, bn: BatchNormMode) -> Callable[[], Any]:
    """One forward and backward pass of `batch` on a copy of `model`: the gradients of the prunable weights."""
    twin = copy.deepcopy(model).requires_grad_(False).eval()
    weights = [weight.requires_grad_(True) for weight in prunable_parameters(twin).values()]
    for module in twin.modules():
        module.training = bn == "train" and isinstance(module, BATCH_NORMS)

    def pass_() -> None:
        torch.autograd.grad(F.cross_entropy(twin(batch.inputs), batch.targets), weights)

    return pass_
