"""What is kept of costs and of benchmarks. Plain values, which validate when read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pai_bench.identity import identify
from pai_bench.store.shape import Environment, Origin, Scored, Trained, fits
from pai_bench.store.stored import SCHEMA, Stored


@dataclass(frozen=True, kw_only=True)
class Cost(Stored):
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
        return identify(readable, self.settings)

    @property
    def settings(self) -> list[Any]:
        """What was measured, and where."""
        return [dict(self.trial), dict(self.environment)]

    def check(self) -> None:
        """Raise an error of some kind if a field is not of its type, or has an impossible value."""
        forms = [(self, Cost), (self.trial, Trained), (self.trial, Scored)]
        forms += [(self.environment, Environment), (self.provenance, Origin)]
        peaks = [p or 0 for p in (self.peak_bytes, self.floor_peak_bytes, self.prune_peak_bytes)]
        inside = (self.device_seconds, self.floor_device_seconds, self.prune_device_seconds)
        ok = [
            *(fits(value, form) for value, form in forms),
            min(self.seconds, self.floor_seconds, self.prune_seconds, self.step_seconds) > 0,
            min(seconds or 0 for seconds in inside) >= 0,
            min(self.iqr, self.prune_iqr, self.rounds, self.weights, *peaks) >= 0,
        ]
        if not all(ok):
            raise ValueError("a field has an impossible value")


Value = float | str | None
"""What a benchmark may measure: a number, or a word."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult(Stored):
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
        return identify(f"{self.stage}-{self.group}-{self.name}", self.settings)

    @property
    def settings(self) -> list[Any]:
        """What was measured, and where."""
        return [self.stage, self.group, self.name, self.version, self.device, dict(self.environment)]

    def check(self) -> None:
        """Raise an error of some kind if a field is not of its type, or has an impossible value."""
        forms = [(self, BenchmarkResult), (self.environment, Environment), (self.provenance, Origin)]
        if not all(fits(value, form) for value, form in forms) or self.seconds < 0:
            raise ValueError("a field has an impossible value")
