"""Metrics of one network, now or long after its training."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from torch import nn

from pai_bench.data import DataSet
from pai_bench.evaluation.metrics import get_metric
from pai_bench.results import Measured, Store, TrialMetrics
from pai_bench.support.environment import commit, describe
from pai_bench.support.errors import UserError
from pai_bench.support.failures import described
from pai_bench.support.randomness import random_state


def measure(model: nn.Module, data: DataSet, metrics: Iterable[str]) -> dict[str, dict[str, float]]:
    """What each of the `metrics` gives of `model`, by its name: named floats, or one by the name ``""``.

    `data`, on the device of `model`, has the training examples and labels that the network was trained on. The modes of
    the modules and all random states are afterwards what they were; random numbers are the same every time.
    """
    found: dict[str, dict[str, float]] = {}
    modes = [(module, module.training) for module in model.modules()]
    for name, metric in map(get_metric, metrics):
        try:
            with random_state(0):
                result = metric(model.eval(), data)
        except Exception as error:
            raise UserError(f"metric {name} raises {described(error)}") from error
        finally:
            for module, mode in modes:
                module.training = mode
        named = result if isinstance(result, Mapping) else {"": result}
        try:
            found[name] = {str(key): float(value) for key, value in named.items()}
        except (TypeError, ValueError) as error:
            raise UserError(f"metric {name} must return a float, or floats by name, not {result!r}") from error
    return found


def evaluate_network(
    store: Store, identity: str, model: nn.Module, data: DataSet, metrics: Iterable[str]
) -> TrialMetrics:
    """Evaluate the network of a stored trial, as `measure` does, and store what comes out beside the trial's record.

    What is stored of other metrics stays.
    """
    taken = store.get(identity).row().keys()
    revision, dirty = commit()
    made = {
        "environment": describe(data.device),
        "provenance": {"commit": revision, "dirty": dirty, "finished": datetime.now(UTC).isoformat()},
    }
    found = {name: Measured(values=values, **made) for name, values in measure(model, data, metrics).items()}
    known = store.read_evaluation(identity)
    if clash := taken & {f"{name}.{key}" if key else name for name, one in found.items() for key in one.values}:
        raise UserError(f"metric {min(clash)} has the name of a column of the results; give it another")
    evaluation = TrialMetrics(identity=identity, metrics={**(known.metrics if known else {}), **found})
    store.write_evaluation(evaluation)
    return evaluation
