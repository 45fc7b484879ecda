"""Where stored results come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from msgspec import Meta

from pai_bench.results.stored import IF_ANY
from pai_bench.results.values import Count, PositiveCount


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The machine that a result was made on, as `pai_bench.support.environment.describe` gives it."""

    versions: Annotated[Mapping[str, Any], Meta(min_length=1)]
    """Of Python and the packages that results depend on."""
    system: str
    processor: str
    threads: Count
    device: str
    """The name of the GPU, or CPU."""
    kernels: str | None = field(default=None, metadata=IF_ANY)
    """How a GPU is held to one result; None on a CPU, and in earlier results."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What else is needed to believe a result; None where it is not known."""

    command: str | None = None
    commit: str | None = None
    dirty: bool | None = None
    """Whether the checkout had changes that were not committed."""
    finished: str | None = field(default=None, metadata=IF_ANY)
    """When it was made, in ISO 8601; earlier results do not say."""


@dataclass(frozen=True, kw_only=True)
class SearchProvenance(Provenance):
    """The provenance of a search for where a network falls apart."""

    points: int | None = field(default=None, metadata=IF_ANY)
    """Sparsities tried along the way."""
    checksum: str | None = field(default=None, metadata=IF_ANY)
    """Of the data."""


@dataclass(frozen=True, kw_only=True)
class UsedData:
    """The data set of a trial: its sizes and checksum, never a path."""

    label: str
    checksum: str
    shape: tuple[PositiveCount, ...] | None = None
    """Of one example; earlier records do not say."""
    classes: Count | None = None
    train: Count
    test: Count


@dataclass(frozen=True, kw_only=True)
class TrialProvenance(Provenance):
    """The provenance of a trial: the data, and what ran beside it, which its times depend on."""

    workers: Count
    lanes: Count
    together: str | None = None
    """How several lanes shared a program; None for one."""
    channels_last: bool | None = None
    compiled: bool
    data: UsedData
