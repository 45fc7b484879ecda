"""Look up what a sweep names, data sets, networks and criteria, and make its trials."""

import dataclasses
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from typing import Protocol as TypingProtocol

import torch
from torch import nn

from pai_bench.data import DataSet
from pai_bench.data.augment import check_images
from pai_bench.evaluation import check_metric, get_metric
from pai_bench.experiment.examples import epoch_size, labels_in_use, with_noise
from pai_bench.experiment.levels import check_levels, with_levels
from pai_bench.experiment.moments import check_moments
from pai_bench.experiment.sources import DataSource, ModelSource
from pai_bench.experiment.sweep import Execution, Sweep, refuse_duplicates
from pai_bench.experiment.trial import Trial, expand, fraction
from pai_bench.masks import Schedule, get_schedule
from pai_bench.models.create import Builder, find_model, model_version, refuse_instance
from pai_bench.networks.private_copy import BATCH_NORMS
from pai_bench.pruning import get_variant
from pai_bench.pruning.options import PruningOptions, check_ties
from pai_bench.pruning.structured import check_sort
from pai_bench.results.configurations import check_settings
from pai_bench.scoring import Criterion, get_criterion
from pai_bench.scoring.prunable import prunable_names, traced_parameters
from pai_bench.support import files
from pai_bench.support.arrays import with_torch_defaults
from pai_bench.support.environment import select_device
from pai_bench.support.errors import UserError
from pai_bench.support.failures import described
from pai_bench.training.protocol import DEFAULT, DEFAULT_WITH_BATCH_NORM, Protocol, get_protocol


@dataclass(frozen=True)
class Inspection:
    """What is known of a network after it was built and ran on examples of a data set; by default, nothing."""

    batch_norm: bool = False
    traced: tuple[str, ...] = ()
    """Its weights outside of the usual layers."""
    unclear: tuple[str, ...] = ()
    """Parameters from which weights may be computed, and which are not scored."""
    connections: int = 0
    """How many there are to prune."""


class IsolatedProcess(TypingProtocol):
    """A process that runs networks, which may crash it, and answers questions about them."""

    def query(self, question: str, trial: Trial, *arguments: object) -> Any:
        """The answer; an error if there was one, or if the process has died."""

    def hand_over(self) -> Any:
        """The process itself, as a `pai_bench.execution.worker_process.Worker`; None if it does not run."""

    def close(self) -> None:
        """End the process; another question starts it again."""


@dataclass
class Catalog:
    """What the trials of a sweep name, resolved and checked, before anything is computed."""

    device: torch.device
    sweep: Execution
    """How trials run."""
    by_name: bool = True
    """Whether other processes find all that the trials are made of by its name."""
    data: dict[str, DataSet] = field(default_factory=dict)
    """By name, loaded from the sources of trials."""
    trials: list[Trial] = field(default_factory=list)
    isolated_process: IsolatedProcess | None = None
    """Where networks are run that may end the process; None for this one."""


Inspector = Callable[[Sweep, DataSource, DataSet, ModelSource], Inspection]
"""Of a sweep, one of its data sets, which is loaded, and one of its networks."""


def inspect_network(
    sweep: Sweep, data: DataSet, source: ModelSource, on_built: Callable[[Inspection], None] = lambda _: None
) -> Inspection:
    """Build a network and run it on examples; a network that does not fit the data is a `UserError`.

    `on_built` is called with what is known before it runs.
    """
    model = source.build(data, 0, sweep.init)
    built = Inspection(any(isinstance(module, BATCH_NORMS) for module in model.modules()))
    on_built(built)
    check_fit(model, source.name, data)
    traced, unclear = traced_parameters(model, data.example(), warn=sweep.prunable is None)
    names = prunable_names(
        model, traced, patterns=sweep.prunable, keep_first=sweep.keep_first, keep_last=sweep.keep_last
    )
    connections = sum(model.get_parameter(name).numel() for name in names)
    return dataclasses.replace(built, traced=traced, unclear=unclear, connections=connections)


@with_torch_defaults
def resolve(sweep: Sweep, inspector: Inspector | None = None) -> Catalog:
    """The catalog of `sweep` with all its trials; a mistake anywhere in it is a `UserError`.

    `inspector` takes the place of `inspect_network`.
    """
    catalog = Catalog(select_device(sweep.device), sweep, sweep.by_name)
    if sweep.precision == "tf32" and catalog.device.type != "cuda":
        raise UserError(f"precision tf32 is for CUDA devices, not {catalog.device}; use fp32 or bf16")
    criteria = [_criterion(sweep, reference) for reference in sweep.criteria]
    models = [_model(reference) for reference in sweep.models]
    refuse_duplicates("models", [source.name for source in models])
    sources = [_data(catalog, sweep, reference) for reference in sweep.data]
    refuse_duplicates("data", [source.name for source in sources])
    for name, metric in map(get_metric, sweep.metrics):
        for data in catalog.data.values():
            check_metric(name, metric, with_noise(data, sweep, sweep.seed_list[0]))
    networks, sizes = [], []
    for source in sources:
        data = catalog.data[source.name]
        for model in models:
            known = inspector(sweep, source, data, model) if inspector else inspect_network(sweep, data, model)
            protocol = _protocol(sweep, data, known)
            batch = _score_batch(data, sweep, fraction(sweep, protocol))
            version = model_version(model.reference, data.input_shape)
            inspected = dataclasses.replace(model, version=version, traced=known.traced, unclear=known.unclear)
            networks.append((source, inspected, protocol, batch))
            sizes.append((source, inspected, known.connections))
    variants = [get_variant(reference) for reference in sweep.variants]
    refuse_duplicates("variants", [str(variant) for variant in variants])
    for (criterion, _), variant in itertools.product(criteria, variants):
        check_ties(criterion, variant, sweep.target, sweep.repair, sweep.min_per_layer)
        options = PruningOptions(
            scope=sweep.scope,
            variant=variant,
            target=sweep.target,
            min_per_layer=sweep.min_per_layer,
            repair=sweep.repair,
        )
        chosen = sweep.prunable is not None or sweep.keep_first or sweep.keep_last
        check_sort(criterion, sweep.sparsity_of, options, chosen=chosen)
    connections = {(source.name, model.name): count for source, model, count in sizes}

    def examples(trial: Trial) -> int:
        return epoch_size(trial, catalog.data[trial.data.name])

    catalog.trials = with_levels(expand(sweep, criteria, networks, variants), examples)
    if sweep.evaluate or sweep.keep_networks:
        catalog.trials = [keeping(trial) for trial in catalog.trials]
    for trial in catalog.trials:
        check_settings(trial.identity, trial.configuration())
        if trial.seed == sweep.seed_list[0]:
            check_moments(trial, examples(trial))
            check_levels(trial, connections[trial.data.name, trial.model.name])
    return catalog


def keeping(trial: Trial) -> Trial:
    """A trial that keeps its trained network."""
    return dataclasses.replace(trial, keeps=tuple(dict.fromkeys((*trial.keeps, trial.identity))))


def _criterion(sweep: Sweep, reference: str | Criterion) -> tuple[Criterion, Schedule]:
    criterion = get_criterion(reference)
    if sweep.bn != "published" and criterion.uses_data:
        criterion = criterion.with_batch_norm(sweep.bn)
    schedule = get_schedule(criterion.schedule if sweep.schedule is None else sweep.schedule)
    try:
        json.dumps(criterion.configuration(schedule), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"criterion {criterion}: options must be plain values that JSON can hold ({error})") from error
    return criterion, schedule


def _model(reference: str | Builder) -> ModelSource:
    if isinstance(reference, str):
        name, builder = find_model(reference)
        file = files.split(reference, "model")  # which other processes find, wherever they are
        return ModelSource(name, reference if file is None else f"{file[0]}:{file[1]}", builder=builder)
    refuse_instance(reference)
    if not callable(reference):
        raise UserError(f"a model is a name or a function that builds one, not {type(reference).__name__}")
    name = getattr(reference, "__name__", "")
    if name in ("", "<lambda>"):
        raise UserError("a model given as a function needs a name: define it with `def`, not as a lambda")
    return ModelSource(name, reference)


def _data(catalog: Catalog, sweep: Sweep, reference: str | DataSet) -> DataSource:
    if not isinstance(reference, str | DataSet):
        what = f"data is a name or a DataSet, not {type(reference).__name__}"
        raise UserError(f'{what}: pai_bench.DataSet("NAME", train=(inputs, targets), test=(inputs, targets))')
    source = DataSource("", reference, sweep.data_dir, sweep.validation)
    data = source.load()
    catalog.data[data.name] = data
    return dataclasses.replace(source, name=data.name, checksum=data.checksum)


def _protocol(sweep: Sweep, data: DataSet, known: Inspection) -> Protocol:
    """The protocol of a network on a data set, by what is `known` of it; a UserError if it does not fit the data."""
    protocol = get_protocol(
        sweep.protocol or (DEFAULT_WITH_BATCH_NORM if known.batch_norm else DEFAULT),
        epochs=sweep.epochs,
        batch_size=sweep.batch_size,
        learning_rate=sweep.learning_rate,
        weight_decay=sweep.weight_decay,
        precision=sweep.precision,
    ).scaled(sweep.budget)
    if protocol.augmentation != "none":
        check_images(data.train.inputs, data.name, protocol.augmentation)
    size = data.train_size(fraction(sweep, protocol))
    if (protocol.epochs or protocol.iterations) and protocol.batch_size > size:
        raise UserError(f"batch size {protocol.batch_size} is larger than the {size} training examples of {data.name}")
    return protocol


@torch.no_grad()
def check_fit(model: nn.Module, name: str, data: DataSet) -> None:
    """Refuse a network that does not turn the examples of `data` into one logit per class."""
    try:
        logits = model.eval()(data.normalised(data.train.inputs[:2]))
    except Exception as error:  # whatever a network says of inputs that it is not made for
        what = f"does not take {data.name}'s inputs of shape {data.input_shape}"
        raise UserError(f"model {name} {what}: {described(error)}") from error
    expected = (min(2, len(data.train.targets)), data.num_classes)
    if not isinstance(logits, torch.Tensor) or logits.shape != expected or not logits.is_floating_point():
        output = type(logits).__name__
        if isinstance(logits, torch.Tensor):
            output = f"{tuple(logits.shape)}" + f" of {logits.dtype}" * (not logits.is_floating_point())
        raise UserError(f"model {name} gives {output} for {expected[0]} examples of {data.name}, not logits {expected}")


def _score_batch(data: DataSet, sweep: Sweep, share: float) -> int:
    size, available = sweep.score_batch or 10 * data.num_classes, data.train_size(share)
    if size * sweep.score_batches > available:
        wanted = f"score-batch {size}" if sweep.score_batches == 1 else f"score-batch {size} x {sweep.score_batches}"
        raise UserError(f"{wanted} is larger than the {available} training examples of {data.name}")
    if sweep.score_sampling.startswith("class-"):
        label = int(sweep.score_sampling.removeprefix("class-"))
        used, noisy = dataclasses.replace(sweep, train_fraction=share), sweep.score_labels == "noisy"
        count = min(int((labels_in_use(data, used, s, noisy=noisy) == label).sum()) for s in sweep.seed_list)
        if count < size * sweep.score_batches:
            raise UserError(f"{data.name} has {count} training examples of class {label}, less than a score batch")
    return size
