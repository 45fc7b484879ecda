"""What is kept of metrics that were taken of a trial's network, in a file of its own beside the record."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pai_bench.results.stored import SCHEMA, Stored


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The values of one metric by name, or one by the name ``""``; None for what is not finite."""

    values: Mapping[str, float | None]
    environment: Mapping[str, Any]
    provenance: Mapping[str, Any]


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

    def row(self) -> dict[str, float | None]:
        """Further columns of the trial's row: a metric's name, and behind a point that of one of several values."""
        return {
            f"{name}.{key}" if key else name: value
            for name, measured in self.metrics.items()
            for key, value in measured.values.items()
        }
