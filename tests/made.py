"""Trials with names of criteria and networks that do not exist, for tests of records and reports."""

from dataclasses import dataclass
from typing import Any

from pai_bench.experiment.sources import DataSource, ModelSource
from pai_bench.experiment.trial import Trial
from pai_bench.masks import OneShot, Schedule
from pai_bench.support.registry import CRITERIA, PROTOCOLS

LATER = ("gmp", "imp", "rigl", "set")
"""Methods that prune during training."""

UNSTRUCTURED = [p.name for p in CRITERIA.plugins() if not (p.target.structured or p.name in LATER)]
"""Criteria of single weights that prune before training alone."""

COMBINED = [plugin.name for plugin in CRITERIA.plugins() if plugin.target.combined]
"""Criteria of groups and single weights."""

STRUCTURED = [p.name for p in CRITERIA.plugins() if p.target.structured and not p.target.combined]
"""Criteria of groups alone."""

SMALLEST = {
    *("alexnet-s", "conv-6", "gru-s", "lenet-300-100", "lenet-5-caffe", "lstm-s", "mlp-5", "resnet-20", "vgg-11-bn"),
    *("resnet-20-identity", "snip-it-lenet-5", "snip-it-mlp-5", "vit-small"),
}
"""Of each family of networks the smallest."""


@dataclass(frozen=True)
class Named:
    """Replaces an object of which only the name is used."""

    name: str
    quota: "Choice | None" = None
    redraws: bool = False

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Choice:
    """Replaces a criterion under a schedule: the values of them that a record holds."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()
    revision: int = 1
    schedule: str = "one-shot"
    scope: str = "global"
    renamed: tuple[str, str] | None = None
    text: str = ""
    """The name with options."""

    def __str__(self) -> str:
        return self.text or self.name

    def configuration(self, _schedule: Schedule) -> dict[str, Any]:
        """Like that of a criterion."""
        options = [list(option) for option in self.options]
        return {"name": str(self), "options": options, "revision": self.revision, "schedule": self.schedule}


def network(name: str, version: int = 1, traced: tuple[str, ...] = ()) -> ModelSource:
    """The source of a network that is never built."""
    return ModelSource(name, name, version, traced)


def data(name: str) -> DataSource:
    """The source of a data set that is never read."""
    return DataSource(name, name)


def trial(**keys: Any) -> Trial:
    """A trial. Data, model and variant may be names; ``model_version`` and ``traced`` belong to the model."""
    usual: dict[str, Any] = {"data": "digits", "model": "net", "seed": 0, "protocol": PROTOCOLS["short"]}
    keys = {**usual, "schedule": OneShot(), "score_batch": 100, **keys}
    if isinstance(keys["data"], str):
        keys["data"] = data(keys["data"])
    if isinstance(keys["model"], str):
        keys["model"] = network(keys["model"], keys.pop("model_version", 1), tuple(keys.pop("traced", ())))
    if isinstance(keys.get("variant"), str):
        keys["variant"] = Named(keys["variant"])
    return Trial(**keys)
