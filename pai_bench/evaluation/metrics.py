"""Metrics of a trained network.

A metric is called with a network and a data set on one device and returns a float, or named ones. It is a function, or
a frozen dataclass whose fields are its options, registered by `pai_bench.support.registry.metric`, and written as
``NAME[:OPTION=VALUE]...``.
"""

from collections.abc import Callable, Mapping

from torch import nn

from pai_bench.data import DataSet, Split
from pai_bench.support import spec
from pai_bench.support.errors import UserError, unknown
from pai_bench.support.precision import arithmetic
from pai_bench.support.registry import METRICS, metric
from pai_bench.training.trainable_groups import SingleModel
from pai_bench.training.trainer import evaluate_lanes

Metric = Callable[[nn.Module, DataSet], float | Mapping[str, float]]
"""A function of a network in eval mode and of a data set whose training examples are those it was trained on."""


def get_metric(text: str) -> tuple[str, Metric]:
    """The metric called ``NAME[:OPTION=VALUE]...``, and its name with the options that are not the defaults."""
    name, options = spec.parse(text)
    name = name.replace("_", "-")
    if (target := METRICS.get(name)) is None:
        raise unknown("metric", name, METRICS)
    if isinstance(target, type):
        made: Metric = spec.build(target, options, name)
        return spec.write(name, made), made
    if options:
        raise UserError(f"metric {name} has no options: {', '.join(options)}")
    function: Metric = target
    return name, function


def loss_and_accuracy(model: nn.Module, data: DataSet, split: Split) -> tuple[float, float]:
    """Cross-entropy and accuracy (in [0, 1]) of `model` on `split` of `data`, in eval mode, in single precision."""
    with arithmetic("fp32", data.device):
        (found,) = evaluate_lanes(SingleModel(model), split, data.normalised, by_lane=False)
    return found


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
