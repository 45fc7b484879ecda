"""Made-up records."""

import dataclasses
import json
from typing import Any, TypeVar

import numpy as np

from pai_bench.results import (
    BesideDense,
    Cost,
    Environment,
    EpochRecord,
    Layer,
    Provenance,
    Record,
    SmallerNetwork,
    Store,
    TrialProvenance,
    UsedData,
)
from pai_bench.results.bits import pack
from pai_bench.results.stored import without_checksum
from pai_bench.support.registry import CRITERIA, PROTOCOLS
from tests.made import Choice
from tests.made import trial as made_trial

LOOKS = {plugin.name: plugin.target.figure_style for plugin in CRITERIA.plugins()}
"""Colour, marker and line of each criterion."""

T = TypeVar("T")

ENVIRONMENT = Environment(versions={"torch": "2"}, system="Linux", processor="a cpu", threads=2, device="CPU")

DATA = UsedData(label="digits (scikit-learn, 28x28)", checksum="00ff", train=1347, test=450)

PROVENANCE = TrialProvenance(
    command="pai-bench run", commit="abc", dirty=True, workers=1, lanes=1, compiled=False, data=DATA
)


def altered(one: T, **changes: Any) -> T:
    """A result with other values: of its own fields, of those of a section, or, as a dictionary, of a part of it."""
    whole: Any = one
    own: dict[str, Any] = {}
    for key, value in changes.items():
        if (held := getattr(one, key, None)) is not None and dataclasses.is_dataclass(held) and isinstance(value, dict):
            own[key] = altered(held, **value)
        elif key in (f.name for f in dataclasses.fields(whole)):
            own[key] = value
        else:
            (name,) = (f.name for f in dataclasses.fields(whole) if f.metadata and hasattr(getattr(one, f.name), key))
            own[name] = dataclasses.replace(own.get(name, getattr(one, name)), **{key: value})
    found: T = dataclasses.replace(whole, **own)
    return found


def record(criterion: str | None, sparsity: float, seed: int, accuracy: float | None, **changes: Any) -> Record:
    """A record with the given outcome."""
    choice = None if criterion is None else Choice(name=criterion, schedule=changes.pop("schedule", "one-shot"))
    protocol = changes.pop("protocol", PROTOCOLS["short"])
    keys_of_trial = {"seed": seed, "protocol": protocol, "criterion": choice, "sparsity": sparsity}
    trial = made_trial(**keys_of_trial | changes.pop("trial", {}))
    kept = changes.pop("kept", 10)
    keys: dict[str, Any] = {
        "error": "RuntimeError: oh | no" if accuracy is None else None,
        "test_accuracy": accuracy,
        "dead_layers": None if accuracy is None else ("b.weight",) * (kept == 0),
        "score_seconds": None if criterion is None else 0.25,
        "train_seconds": 2.0,
        "images_per_second": 1000.0,
        "device": "cpu",
        "layers": (Layer(name="a.weight", size=30, kept=15), Layer(name="b.weight", size=20, kept=kept)),
        "curve": (EpochRecord(epoch=1, train_loss=1.0, test_loss=1.0, test_accuracy=accuracy or 0.0),),
    }
    made = Record(
        identity=trial.identity,
        trial=trial.configuration(),
        status="failed" if accuracy is None else "done",
        environment=ENVIRONMENT,
        provenance=PROVENANCE,
    )
    return altered(made, **keys | changes)


def drawn(criterion: str | None, sparsity: float, seed: int, accuracy: float, **changes: Any) -> Record:
    """A record of a network of two layers that sees images of 4 x 4, with a mask, FLOPs and a learning curve."""
    draw = np.random.default_rng([seed, round(1e6 * sparsity), *(criterion or "").encode()])
    shapes = {"a.weight": (5, 16), "b.weight": (3, 5)}
    masks = {name: draw.random(shape) >= sparsity for name, shape in shapes.items()}
    layers = tuple(
        Layer(name=n, size=m.size, kept=int(m.sum()), effective=int(m.sum()), shape=m.shape, flops=2 * m.size)
        for n, m in masks.items()
    )
    curve = tuple(
        EpochRecord(epoch=e, train_loss=1.0, test_loss=1.0, test_accuracy=accuracy * e / 3 + 0.01 * (e == 2))
        for e in (1, 2, 3)
    )
    data = UsedData(label="digits", checksum="00ff", train=10, test=5, shape=(1, 4, 4))
    keys: dict[str, Any] = {"layers": layers, "curve": curve, "flops": 190, "achieved_sparsity": sparsity}
    keys |= {"mask": pack(masks) if criterion else None, "effective_sparsity": sparsity, "connected": True}
    keys |= {"provenance": dataclasses.replace(PROVENANCE, dirty=False, data=data)}
    return record(criterion, sparsity, seed, accuracy, **keys | changes)


def stored(path: str, records: list[Record]) -> Store:
    """A results folder with some records."""
    store = Store(path, create=True)
    for one in records:
        store.write(one)
    return store


def fields_of(text: str) -> dict[str, Any]:
    """What the file of a result holds, without its checksum, as in files of earlier versions."""
    return without_checksum(json.loads(text))


COST_TRIAL = {
    "data": "d", "model": "net", "seed": 0, "sparsity": 0.9, "train_fraction": 1.0,
    "criterion": {"name": "snip", "schedule": "one-shot", "revision": 1, "options": []},
    "scope": "global", "score_batch": 10, "score_sampling": "balanced", "protocol": {"batch_size": 4},
}  # fmt: skip


def cost(trial: dict[str, Any] | None = None, **changes: Any) -> Cost:
    """A cost with round numbers."""
    values: dict[str, Any] = {
        "trial": COST_TRIAL | (trial or {}), "weights": 1000, "cuts": 1, "batch_norm": None, "rounds": 5, "cold": False,
        "seconds": 0.3, "iqr": 0.01, "peak_bytes": 3 * 2**20, "floor_seconds": 0.2, "floor_peak_bytes": 2 * 2**20,
        "prune_rounds": 1, "prune_cold": True, "prune_seconds": 0.6, "prune_iqr": 0.0, "prune_peak_bytes": None,
        "step_seconds": 0.1, "device": "cpu", "environment": ENVIRONMENT, "provenance": Provenance(commit="abc"),
        "precision": "fp32", "memory_format": "contiguous",
    }  # fmt: skip
    return Cost(**values | changes)


def smaller_network(rounds: int = 5) -> SmallerNetwork:
    """What takes one second, and two seconds with the dense network; half of everything is left."""
    one = BesideDense(rounds=rounds, cold=False, seconds=1.0, iqr=0.0, dense_seconds=2.0, dense_iqr=0.0)
    works = dict.fromkeys(("forward_1", "forward_128", "training_step"), one)
    return SmallerNetwork(node_sparsity=0.5, weight_sparsity=0.5, flop_sparsity=0.5, **works)
