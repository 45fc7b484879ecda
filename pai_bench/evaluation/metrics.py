"""Metrics of a trained network, at the end of its training or long after.

A metric is called with a network and a data set on one device and returns a float, or named ones, or `Values` with
notes. It is a function, or a frozen dataclass whose fields are its options, registered by
`pai_bench.support.registry.metric`, and written as ``NAME[:OPTION=VALUE]...``. One whose attribute ``needs_dense`` is
true takes a third argument, the `Dense` network of the same seed, or None.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from torch import nn

from pai_bench.data import DataSet, Split
from pai_bench.results import Measured, Store, TrialMetrics
from pai_bench.support import spec
from pai_bench.support.environment import commit, describe
from pai_bench.support.errors import UserError, unknown
from pai_bench.support.failures import described
from pai_bench.support.precision import arithmetic
from pai_bench.support.randomness import random_state
from pai_bench.support.registry import METRICS, metric
from pai_bench.training.evaluation import evaluate_lanes
from pai_bench.training.trainable_groups import SingleModel


@dataclass(frozen=True)
class Values:
    """What a metric gives: floats by name, the main one by the name ``""``, and notes in words."""

    floats: Mapping[str, float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Dense:
    """The dense network of the same seed, in eval mode, and what metrics keep of it for the next network."""

    model: nn.Module
    kept: dict[Any, Any] = field(default_factory=dict)
    identity: str | None = None
    """Of its trial."""


Metric = Callable[..., float | Mapping[str, float] | Values]
"""A function of a network in eval mode and of a data set whose training examples are those it was trained on."""


def get_metric(text: str) -> tuple[str, Metric]:
    """The metric called ``NAME[:OPTION=VALUE]...``, and its name with the options that are not the defaults."""
    name, options = spec.parse(text)
    name = name if name in METRICS else name.replace("_", "-")
    if (target := METRICS.get(name)) is None:
        raise unknown("metric", name, METRICS)
    if isinstance(target, type):
        built: Metric = spec.build(target, options, name)
        return spec.write(name, built), built
    if options:
        raise UserError(f"metric {name} has no options: {', '.join(options)}")
    function: Metric = target
    return name, function


def needs_dense(metric: Metric) -> bool:
    """Whether a metric is held against the dense network of the same seed."""
    return getattr(metric, "needs_dense", False)


def version_of(name: str) -> int | None:
    """The version of a metric, written with its options; a stored value of another one is computed again.

    None for the first one.
    """
    version = METRICS.find(spec.parse(name)[0])[0].version
    return version if isinstance(version, int) and version > 1 else None


def missing_metrics(store: Store, identity: str, metrics: Iterable[str]) -> list[str]:
    """Those of some metrics, written with their options, that are not stored of a trial in their present version.

    A damaged file is set aside.
    """
    found = store.read_to_extend(identity)
    stored = {} if found is None else {name: one.version for name, one in found.metrics.items()}
    return [name for name in metrics if name not in stored or stored[name] != version_of(name)]


def check_metric(name: str, metric: Metric, data: DataSet) -> None:
    """Raise UserError if a metric says, by a method ``check``, that it cannot be taken on a data set."""
    try:
        getattr(metric, "check", lambda _data: None)(data)
    except UserError as error:
        raise UserError(f"metric {name}: {error}") from error


def loss_and_accuracy(model: nn.Module, data: DataSet, split: Split) -> tuple[float, float]:
    """Cross-entropy and accuracy (in [0, 1]) of `model` on `split` of `data`, in eval mode, in single precision."""
    with arithmetic("fp32", data.device):
        (result,) = evaluate_lanes(SingleModel(model), split, data.normalised, by_lane=False)
    return result


@metric("accuracy", source="share of the test set, in [0, 1]")
def accuracy(model: nn.Module, data: DataSet) -> float:
    """Share of the test examples whose class has the largest logit."""
    return loss_and_accuracy(model, data, data.test)[1]


@metric("loss", source="mean over the test set, in nats")
def loss(model: nn.Module, data: DataSet) -> float:
    """Mean cross-entropy on the test examples."""
    return loss_and_accuracy(model, data, data.test)[0]


@metric("gap", source="training minus test")
def gap(model: nn.Module, data: DataSet) -> Mapping[str, float]:
    """Accuracy on the training examples in use minus that on the test set, and the same of the loss."""
    trained, tested = (loss_and_accuracy(model, data, split) for split in (data.train, data.test))
    return {"accuracy": trained[1] - tested[1], "loss": trained[0] - tested[0]}


@metric("memorisation", source="shares of examples, in [0, 1]")
@dataclass(frozen=True)
class Memorisation:
    """Accuracies of a network that was trained on random labels.

    ``train``: on the labels that it was trained on, of all training examples; ``noisy``: of those whose label was drawn
    anew; ``true``: of these, on their true labels; ``test``: on the test set. UserError if no label was drawn anew.
    """

    def check(self, data: DataSet) -> None:
        """Raise UserError for data whose labels are all true."""
        if data.noise is None or not data.noise.drawn.any():
            raise UserError(
                "the network was trained on true labels, of which nothing is to be memorised: give label-noise"
            )

    def __call__(self, model: nn.Module, data: DataSet) -> Mapping[str, float]:
        self.check(data)
        assert data.noise is not None
        drawn = data.noise.drawn
        noisy = data.train.at(drawn.nonzero().flatten())
        true = Split(noisy.inputs, data.noise.true_targets[drawn])
        splits = {"train": data.train, "noisy": noisy, "true": true, "test": data.test}
        return {name: loss_and_accuracy(model, data, split)[1] for name, split in splits.items()}


def measure(
    model: nn.Module, data: DataSet, metrics: Iterable[str], dense: Dense | None = None
) -> dict[str, dict[str, float]]:
    """What each of the `metrics` gives of `model`, by its name: named floats, or one by the name ``""``.

    `dense` is the dense network of the same seed, for metrics that are held against it. `data`, on the device of
    `model`, has the training examples and labels that the network was trained on. The modes of the modules and all
    random states are afterwards what they were; random numbers are the same every time.
    """
    return {name: dict(values.floats) for name, values in measured_values(model, data, metrics, dense).items()}


def measured_values(
    model: nn.Module, data: DataSet, metrics: Iterable[str], dense: Dense | None = None
) -> dict[str, Values]:
    """As `measure`, with the notes of each metric."""
    measured: dict[str, Values] = {}
    modes = [(module, module.training) for module in model.modules()]
    for name, function in map(get_metric, metrics):
        further = (dense,) if needs_dense(function) else ()
        try:
            with random_state(0):
                result = function(model.eval(), data, *further)
        except UserError as error:
            raise UserError(f"metric {name}: {error}") from error
        except Exception as error:
            raise UserError(f"metric {name} raises {described(error)}") from error
        finally:
            for module, mode in modes:
                module.training = mode
        measured[name] = as_values(result, name)
    return measured


def as_values(result: Any, name: str) -> Values:
    """What a metric has returned, checked."""
    floats, notes = (result.floats, result.notes) if isinstance(result, Values) else (result, ())
    try:
        named = floats if isinstance(floats, Mapping) else {"": floats}
        return Values({str(key): float(value) for key, value in named.items()}, tuple(map(str, notes)))
    except (TypeError, ValueError) as error:
        raise UserError(f"metric {name} must return a float, or floats by name, not {result!r}") from error


def evaluate_network(
    store: Store,
    identity: str,
    model: nn.Module,
    data: DataSet,
    metrics: Iterable[str],
    dense: Dense | None = None,
) -> TrialMetrics:
    """Evaluate the network of a stored trial, as `measure` does, and store what comes out beside the trial's record.

    What is stored of other metrics stays.
    """
    columns = store.get(identity).row().keys()
    revision, dirty = commit()
    provenance = {"commit": revision, "dirty": dirty, "finished": datetime.now(UTC).isoformat()}
    environment, results = describe(data.device), measured_values(model, data, metrics, dense)
    names = {f"{name}.{key}" if key else name for name, values in results.items() for key in values.floats}
    if clash := columns & names:
        raise UserError(f"metric {min(clash)} has the name of a column of the results; give it another")
    stored = store.read_to_extend(identity)
    all_metrics = dict(stored.metrics) if stored else {}
    for name, values in results.items():
        held_against = dense.identity if dense and needs_dense(get_metric(name)[1]) else None
        all_metrics[name] = Measured(
            values=values.floats,
            notes=values.notes,
            environment=environment,
            provenance=provenance,
            dense=held_against,
            version=version_of(name),
        )
    evaluation = TrialMetrics(identity=identity, metrics=all_metrics)
    store.write(evaluation)
    return evaluation
