"""What is kept of a trial, of a cost, and of where a network falls apart. Plain values, which validate when read."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import Any, Literal

from pai_bench.errors import UserError
from pai_bench.identity import identify
from pai_bench.networks import name_of
from pai_bench.store.shape import Environment, Named, OfTrial, Origin, Scored, Trained, fits
from pai_bench.training.protocol import Protocol

SCHEMA = 1
"""Version of the record's form; a reader refuses what is newer than itself."""

Status = Literal["done", "failed", "disconnected"]


MALFORMED = (KeyError, TypeError, AttributeError, IndexError, ArithmeticError, RecursionError)
"""What reading a damaged file may raise, besides ValueError."""


class NewerSchemaError(UserError):
    """A record that a later version of pai-bench wrote."""


def refuse_constant(text: str) -> None:
    """An error about NaN or an infinity, which no record holds."""
    raise ValueError(f"{text} is no number that a record holds")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One prunable parameter under the mask."""

    name: str
    size: int
    kept: int
    effective: int | None = None
    """Connections that are kept and lie on a path from an input to an output."""
    shape: tuple[int, ...] = ()
    flops: int | None = None
    """Floating-point operations that the dense network does with this weight, for one example."""


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One point of the learning curve."""

    epoch: int
    train_loss: float | None
    test_loss: float | None
    test_accuracy: float


@dataclass(frozen=True, kw_only=True)
class Record:
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
    test_accuracy: float | None = None
    test_loss: float | None = None
    achieved_sparsity: float | None = None
    effective_sparsity: float | None = None
    connected: bool | None = None
    dead_layers: tuple[str, ...] | None = None
    first_cut: str | None = None
    severed_shortcuts: tuple[str, ...] = ()
    score_seconds: float | None = None
    score_peak_bytes: int | None = None
    train_seconds: float | None = None
    images_per_second: float | None = None
    epochs: int | None = None
    device: str | None = None
    batch_norm: str | None = None
    chance_loss: float | None = None
    """Entropy in nats of the training labels in use: the least loss of a network that does not look at its inputs."""
    chance_accuracy: float | None = None
    """Share of the most frequent class in the test set."""
    flops: int | None = None
    """Floating-point operations of the dense network's forward pass of one example."""
    not_prunable: int | None = None
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

    @classmethod
    def from_json(cls, text: str) -> "Record":
        """A record from the text of its file, or ValueError."""
        try:
            raw = json.loads(text, parse_constant=refuse_constant)
            if not isinstance(raw, dict) or not isinstance(raw.get("trial"), dict):
                raise ValueError("not a record")
            if raw.get("schema", 0) > SCHEMA:
                raise NewerSchemaError(f"schema {raw['schema']} is newer than this version reads ({SCHEMA})")
            raw["layers"] = tuple(Layer(**layer | {"shape": tuple(layer.get("shape", ()))}) for layer in raw["layers"])
            raw["curve"] = tuple(EpochRecord(**epoch) for epoch in raw["curve"])
            raw["dead_layers"] = None if raw["dead_layers"] is None else tuple(raw["dead_layers"])
            raw["severed_shortcuts"] = tuple(raw.get("severed_shortcuts", ()))
            raw["not_scored"] = tuple(raw.get("not_scored", ()))
            record = cls(**{f.name: raw[f.name] for f in fields(cls) if f.name in raw and f.name != "whole_mask"})
            record.check()
        except MALFORMED as error:
            raise ValueError(f"a field is missing or malformed: {error!r}") from error
        return record

    def check(self) -> None:
        """Raise an error of some kind if a field that the report needs is not there or not of its type."""
        trial, scored, data = self.trial, self.trial["criterion"] is not None, self.provenance["data"]
        forms = [(self, Record), (trial, Trained), (trial, Scored if scored else Named)]
        forms += [(self.environment, Environment), (self.provenance, OfTrial)]
        shares = [self.test_accuracy, self.achieved_sparsity, self.effective_sparsity, trial["sparsity"]]
        shares += [
            self.chance_accuracy,
            trial.get("label_noise"),
            trial.get("validation"),
            trial["train_fraction"],
            *(epoch.test_accuracy for epoch in self.curve),
        ]
        amounts = [data["train"], data["test"], trial["seed"], self.environment["threads"], self.score_seconds]
        amounts += [self.score_peak_bytes, self.train_seconds, self.images_per_second, self.epochs, self.flops]
        amounts += [self.not_prunable]
        amounts += [self.chance_loss, data.get("classes")]
        ok = [
            *(fits(value, form) for value, form in forms),
            trial["sparsity"] < 1 if scored else trial["sparsity"] == 0,
            all(side > 0 for side in data.get("shape", ())),
            self.status == "failed" or self.test_accuracy is not None,
            bool(self.environment["versions"]),
            not scored or (trial["score_batch"] > 0 and trial["criterion"]["name"] != "dense"),
            all(share is None or 0 <= share <= 1 for share in shares),
            all(amount is None or amount >= 0 for amount in amounts),
            all(0 <= n <= layer.size > 0 for layer in self.layers for n in (layer.kept, layer.effective or 0)),
        ]
        if not all(ok):
            raise ValueError("a field has an impossible value")
        self.row()

    def to_json(self) -> str:
        """The text of the record's file."""
        found = asdict(replace(self, whole_mask=None))
        del found["whole_mask"]
        if self.traceback is None:
            del found["traceback"]
        return json.dumps(found, indent=1, allow_nan=False) + "\n"

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
        trial, criterion = self.trial, self.trial["criterion"]
        head = {
            "data": trial["data"],
            "model": name_of(trial["model"], trial.get("model_version", 1), self.provenance["data"].get("shape")),
            "criterion": criterion["name"] if criterion else "dense",
            "variant": trial.get("variant", "none") if criterion else "none",
            "sparsity": trial["sparsity"],
            "seed": trial["seed"],
        }
        metrics = {name: getattr(self, name) for name in COLUMNS}
        tail = {
            "schedule": criterion["schedule"] if criterion else None,
            "scope": trial.get("scope") if criterion else None,
            "score_batch": trial.get("score_batch") if criterion else None,
            "score_sampling": trial.get("score_sampling") if criterion else None,
            "score_batches": trial.get("score_batches", 1) if criterion else None,
            "target": trial.get("target", "direct") if criterion else None,
            "min_per_layer": trial.get("min_per_layer", 0) if criterion else None,
            "repair": trial.get("repair", "none") if criterion else None,
            "prunable": pruned(trial) if criterion else None,
            "revision": criterion["revision"] if criterion else None,
            "init": trial.get("init", "own"),
            "label_noise": trial.get("label_noise", 0.0),
            "validation": trial.get("validation", 0.0),
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
    patterns, further = trial.get("prunable"), len(trial.get("traced", ()))
    parts = [f"only {patterns}"] if patterns else [f"with {further} further weights"] if further else []
    kept = [place for place in ("first", "last") if trial.get(f"keep_{place}")]
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


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one criterion cost on one network and device. Times are median seconds, memory is bytes beyond the network.

    ``seconds`` is of one score, ``prune_seconds`` of a whole pruning in ``cuts`` cuts, ``floor_seconds`` of one bare
    forward and backward pass on the same batch, and ``step_seconds`` of one training step. What was ``cold`` had no
    warm-up. Score and bare pass were computed in ``precision``, the weights laid out in ``memory_format``. `trial` is
    the configuration that all of it belongs to.
    """

    trial: Mapping[str, Any]
    weights: int
    cuts: int
    batch_norm: str | None
    rounds: int
    cold: bool
    seconds: float
    iqr: float
    peak_bytes: int | None
    floor_seconds: float
    floor_peak_bytes: int | None
    prune_rounds: int
    prune_cold: bool
    prune_seconds: float
    prune_iqr: float
    prune_peak_bytes: int | None
    step_seconds: float
    device: str
    environment: Mapping[str, Any]
    provenance: Mapping[str, Any]
    precision: str = "fp32"
    memory_format: str = "contiguous"
    schema: int = SCHEMA
    device_seconds: float | None = None
    """The part of ``seconds`` that a GPU worked; as the next two, None on a processor and in earlier records."""
    floor_device_seconds: float | None = None
    prune_device_seconds: float | None = None

    @property
    def identity(self) -> str:
        """What was measured and where, as a file name."""
        readable = f"{self.trial['data']}-{self.trial['model']}-{self.trial['criterion']['name']}-{self.device}"
        return identify(readable, [dict(self.trial), dict(self.environment)])

    @classmethod
    def from_json(cls, text: str) -> "Cost":
        """A cost from the text of its file, or ValueError."""
        try:
            raw = json.loads(text)
            if raw.get("schema", 0) > SCHEMA:
                raise NewerSchemaError(f"schema {raw['schema']} is newer than this version reads ({SCHEMA})")
            cost = cls(**{f.name: raw[f.name] for f in fields(cls) if f.name in raw or f.default is MISSING})
            forms = [(cost, Cost), (cost.trial, Trained), (cost.trial, Scored)]
            forms += [(cost.environment, Environment), (cost.provenance, Origin)]
            peaks = [p or 0 for p in (cost.peak_bytes, cost.floor_peak_bytes, cost.prune_peak_bytes)]
            inside = (cost.device_seconds, cost.floor_device_seconds, cost.prune_device_seconds)
            ok = [
                *(fits(value, form) for value, form in forms),
                min(cost.seconds, cost.floor_seconds, cost.prune_seconds, cost.step_seconds) > 0,
                min(seconds or 0 for seconds in inside) >= 0,
                min(cost.iqr, cost.prune_iqr, cost.rounds, cost.weights, *peaks) >= 0,
            ]
            if not all(ok):
                raise ValueError("a field has an impossible value")
        except MALFORMED as error:
            raise ValueError(f"a field is missing or malformed: {error!r}") from error
        return cost


Value = float | str | None
"""What a benchmark may measure: a number, or a word."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """What one benchmark measured, or one check found. Times are seconds, memory is bytes.

    `stage` and `group` say in which run and in which table it stands. `values` are the measurements by name; `limits`
    say how large those of the same name may be: a check that respects them has ``passed``, what has no limits is
    ``measured``, and `reason` says why it has ``failed`` or was ``skipped``. A figure shows the value called `bar`.
    A raised `version` says that the benchmark is no longer the same.
    """

    stage: str
    group: str
    name: str
    version: int
    status: Literal["passed", "failed", "skipped", "measured"]
    reason: str | None
    values: Mapping[str, Value]
    limits: Mapping[str, float]
    bar: str | None
    seconds: float
    device: str
    environment: Mapping[str, Any]
    provenance: Mapping[str, Any]
    schema: int = SCHEMA

    @property
    def identity(self) -> str:
        """What was measured and where, as a file name."""
        what = [self.stage, self.group, self.name]
        return identify("-".join(what), [*what, self.version, self.device, dict(self.environment)])

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "BenchmarkResult":
        """A result from the text of its file, or ValueError."""
        try:
            raw = json.loads(text, parse_constant=refuse_constant)
            if raw.get("schema", 0) > SCHEMA:
                raise NewerSchemaError(f"schema {raw['schema']} is newer than this version reads ({SCHEMA})")
            found = cls(**{f.name: raw[f.name] for f in fields(cls)})
            forms = [(found, BenchmarkResult), (found.environment, Environment), (found.provenance, Origin)]
            if not all(fits(value, form) for value, form in forms) or found.seconds < 0:
                raise ValueError("a field has an impossible value")
        except MALFORMED as error:
            raise ValueError(f"a field is missing or malformed: {error!r}") from error
        return found


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What one mask left of a network."""

    sparsity: float
    connected: bool
    effective_sparsity: float | None
    """None where only connectedness was asked for."""
    densities: tuple[float, ...]
    """Share of each layer that is kept."""
    effective: tuple[float, ...] | None
    """Share of each layer that is kept and lies on a path."""


@dataclass(frozen=True, kw_only=True)
class Collapse:
    """Up to which sparsity a criterion's masks leave one network connected, and each of its layers alive.

    `connected_until` is the highest sparsity at which the network was connected, below the lowest one at which it was
    not, `cut_from`. For a one-shot criterion (`exact`) the two differ by one connection. `layers_until` gives, by
    layer, the highest sparsity at which it kept something: for a one-shot criterion of all, else of those tried.
    """

    trial: Mapping[str, Any]
    size: int
    connected_until: float | None
    cut_from: float | None
    first_cut: str | None
    exact: bool
    layers_until: Mapping[str, float]
    tried: tuple[Tried, ...]
    seconds: float
    environment: Mapping[str, Any]
    provenance: Mapping[str, Any]
    schema: int = SCHEMA

    @property
    def identity(self) -> str:
        """What was examined, as a file name."""
        trial = self.trial
        readable = f"{trial['data']}-{trial['model']}-{trial['criterion']['name']}-s{trial['seed']}"
        return identify(readable, dict(trial))

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Collapse":
        """A collapse from the text of its file, or ValueError."""
        try:
            raw = json.loads(text)
            if raw.get("schema", 0) > SCHEMA:
                raise NewerSchemaError(f"schema {raw['schema']} is newer than this version reads ({SCHEMA})")
            raw["tried"] = tuple(Tried(**tried) for tried in raw["tried"])
            found = cls(**{f.name: raw[f.name] for f in fields(cls)})
            forms = [(found, Collapse), (found.trial, Scored)]
            forms += [(found.environment, Environment), (found.provenance, Origin)]
            shares = [one for one in (found.connected_until, found.cut_from) if one is not None]
            shares += [*found.layers_until.values(), *(one.sparsity for one in found.tried)]
            shares += [one.effective_sparsity for one in found.tried if one.effective_sparsity is not None]
            shares += [density for one in found.tried for density in (*one.densities, *(one.effective or ()))]
            layers = len(found.layers_until)
            ok = [
                *(fits(value, form) for value, form in forms),
                all(0 <= share <= 1 for share in shares),
                found.connected_until is None or found.connected_until < 1,
                not any(one.connected and one.sparsity == 1 for one in found.tried),
                found.size > 0 and found.seconds >= 0 and bool(found.tried) and layers > 0,
                all(len(one.densities) == layers for one in found.tried),
                all(one.effective is None or len(one.effective) == layers for one in found.tried),
                all((one.effective is None) == (one.effective_sparsity is None) for one in found.tried),
            ]
            if not all(ok):
                raise ValueError("a field has an impossible value")
        except MALFORMED as error:
            raise ValueError(f"a field is missing or malformed: {error!r}") from error
        return found
