"""What is kept of a trial. Plain values, which validate when read."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

from pai_bench.experiment.settings import ScoringSettings, TrainingSettings, completed, names, words
from pai_bench.networks import name_of
from pai_bench.store.configurations import kind_of
from pai_bench.store.origin import Environment, TrialProvenance
from pai_bench.store.stored import SCHEMA, Stored
from pai_bench.store.upgrades import RECORD
from pai_bench.store.values import Amount, Count, Number, PositiveCount, Share, validated
from pai_bench.training.protocol import Protocol

Status = Literal["done", "failed", "disconnected"]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One prunable parameter under the mask."""

    name: str
    size: PositiveCount
    kept: Count
    effective: Count | None = None
    """Connections that are kept and lie on a path from an input to an output."""
    shape: tuple[int, ...] = ()
    flops: int | None = None
    """Floating-point operations that the dense network does with this weight, for one example."""

    def fits_shape(self) -> bool:
        """Whether it has the size of its shape, which earlier records do not say."""
        return min(self.shape, default=1) > 0 and math.prod(self.shape) == self.size


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One point of the learning curve."""

    epoch: int
    train_loss: Number | None
    test_loss: Number | None
    test_accuracy: Share


@dataclass(frozen=True, kw_only=True)
class Record(Stored):
    """What one trial produced. Accuracies are shares in [0, 1], times are seconds, memory is bytes.

    `trial` is the resolved configuration (`Trial.configuration`), `environment` where it ran, and `provenance` what
    else is needed to believe it: the data's checksum, the command, the commit. What was not computed is None.
    """

    identity: str
    trial: Mapping[str, Any]
    status: Status
    error: str | None = None
    traceback: str | None = None
    """How a failed trial came to its error; not in the file where there is none."""
    test_accuracy: Share | None = None
    test_loss: Number | None = None
    achieved_sparsity: Share | None = None
    effective_sparsity: Share | None = None
    connected: bool | None = None
    dead_layers: tuple[str, ...] | None = None
    first_cut: str | None = None
    severed_shortcuts: tuple[str, ...] = ()
    score_seconds: Amount | None = None
    score_peak_bytes: Count | None = None
    train_seconds: Amount | None = None
    images_per_second: Amount | None = None
    epochs: Count | None = None
    device: str | None = None
    batch_norm: str | None = None
    chance_loss: Amount | None = None
    """Entropy in nats of the training labels in use: the least loss of a network that does not look at its inputs."""
    chance_accuracy: Share | None = None
    """Share of the most frequent class in the test set."""
    flops: Count | None = None
    """Floating-point operations of the dense network's forward pass of one example."""
    not_prunable: Count | None = None
    """Elements of the network's other parameters, which no mask removes: biases, scales, embeddings, kept layers."""
    not_scored: tuple[str, ...] = ()
    """Parameters from which the network may compute weights, and which no criterion was asked about."""
    mask: str | None = None
    """What is kept, as `pai_bench.store.bits` writes it, so that masks can be compared."""
    layers: tuple[Layer, ...] = ()
    curve: tuple[EpochRecord, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA
    whole_mask: bytes | None = field(default=None, repr=False, compare=False)
    """Content of the file beside the record, not of it, that has the whole mask where `mask` is a sample."""

    later = RECORD

    @property
    def settings(self) -> Mapping[str, Any]:
        """The resolved configuration."""
        return self.trial

    def check_name(self, name: str) -> None:
        """Raise ValueError if a file of that name is of another trial."""
        if self.identity != name:
            raise ValueError(f"it holds the record of {self.identity}")
        super().check_name(name)

    @classmethod
    def of(cls, raw: dict[str, Any]) -> Self:
        """A record with the content of a file."""
        if not isinstance(raw.get("trial"), dict):
            raise ValueError("not a record")
        raw.pop("whole_mask", None)
        return super().of(raw)

    def check(self) -> None:
        """Raise an error of some kind if a field that the report needs is not there or not of its type."""
        validated(self.trial, kind_of(self.trial))
        validated(self.environment, Environment)
        validated(self.provenance, TrialProvenance)
        ok = [
            self.status == "failed" or self.test_accuracy is not None,
            all(n <= layer.size for layer in self.layers for n in (layer.kept, layer.effective or 0)),
            all(not layer.shape or layer.fits_shape() for layer in self.layers),
        ]
        if not all(ok):
            raise ValueError("a field has an impossible value")
        self.row()

    def content(self) -> dict[str, Any]:
        """The fields that are in the file."""
        found = asdict(replace(self, whole_mask=None))
        del found["whole_mask"]
        if self.traceback is None:
            del found["traceback"]
        return found

    @property
    def flops_kept(self) -> float | None:
        """Floating-point operations that are left if products with removed weights are not made."""
        if self.flops is None or any(layer.flops is None for layer in self.layers):
            return None
        return self.flops - sum((layer.flops or 0) * (1 - layer.kept / layer.size) for layer in self.layers)

    @property
    def classes(self) -> int | None:
        """Number of classes; of records that do not say it, the outputs of the last layer, where its shape is known."""
        shape = self.layers[-1].shape if self.layers else ()
        found: int | None = self.provenance["data"].get("classes", shape[0] if shape else None)
        return found

    def row(self) -> dict[str, Any]:
        """The record as one row of `read_results`."""
        trial, criterion = completed(self.trial), self.trial["criterion"]
        scoring = {name: trial[name] if criterion else None for name in words(ScoringSettings)}
        head = {
            "data": trial["data"],
            "model": name_of(trial["model"], trial["model_version"], self.provenance["data"].get("shape")),
            "criterion": criterion["name"] if criterion else "dense",
            "variant": trial["variant"],
            "sparsity": trial["sparsity"],
            "seed": trial["seed"],
        }
        metrics = {name: getattr(self, name) for name in COLUMNS}
        tail = {
            "schedule": criterion["schedule"] if criterion else None,
            **scoring,
            "prunable": pruned(trial) if criterion else None,
            "revision": criterion["revision"] if criterion else None,
            **{name: trial[name] for name in names(TrainingSettings) if name != "train_fraction"},
            "first_cut": self.first_cut,
            "batch_norm": self.batch_norm,
            "parameters": sum(layer.size for layer in self.layers) or None,
            "parameters_kept": sum(layer.kept for layer in self.layers) if self.layers else None,
            "parameters_not_prunable": self.not_prunable,
            "not_scored": ", ".join(self.not_scored),
            "flops": self.flops,
            "flops_kept": self.flops_kept,
            "train_loss": self.curve[-1].train_loss if self.curve else None,
            "chance_loss": self.chance_loss,
            "chance_accuracy": self.chance_accuracy,
            "classes": self.classes,
            "test_examples": self.provenance["data"]["test"],
            "best_accuracy": max((epoch.test_accuracy for epoch in self.curve), default=self.test_accuracy),
            "train_fraction": trial["train_fraction"],
            "protocol": (protocol := Protocol.of(trial["protocol"])).describe(),
            "batch_size": protocol.batch_size,
            "identity": self.identity,
        }
        return head | metrics | tail


def pruned(trial: Mapping[str, Any]) -> str:
    """Which parameters a trial prunes, in a few words; ``usual`` for the weights of the usual layers."""
    patterns, further = trial["prunable"], len(trial["traced"])
    parts = [f"only {patterns}"] if patterns else [f"with {further} further weights"] if further else []
    kept = [place for place in ("first", "last") if trial[f"keep_{place}"]]
    parts += [f"without the {' and the '.join(kept)} layer"] if kept else []
    return ", ".join(parts) or "usual"


# columns of the results, behind what names the trial
COLUMNS = (
    "status",
    "test_accuracy",
    "test_loss",
    "achieved_sparsity",
    "effective_sparsity",
    "connected",
    "dead_layers",
    "score_seconds",
    "score_peak_bytes",
    "train_seconds",
    "images_per_second",
    "epochs",
    "device",
    "error",
)
