"""The objects behind the names of a sweep: data sets, networks, criteria; and with them, its trials."""

import dataclasses
import functools
import inspect
import itertools
import json
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field
from typing import Any
from typing import Protocol as TypingProtocol

import torch
from torch import nn

from pai_bench import files
from pai_bench.arrays import by_torchs_defaults
from pai_bench.data import DataSet, load_data
from pai_bench.data.augment import check_images
from pai_bench.environment import select_device
from pai_bench.errors import UserError
from pai_bench.failures import described
from pai_bench.identity import stream
from pai_bench.models.create import Builder, InputShape, create_model, find_model, model_version, refuse_instance
from pai_bench.plan import Choice, Sweep, Trial, expand, fraction, refuse_duplicates
from pai_bench.pruning import Criterion, Variant, get_criterion, get_schedule, get_variant
from pai_bench.pruning.prunable import chosen, further
from pai_bench.pruning.prune import check_ties
from pai_bench.pruning.replica import BATCH_NORMS
from pai_bench.store.records import check_settings
from pai_bench.training.protocol import Protocol, get_protocol


@dataclass(frozen=True)
class Inspection:
    """What is known of a network after it was built and given examples of a data set; by default, nothing."""

    batch_norm: bool = False
    traced: tuple[str, ...] = ()
    """Its weights outside of the usual layers."""
    unclear: tuple[str, ...] = ()
    """Parameters from which weights may be computed, and which are not scored."""


class Elsewhere(TypingProtocol):
    """A process that answers what only a run of a network tells, which may end it."""

    def ask(self, question: str, trial: Trial, *arguments: object) -> Any:
        """The answer; an error if there was one, or if the process has died."""

    def hand_over(self) -> Any:
        """The process itself, as a `pai_bench.execution.apart.Worker`; None if it does not run."""

    def close(self) -> None:
        """End the process; another question starts it again."""


@dataclass
class Catalog:
    """What the trials of a sweep name, resolved and checked, before anything is computed."""

    device: torch.device
    sweep: Sweep
    data: dict[str, DataSet] = field(default_factory=dict)
    models: dict[str, Builder] = field(default_factory=dict)
    versions: dict[str, Callable[[InputShape], int]] = field(default_factory=dict)
    """Versions of the networks on inputs of a shape; of a function of one's own, its attribute ``version``, or 1."""
    inspections: dict[tuple[str, str], Inspection] = field(default_factory=dict)
    """By data and network."""
    criteria: dict[str, Criterion] = field(default_factory=dict)
    variants: dict[str, Variant] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    elsewhere: Elsewhere | None = None
    """Where networks are run that may end the process; None for this one."""

    @property
    def former_names(self) -> dict[str, str]:
        """Name -> `Criterion.former_name`, of criteria that have one."""
        quotas = (variant.quota for variant in self.variants.values() if variant.quota is not None)
        return {one.name: one.former_name for one in (*self.criteria.values(), *quotas) if one.former_name}

    def former_identity(self, trial: Trial) -> str | None:
        """The identity under which earlier versions of pai-bench stored a trial, if it was another."""
        former = trial.renamed(self.former_names)
        return former.identity if former else None


Inspector = Callable[[Catalog, str, str], Inspection]
"""Of the catalog so far and the names of a data set and a network in it."""


def inspect_network(
    catalog: Catalog, data_name: str, model_name: str, on_built: Callable[[Inspection], None] = lambda _: None
) -> Inspection:
    """Build a network and give it examples, whether it fits the data or not, which is then a `UserError`.

    `on_built` is told what is known before it is given any.
    """
    sweep, data = catalog.sweep, catalog.data[data_name]
    shapes: dict[str, Any] = {"input_shape": data.input_shape, "num_classes": data.num_classes}
    model = create_model(catalog.models[model_name], **shapes, seed=0, init=sweep.init)
    built = Inspection(any(isinstance(module, BATCH_NORMS) for module in model.modules()))
    on_built(built)
    check_fit(model, model_name, data)
    traced, unclear = further(model, data.example(), told=sweep.prunable is None)
    chosen(model, traced, patterns=sweep.prunable, keep_first=sweep.keep_first, keep_last=sweep.keep_last)
    return dataclasses.replace(built, traced=traced, unclear=unclear)


@by_torchs_defaults
def resolve(sweep: Sweep, inspector: Inspector = inspect_network) -> Catalog:
    """The catalog of `sweep` with all its trials; a mistake anywhere in it is a `UserError`.

    `inspector` says what is known of a network on a data set.
    """
    catalog = Catalog(select_device(sweep.device), sweep)
    if sweep.precision == "tf32" and catalog.device.type != "cuda":
        raise UserError(f"precision tf32 is for CUDA devices, not {catalog.device}; use fp32 or bf16")
    choices = [_criterion(catalog, sweep, given) for given in sweep.criteria]
    models = [_model(catalog, given) for given in sweep.models]
    refuse_duplicates("models", models)
    data = [_data(catalog, sweep, given) for given in sweep.data]
    refuse_duplicates("data", data)
    settings = []
    for data_name in data:
        for model_name in models:
            known = catalog.inspections[data_name, model_name] = inspector(catalog, data_name, model_name)
            protocol = _protocol(catalog, sweep, data_name, known)
            share = fraction(sweep, protocol)
            batch = _score_batch(catalog.data[data_name], sweep, share)
            version = catalog.versions[model_name](catalog.data[data_name].input_shape)
            settings.append((data_name, model_name, protocol, batch, version, known.traced))
    variants = [get_variant(given) for given in sweep.variants]
    refuse_duplicates("variants", [str(variant) for variant in variants])
    for criterion, variant in itertools.product(catalog.criteria.values(), variants):
        check_ties(criterion, variant, sweep.target, sweep.repair, sweep.min_per_layer)
    catalog.variants = {str(variant): variant for variant in variants}
    catalog.trials = expand(sweep, choices, settings, list(catalog.variants))
    for trial in catalog.trials:
        check_settings(trial.identity, trial.configuration())
    return catalog


def _criterion(catalog: Catalog, sweep: Sweep, given: str | Criterion) -> Choice:
    criterion = get_criterion(given)
    if sweep.bn != "published" and criterion.uses_data:
        if criterion.bn not in (sweep.bn, type(criterion).bn):
            raise UserError(f"{criterion} and bn {sweep.bn} ask for different modes of batch norm")
        criterion = dataclasses.replace(criterion, bn=sweep.bn)
    schedule = get_schedule(criterion.schedule if sweep.schedule is None else sweep.schedule)
    name = str(criterion)
    catalog.criteria[name] = criterion
    later = later_options(type(criterion))
    options = tuple(
        (f.name, value)
        for f in dataclasses.fields(criterion)
        if later.get(f.name, MISSING) != (value := getattr(criterion, f.name))
    )
    try:
        json.dumps(options, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"criterion {name}: options must be plain values that JSON can hold ({error})") from error
    revision = criterion.revision_under(schedule)
    return Choice(name=name, options=options, revision=revision, schedule=str(schedule), scope=criterion.scope)


def later_options(cls: type[Criterion]) -> dict[str, Any]:
    """`Criterion.later` of a class and those it is made of, without what a class has an option of its own for."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        own = inspect.get_annotations(base)
        found = {name: value for name, value in found.items() if name not in own} | dict(vars(base).get("later", {}))
    return found


def _model(catalog: Catalog, given: str | Builder) -> str:
    if isinstance(given, str):
        name, builder = find_model(given)
        catalog.versions[name] = functools.partial(model_version, given)
    else:
        name, builder = getattr(given, "__name__", ""), given
        refuse_instance(given)
        if not callable(given):
            raise UserError(f"a model is a name or a function that builds one, not {type(given).__name__}")
        if not name or name == "<lambda>":
            raise UserError("a model given as a function needs a name: define it with `def`, not as a lambda")
        catalog.versions[name] = lambda _shape: files.version_of(given)
    catalog.models[name] = builder
    return name


def _data(catalog: Catalog, sweep: Sweep, given: str | DataSet) -> str:
    data = load_data(given, data_dir=sweep.data_dir) if isinstance(given, str) else given
    if not isinstance(data, DataSet):
        what = f"data is a name or a DataSet, not {type(data).__name__}"
        raise UserError(f'{what}: pai_bench.DataSet("NAME", train=(inputs, targets), test=(inputs, targets))')
    catalog.data[data.name] = data.held_out(sweep.validation) if sweep.validation else data
    return data.name


def _protocol(catalog: Catalog, sweep: Sweep, data_name: str, known: Inspection) -> Protocol:
    """The protocol of a network, of which so much is known, on a data set, if the two fit together."""
    data = catalog.data[data_name]
    protocol = get_protocol(
        sweep.protocol or ("short-adam-bn" if known.batch_norm else "short-adam"),
        epochs=sweep.epochs,
        batch_size=sweep.batch_size,
        learning_rate=sweep.learning_rate,
        weight_decay=sweep.weight_decay,
        precision=sweep.precision,
    ).scaled(sweep.budget)
    if protocol.augmentation != "none":
        check_images(data.train.inputs, data_name, protocol.augmentation)
    size = data.train_size(fraction(sweep, protocol))
    if (protocol.epochs or protocol.iterations) and protocol.batch_size > size:
        raise UserError(f"batch size {protocol.batch_size} is larger than the {size} training examples of {data_name}")
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
        got = type(logits).__name__
        if isinstance(logits, torch.Tensor):
            got = f"{tuple(logits.shape)}" + f" of {logits.dtype}" * (not logits.is_floating_point())
        raise UserError(f"model {name} gives {got} for {expected[0]} examples of {data.name}, not logits {expected}")


def _score_batch(data: DataSet, sweep: Sweep, share: float) -> int:
    size, available = sweep.score_batch or 10 * data.num_classes, data.train_size(share)
    if size * sweep.score_batches > available:
        wanted = f"score-batch {size}" if sweep.score_batches == 1 else f"score-batch {size} x {sweep.score_batches}"
        raise UserError(f"{wanted} is larger than the {available} training examples of {data.name}")
    if sweep.score_sampling.startswith("class-"):
        label = int(sweep.score_sampling.removeprefix("class-"))
        of_class = data.train.targets == label
        chosen = [data.chosen(share, stream(seed, "fraction")) for seed in sweep.each_seed]
        there = min(int((of_class if one is None else of_class[one]).sum()) for one in chosen)
        if there < size * sweep.score_batches:
            raise UserError(f"{data.name} has {there} training examples of class {label}, less than a score batch")
    return size
