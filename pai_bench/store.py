"""The results folder: one JSON file per finished trial, written beside its final name and renamed."""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pai_bench.errors import UserError
from pai_bench.identity import identify
from pai_bench.training.protocol import Protocol

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

SCHEMA = 1
"""Version of the record's form; a reader refuses what is newer than itself."""

Status = Literal["done", "failed", "disconnected"]


class NewerSchemaError(UserError):
    """A record that a later version of pai-bench wrote."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One prunable parameter under the mask."""

    name: str
    size: int
    kept: int
    effective: int | None = None
    """Connections that are kept and lie on a path from an input to an output."""


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
    layers: tuple[Layer, ...] = ()
    curve: tuple[EpochRecord, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @classmethod
    def from_json(cls, text: str) -> "Record":
        """A record from the text of its file, or ValueError."""
        raw = json.loads(text)
        if not isinstance(raw, dict) or not isinstance(raw.get("trial"), dict):
            raise ValueError("not a record")
        try:
            if raw.get("schema", 0) > SCHEMA:
                raise NewerSchemaError(f"schema {raw['schema']} is newer than this version reads ({SCHEMA})")
            raw["layers"] = tuple(Layer(**layer) for layer in raw["layers"])
            raw["curve"] = tuple(EpochRecord(**epoch) for epoch in raw["curve"])
            raw["dead_layers"] = None if raw["dead_layers"] is None else tuple(raw["dead_layers"])
            raw["severed_shortcuts"] = tuple(raw.get("severed_shortcuts", ()))
            record = cls(**{f.name: raw[f.name] for f in fields(cls) if f.name in raw})
            record.check()
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"a field is missing or malformed: {error!r}") from error
        return record

    def check(self) -> None:
        """Raise an error of some kind if a field that the report needs is not there or not of its type."""
        self.row()
        ok = self.status in get_args(Status) and (self.status == "failed" or isinstance(self.test_accuracy, float))
        data, versions = self.provenance["data"], self.environment["versions"]
        texts = (data["label"], data["checksum"], self.environment["device"], self.environment["processor"])
        numbers = (data["train"], data["test"], *(layer.size for layer in self.layers), self.trial["sparsity"])
        if not (
            ok and versions.items() and all(isinstance(text, str) for text in texts) and all(n >= 0 for n in numbers)
        ):
            raise ValueError("a field has an impossible value")

    def to_json(self) -> str:
        """The text of the record's file."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"

    def row(self) -> dict[str, Any]:
        """The record as one row of `read_results`."""
        trial, criterion = self.trial, self.trial["criterion"]
        head = {
            "data": trial["data"],
            "model": trial["model"],
            "criterion": criterion["name"] if criterion else "dense",
            "variant": trial.get("variant", "none"),
            "sparsity": trial["sparsity"],
            "seed": trial["seed"],
        }
        metrics = {name: getattr(self, name) for name in COLUMNS}
        tail = {
            "schedule": criterion["schedule"] if criterion else None,
            "scope": trial.get("scope"),
            "score_batch": trial.get("score_batch"),
            "score_sampling": trial.get("score_sampling"),
            "score_batches": trial.get("score_batches", 1) if criterion else None,
            "revision": criterion["revision"] if criterion else None,
            "first_cut": self.first_cut,
            "batch_norm": self.batch_norm,
            "train_fraction": trial["train_fraction"],
            "protocol": Protocol(name="", **trial["protocol"]).describe(),
            "identity": self.identity,
        }
        return head | metrics | tail


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
    warm-up. `trial` is the configuration that all of it belongs to.
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
    schema: int = SCHEMA

    @property
    def identity(self) -> str:
        """What was measured and where, as a file name."""
        readable = f"{self.trial['data']}-{self.trial['model']}-{self.trial['criterion']['name']}-{self.device}"
        return identify(readable, [dict(self.trial), dict(self.environment)])

    @classmethod
    def from_json(cls, text: str) -> "Cost":
        """A cost from the text of its file, or ValueError."""
        raw = json.loads(text)
        try:
            cost = cls(**{f.name: raw[f.name] for f in fields(cls)})
            times = (cost.seconds, cost.floor_seconds, cost.prune_seconds, cost.step_seconds)
            texts = [cost.trial["data"], cost.trial["model"], cost.trial["criterion"]["name"], cost.device]
            texts += [cost.environment["device"], cost.environment["processor"], cost.provenance.get("commit") or ""]
            peaks = [p or 0 for p in (cost.peak_bytes, cost.floor_peak_bytes, cost.prune_peak_bytes)]
            ok = all(0 < value < float("inf") for value in times) and all(isinstance(text, str) for text in texts)
            if not (ok and min(cost.iqr, cost.prune_iqr, cost.rounds, *peaks) >= 0 and cost.environment["versions"]):
                raise ValueError("a field has an impossible value")
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a field is missing or malformed: {error!r}") from error
        return cost


class Store:
    """A results folder. `create` makes it; without, it must be there."""

    def __init__(self, path: str | Path, *, create: bool = False) -> None:
        self.path = Path(path)
        self.trials, self.costs = self.path / "trials", self.path / "costs"
        if create:
            try:
                self.trials.mkdir(parents=True, exist_ok=True)
                probe = self.trials / f".{os.getpid()}.tmp"
                probe.touch()
                probe.unlink()
            except OSError as error:
                reason = error.strerror or str(error)
                raise UserError(
                    f"results folder {path} cannot be written ({reason}); give another with --out"
                ) from error
        elif not any(self.trials.glob("*.json")) and not any(self.costs.glob("*.json")):
            state = "has no results" if self.path.is_dir() else "does not exist"
            raise UserError(f"results folder {path} {state}; `pai-bench run --out {path}` makes some")

    def write(self, record: Record) -> None:
        """Store `record` whole or not at all, in place of an earlier one of the same trial."""
        self._write(self.trials / f"{record.identity}.json", record.to_json())

    def write_cost(self, cost: Cost) -> None:
        """Store `cost`, in place of an earlier measurement of the same."""
        self._write(self.costs / f"{cost.identity}.json", json.dumps(asdict(cost), indent=1) + "\n")

    def read_costs(self) -> list[Cost]:
        """All measured costs; a damaged file is named and passed over."""
        found = []
        for path in sorted(self.costs.glob("*.json")):
            try:
                found.append(Cost.from_json(path.read_text(encoding="utf-8")))
            except (ValueError, OSError) as error:
                logger.warning("%s cannot be read (%s) and is left out", path, error)
        return found

    def _write(self, path: Path, text: str) -> None:
        beside = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(exist_ok=True)
            with beside.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except OSError as error:
            raise UserError(
                f"results folder {self.path} can no longer be written ({error.strerror or error})"
            ) from error
        finally:
            beside.unlink(missing_ok=True)

    def read(self, identity: str) -> Record | None:
        """The record of a trial, or None. A damaged file is named, set aside and counts as missing."""
        path = self.trials / f"{identity}.json"
        if not path.exists():
            return None
        try:
            return self._read(path)
        except NewerSchemaError as error:
            raise UserError(f"{path}: {error}; use that version, or another folder with --out") from error
        except (PermissionError, InterruptedError) as error:
            raise UserError(f"{path} cannot be read ({error.strerror})") from error
        except FileNotFoundError:  # another process has set it aside meanwhile
            return None
        except (ValueError, IsADirectoryError) as error:
            aside = next(p for i in count() if not (p := path.with_suffix(f".damaged{i or ''}")).exists())
            path.replace(aside)
            logger.warning("%s is damaged (%s): set aside as %s, the trial runs again", path, error, aside.name)
            return None

    def __iter__(self) -> Iterator[Record]:
        """All records that can be read; a damaged file is named and passed over."""
        for path in sorted(self.trials.glob("*.json")):
            try:
                yield self._read(path)
            except (ValueError, OSError) as error:
                logger.warning("%s cannot be read (%s) and is left out", path, error)

    @staticmethod
    def _read(path: Path) -> Record:
        record = Record.from_json(path.read_text(encoding="utf-8"))
        if record.identity != path.stem:
            raise ValueError(f"it holds the record of {record.identity}")
        return record


def read_results(path: str | Path) -> "pd.DataFrame":
    """One row per stored trial of the results folder `path`.

    The columns begin with data, model, criterion, variant, sparsity (as requested), seed, and `COLUMNS`; accuracies are
    shares in [0, 1] after the last epoch, times are seconds, memory is bytes. What was not computed is null. The dense
    reference has the criterion ``dense`` and sparsity 0.
    """
    store = Store(path)
    if not any(store.trials.glob("*.json")):
        raise UserError(f"results folder {path} has no trials, only costs; `pai-bench run --out {path}` makes some")
    return as_frame(store)


def as_frame(records: "Store | list[Record]") -> "pd.DataFrame":
    """Records as a table, one row each."""
    import pandas as pd

    return pd.DataFrame([record.row() for record in records])
