"""The cost of a sweep before it runs, by measured training steps and scores, and of a recipe's training, unmeasured."""

import functools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from pai_bench.data.facts import Facts
from pai_bench.execution.autotune import WORKER
from pai_bench.execution.backend import find_backend
from pai_bench.execution.execution_plan import ExecutionPlan, kind_of, kinds
from pai_bench.execution.measure import evaluation_steps, measured_step, training_steps
from pai_bench.experiment.examples import epoch_size
from pai_bench.experiment.recipe import Recipe
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.sources import DataSource, ModelSource
from pai_bench.experiment.trial import Trial
from pai_bench.graph.flops import flops
from pai_bench.models import create_model
from pai_bench.results.bits import SAMPLE_SIZE
from pai_bench.support.failures import described
from pai_bench.support.registry import DATA
from pai_bench.support.timing import measured
from pai_bench.training.protocol import DEFAULT, get_protocol

RECORD, EPOCH, LAYER = 4_000, 120, 250
"""Bytes of a record in its file, about: of its head, of each epoch, and of each layer."""

WEIGHT = 5
"""Bytes of a weight in the file of a network: in single precision, with its mask."""


@dataclass(frozen=True)
class Estimate:
    """Seconds of all trials, as they run beside each other; bytes while they run, and in the results folder."""

    training: float
    evaluation: float
    scoring: float
    memory: int
    disk: int
    plan: ExecutionPlan
    failed: tuple[str, ...] = ()
    """What could not be measured."""

    @property
    def seconds(self) -> float:
        """Of everything."""
        return self.training + self.evaluation + self.scoring


def estimate(runner: Runner, missing: Sequence[Trial], backend: str = "auto") -> Estimate:
    """What the `missing` trials will cost on the runner's device, by a backend of that name."""
    plan, failed = find_backend(backend)(runner, missing).plan, []
    training = testing = 0.0
    memory = 0
    for trial, count in kinds(missing).values():
        try:
            seconds, size = measured_step(runner, trial, plan.threads, plan.lanes(trial), plan.engine(trial))
        except Exception as error:  # the trial itself will say the same
            failed.append(f"a step of {trial.model} on {trial.data}: {described(error)}")
            continue
        data = runner.inputs.whole(trial)
        training += count * training_steps(trial, data) * seconds / plan.workers
        testing += count * evaluation_steps(trial, data) * seconds / plan.workers
        memory = max(memory, size)
    scoring, not_scored = scoring_seconds(runner, missing)
    memory += sum(data.nbytes for data in runner.catalog.data.values())
    if runner.device.type == "cpu":
        memory = plan.workers * (memory + WORKER)
    disk = 0
    for trial, count in kinds(missing).values():
        try:
            disk += disk_bytes(runner, trial, count, missing)
        except Exception as error:
            failed.append(f"the records of {trial.model} on {trial.data}: {described(error)}")
    return Estimate(training, testing, scoring / plan.workers, memory, disk, plan, (*failed, *not_scored))


def disk_bytes(runner: Runner, trial: Trial, count: int, missing: Sequence[Trial]) -> int:
    """Bytes of the records of `count` trials of one kind, that of `trial`, with the masks of those that are pruned.

    And of their networks, where those are kept until they are evaluated, or for good.
    """
    sizes = weight_sizes(runner, trial)
    stored = min(SAMPLE_SIZE, sum(sizes))
    passes = trial.protocol.passes(epoch_size(trial, runner.inputs.whole(trial)))
    pruned = [other for other in missing if other.criterion and kind_of(other) == kind_of(trial)]
    masks = sum(mask_bytes(stored, other.sparsity) for other in pruned)
    if sum(sizes) > SAMPLE_SIZE:
        masks += len(pruned) * sum(sizes) / 8
    execution = runner.catalog.sweep
    networks = WEIGHT * sum(sizes) * count if execution.keep_networks or execution.metrics else 0
    return int(count * (RECORD + EPOCH * passes + LAYER * len(sizes)) + masks + networks)


def weight_sizes(runner: Runner, trial: Trial) -> list[int]:
    """The number of elements of each prunable parameter of a trial's network."""
    if runner.catalog.isolated_process:
        sizes: list[int] = runner.catalog.isolated_process.query("sizes", trial)
        return sizes
    model = runner.inputs.model(trial)
    return [model.get_parameter(name).numel() for name in runner.inputs.prunable(trial, model)]


def mask_bytes(size: int, sparsity: float) -> float:
    """Bytes of a mask in its record, about: its entropy, and a fifth for what compresses it, six bits in a byte."""
    if not sparsity:
        return 0.0
    entropy = -sparsity * math.log2(sparsity) - (1 - sparsity) * math.log2(1 - sparsity)
    return min(1.0, 1.2 * entropy) * size / 6


def training_flops(recipe: Recipe) -> float | None:
    """Floating-point operations of a recipe's training: three times those of a forward pass, for every example.

    None if it names a data set whose size is unknown before it is read, or says nothing of training.
    """
    total, facts_by_name = 0.0, {plugin.name: plugin.facts for plugin in DATA.known()}
    for (data, name, settings), points in recipe.points().items():
        values = dict(settings)
        if (facts := facts_by_name.get(data)) is None or (values["protocol"] is None and values["epochs"] is None):
            return None
        changes = {key: values[key] for key in ("epochs", "batch_size")}
        protocol = get_protocol(values["protocol"] or DEFAULT, **changes).scaled(values["budget"])
        share = protocol.train_fraction if values["train_fraction"] is None else values["train_fraction"]
        share = 1.0 if values["length"] == "steps" else share
        examples = protocol.steps(round(share * (1 - values["validation"]) * facts.train)) * protocol.batch_size
        total += len(points) * examples * 3 * forward(name, facts)
    return total


@functools.cache
def forward(name: str, facts: Facts) -> int:
    """Floating-point operations of a network's forward pass of one example, computed from shapes alone."""
    with torch.device("meta"):
        model = create_model(name, input_shape=facts.shape, num_classes=facts.classes)
    return flops(model, torch.empty(1, *facts.shape, device="meta")).total


def scoring_seconds(runner: Runner, missing: Iterable[Trial]) -> tuple[float, list[str]]:
    """Seconds of all scores in succession, by one of each criterion on each network; and what could not be measured."""
    examples: dict[tuple[DataSource, ModelSource, str], Trial] = {}
    cuts = Counter[tuple[DataSource, ModelSource, str]]()
    for trial in missing:
        if trial.schedule is not None:
            key = trial.data, trial.model, trial.criterion_name
            examples.setdefault(key, trial)
            cuts[key] += len(trial.schedule.densities(1 - trial.sparsity))
    total, failed = 0.0, []
    for key, trial in examples.items():
        try:
            total += cuts[key] * time_score(runner, trial)
        except Exception as error:
            failed.append(f"a score of {key[2]} on {trial.model}: {described(error)}")
    return total, failed


def time_score(runner: Runner, trial: Trial) -> float:
    """Seconds of one score of the trial's network by its criterion, after a warm-up."""
    assert trial.criterion is not None
    if runner.catalog.isolated_process:
        seconds: float = runner.catalog.isolated_process.query("score", trial)
        return seconds
    batch = runner.inputs.score_batch(trial)
    with runner.inputs.scorer(trial, runner.inputs.model(trial)) as scorer:
        scorer.score(batch)
        with measured(runner.device) as measurement:
            scorer.score(batch)
    return measurement.seconds
