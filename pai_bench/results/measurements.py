"""What is kept of costs, benchmarks and metrics. Plain values, which validate when read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pai_bench.results.configurations import ScoredTrial
from pai_bench.results.origin import Environment, Provenance
from pai_bench.results.stored import IF_ANY, SCHEMA, Stored, plain
from pai_bench.results.values import Amount, Count, Number, Positive, Share, validated
from pai_bench.support.identity import identify


@dataclass(frozen=True, kw_only=True)
class BesideDense:
    """Median seconds of the same work by a smaller network and by the dense one, by turns; interquartile ranges."""

    rounds: Count
    cold: bool
    seconds: Positive
    iqr: Amount
    dense_seconds: Positive
    dense_iqr: Amount


@dataclass(frozen=True, kw_only=True)
class SmallerNetwork:
    """What a network without the units that a structured criterion removes takes, beside the dense one.

    The sparsities are shares removed: of the units of all layers but the last, of the weights, of the operations for
    one example. A forward pass is in evaluation mode, in single precision, on a batch of 1 or 128; a training step is
    that of the protocol on one batch, without drawing it.
    """

    node_sparsity: Share
    weight_sparsity: Share
    flop_sparsity: Share
    forward_1: BesideDense
    forward_128: BesideDense
    training_step: BesideDense


@dataclass(frozen=True, kw_only=True)
class Cost(Stored):
    """What one criterion cost on one network and device. Times are median seconds, memory is bytes beyond the network.

    ``seconds`` is of one score, ``prune_seconds`` of a whole pruning in ``cuts`` cuts, ``floor_seconds`` of one bare
    forward and backward pass on the same batch, and ``step_seconds`` of one training step. What was ``cold`` had no
    warm-up. Score and bare pass were computed in ``precision``, the weights laid out in ``memory_format``. `trial` is
    the configuration that all of it belongs to.
    """

    folder = "costs"
    UNLIMITED: ClassVar[tuple[str, ...]] = ("trial",)

    trial: Mapping[str, Any]
    weights: Count
    cuts: int
    batch_norm: str | None
    rounds: Count
    cold: bool
    seconds: Positive
    iqr: Amount
    peak_bytes: Count | None
    floor_seconds: Positive
    floor_peak_bytes: Count | None
    prune_rounds: int
    prune_cold: bool
    prune_seconds: Positive
    prune_iqr: Amount
    prune_peak_bytes: Count | None
    step_seconds: Positive
    device: str
    environment: Environment
    provenance: Provenance
    precision: str
    memory_format: str
    schema: int = SCHEMA
    device_seconds: Amount | None = None
    """The part of ``seconds`` that a GPU worked; as the next two, None on a processor and in earlier records."""
    floor_device_seconds: Amount | None = None
    prune_device_seconds: Amount | None = None
    smaller: SmallerNetwork | None = field(default=None, metadata=IF_ANY)
    """Of a structured criterion; None of others, and in earlier records."""

    added: ClassVar[Mapping[str, Any]] = {"precision": "fp32", "memory_format": "contiguous"}

    @property
    def identity(self) -> str:
        """What was measured and where, as a file name."""
        readable = f"{self.trial['data']}-{self.trial['model']}-{self.trial['criterion']['name']}-{self.device}"
        return identify(readable, self.settings)

    @property
    def settings(self) -> list[Any]:
        """What was measured, and where."""
        return [dict(self.trial), plain(self.environment)]

    def check(self) -> None:
        """Raise an error of some type if fields, each of its type, do not fit each other."""
        validated(self.trial, ScoredTrial)


Value = Number | str | None
"""What a benchmark may measure: a number, or a word."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult(Stored):
    """What one benchmark measured, or one check found. Times are seconds, memory is bytes.

    `stage` and `group` say in which run and in which table it stands. `values` are the measurements by name; `limits`
    say how large those of the same name may be: a check that respects them has ``passed``, what has no limits is
    ``measured``, and `reason` says why it has ``failed`` or was ``skipped``. A figure shows the value called `bar`.
    A raised `version` says that the benchmark is no longer the same.
    """

    folder = "benchmarks"

    stage: str
    group: str
    name: str
    version: int
    status: Literal["passed", "failed", "skipped", "measured"]
    reason: str | None
    values: Mapping[str, Value]
    limits: Mapping[str, Number]
    bar: str | None
    seconds: Amount
    device: str
    environment: Environment
    provenance: Provenance
    schema: int = SCHEMA

    @property
    def identity(self) -> str:
        """What was measured and where, as a file name."""
        return identify(f"{self.stage}-{self.group}-{self.name}", self.settings)

    @property
    def settings(self) -> list[Any]:
        """What was measured, and where."""
        return [self.stage, self.group, self.name, self.version, self.device, plain(self.environment)]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The values of one metric by name, or one by the name ``""``; None for what is not finite."""

    values: Mapping[str, float | None]
    environment: Mapping[str, Any]
    provenance: Mapping[str, Any]
    notes: tuple[str, ...] = field(default=(), metadata=IF_ANY)
    """In words, such as the names of `pai_bench.attacks.WARNINGS` that hold."""
    dense: str | None = field(default=None, metadata=IF_ANY)
    """Identity of the dense trial whose network it was held against."""
    version: Count | None = field(default=None, metadata=IF_ANY)
    """Of the metric, raised when what it gives changes; None for the first."""


@dataclass(frozen=True, kw_only=True)
class TrialMetrics(Stored):
    """The metrics of the network of the trial called `identity`, by name."""

    folder = "evaluations"

    identity: str
    metrics: Mapping[str, Measured]
    schema: int = SCHEMA

    def check_name(self, name: str) -> None:
        """Raise ValueError if a file of that name is of another trial."""
        if self.identity != name:
            raise ValueError(f"it holds the evaluation of {self.identity}")

    def row(self) -> dict[str, float | str | None]:
        """Further columns of the trial's row: a metric's name, and behind a point that of one of several values.

        Behind a point, ``notes`` are the notes, divided by semicolons, where there are any.
        """
        found: dict[str, float | str | None] = {}
        for name, measured in self.metrics.items():
            found |= {f"{name}.{key}" if key else name: value for key, value in measured.values.items()}
            found |= {f"{name}.notes": "; ".join(measured.notes)} if measured.notes else {}
        return found
