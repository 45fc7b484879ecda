"""What is kept of a trial. Plain values, which validate when read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pai_bench.experiment.settings import ScoringSettings, TrainingSettings, completed, names, words
from pai_bench.results.configurations import structure_of
from pai_bench.results.origin import Environment, TrialProvenance
from pai_bench.results.sections import Evaluation, Pruning, Training
from pai_bench.results.stored import IF_ANY, SCHEMA, SECTION, Stored
from pai_bench.results.values import require, validated
from pai_bench.support.networks import name_of
from pai_bench.training.protocol import Protocol

Status = Literal["done", "failed", "disconnected"]


KEYS = (
    *("identity", "trial", "status", "error", "traceback", "test_accuracy", "test_loss"),
    *("achieved_sparsity", "effective_sparsity", "node_sparsity", "weight_sparsity", "flop_sparsity", "fixed"),
    *("connected", "dead_layers", "first_cut", "severed_shortcuts"),
    *("score_seconds", "score_peak_bytes", "train_seconds", "images_per_second", "epochs", "device", "batch_norm"),
    *("training_flops", "trainings", "total_training_flops", "total_train_seconds"),
    *("events", "event_steps", "event_seconds"),
    *("chance_loss", "chance_accuracy", "flops", "not_prunable", "not_scored", "mask", "layers", "curve"),
    *("environment", "provenance", "schema"),
)
"""The keys of the file, in order."""

COLUMNS = (
    *("status", "test_accuracy", "test_loss", "achieved_sparsity", "effective_sparsity", "connected", "dead_layers"),
    *("score_seconds", "score_peak_bytes", "train_seconds", "images_per_second", "epochs", "device", "error"),
)
"""Columns of `read_results`, behind what names the trial."""


@dataclass(frozen=True, kw_only=True)
class Record(Stored):
    """What one trial produced. Accuracies are shares in [0, 1], times are seconds, memory is bytes.

    `trial` is the resolved configuration (`Trial.configuration`) as it is stored, `environment` where it ran, and
    `provenance` what else is needed to believe it: the data's checksum, the command, the commit. What was not computed
    is None.
    """

    folder = "trials"
    UNLIMITED: ClassVar[tuple[str, ...]] = ("trial",)
    """What `pai_bench.results.configurations` has looked at."""

    identity: str
    trial: Mapping[str, Any]
    status: Status
    error: str | None = None
    traceback: str | None = field(default=None, metadata=IF_ANY)
    """How a failed trial came to its error."""
    device: str | None = None
    pruning: Pruning = field(default_factory=Pruning, metadata=SECTION)
    training: Training = field(default_factory=Training, metadata=SECTION)
    evaluation: Evaluation = field(default_factory=Evaluation, metadata=SECTION)
    environment: Environment
    provenance: TrialProvenance
    schema: int = SCHEMA

    added: ClassVar[Mapping[str, Any]] = {"provenance.workers": 1, "provenance.lanes": 1, "provenance.compiled": False}

    @property
    def settings(self) -> Mapping[str, Any]:
        """The resolved configuration."""
        return self.trial

    def check_name(self, name: str) -> None:
        """Raise ValueError if a file of that name is of another trial."""
        if self.identity != name:
            raise ValueError(f"it holds the record of {self.identity}")
        super().check_name(name)

    def check(self) -> None:
        """Raise an error of some type if fields, each of its type, do not fit each other."""
        validated(self.trial, structure_of(self.trial))
        layers = self.pruning.layers
        require(
            self.status == "failed" or self.evaluation.test_accuracy is not None,
            all(n <= layer.size for layer in layers for n in (layer.kept, layer.effective or 0)),
            all(not layer.shape or layer.fits_shape() for layer in layers),
        )
        self.row()

    def content(self) -> dict[str, Any]:
        """The fields that are in the file."""
        flat = super().content()
        return {key: flat[key] for key in KEYS if key in flat}

    @property
    def classes(self) -> int | None:
        """Number of classes; of records that do not say it, the outputs of the last layer, where its shape is known."""
        if self.provenance.data.classes is not None:
            return self.provenance.data.classes
        shape = self.pruning.layers[-1].shape if self.pruning.layers else ()
        return shape[0] if shape else None

    def row(self) -> dict[str, Any]:
        """The record as one row of `read_results`."""
        trial, criterion = completed(self.trial), self.trial["criterion"]
        scoring = {name: trial[name] if criterion else None for name in words(ScoringSettings)}
        data, pruning, curve, evaluation = self.provenance.data, self.pruning, self.training.curve, self.evaluation
        head = {
            "data": trial["data"],
            "model": name_of(trial["model"], trial["model_version"], data.shape),
            "criterion": criterion["name"] if criterion else "dense",
            "variant": trial["variant"],
            "sparsity": trial["sparsity"],
            "seed": trial["seed"],
        }
        values = vars(self) | vars(pruning) | vars(self.training) | vars(evaluation)
        metrics = {name: values[name] for name in COLUMNS}
        tail = {
            "schedule": criterion["schedule"] if criterion else None,
            **scoring,
            "prunable": pruned(trial) if criterion else None,
            "revision": criterion["revision"] if criterion else None,
            **{name: trial[name] for name in names(TrainingSettings) if name != "train_fraction"},
            "first_cut": pruning.first_cut,
            "batch_norm": pruning.batch_norm,
            "parameters": sum(layer.size for layer in pruning.layers) or None,
            "parameters_kept": sum(layer.kept for layer in pruning.layers) if pruning.layers else None,
            "parameters_not_prunable": pruning.not_prunable,
            "not_scored": ", ".join(pruning.not_scored),
            "flops": pruning.flops,
            "flops_kept": pruning.flops_kept,
            "node_sparsity": pruning.node_sparsity,
            "weight_sparsity": pruning.weight_sparsity,
            "flop_sparsity": pruning.flop_sparsity,
            "training_flops": self.training.training_flops,
            "trainings": self.training.trainings,
            "total_training_flops": self.training.total_training_flops,
            "total_train_seconds": self.training.total_train_seconds,
            "events": self.training.events,
            "event_seconds": self.training.event_seconds,
            "train_loss": curve[-1].train_loss if curve else None,
            "chance_loss": evaluation.chance_loss,
            "chance_accuracy": evaluation.chance_accuracy,
            "classes": self.classes,
            "test_examples": data.test,
            "best_accuracy": max((epoch.test_accuracy for epoch in curve), default=evaluation.test_accuracy),
            "train_fraction": trial["train_fraction"],
            "protocol": (protocol := Protocol.of(trial["protocol"])).describe(),
            "batch_size": protocol.batch_size,
            "identity": self.identity,
        }
        return head | metrics | tail | dict(evaluation.metrics)


def pruned(trial: Mapping[str, Any]) -> str:
    """Which parameters a trial prunes, in a few words; ``usual`` for the weights of the usual layers."""
    patterns, further = trial["prunable"], len(trial["traced"])
    parts = [f"only {patterns}"] if patterns else [f"with {further} further weights"] if further else []
    kept = [place for place in ("first", "last") if trial[f"keep_{place}"]]
    parts += [f"without the {' and the '.join(kept)} layer"] if kept else []
    return ", ".join(parts) or "usual"
