"""What is kept of where a network falls apart. Plain values, which validate when read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pai_bench.results.configurations import Scoring
from pai_bench.results.origin import Environment, SearchProvenance
from pai_bench.results.stored import SCHEMA, Stored
from pai_bench.results.values import Amount, PositiveCount, Share, ShareBelow1, require, validated
from pai_bench.support.identity import identify


@dataclass(frozen=True, kw_only=True)
class MaskEffect:
    """What one mask left of a network."""

    sparsity: Share
    connected: bool
    effective_sparsity: Share | None
    """None where only connectedness was asked for."""
    densities: tuple[Share, ...]
    """Share of each layer that is kept."""
    effective: tuple[Share, ...] | None
    """Share of each layer that is kept and lies on a path."""


@dataclass(frozen=True, kw_only=True)
class Collapse(Stored):
    """Up to which sparsity a criterion's masks leave one network connected, and each of its layers alive.

    `connected_until` is the highest sparsity at which the network was connected, below the lowest one at which it was
    not, `cut_from`. For a one-shot criterion (`exact`) the two differ by one connection. `layers_until` gives, by
    layer, the highest sparsity at which it kept something: for a one-shot criterion of all, else of those tried.
    """

    folder = "collapse"
    UNLIMITED: ClassVar[tuple[str, ...]] = ("trial",)

    trial: Mapping[str, Any]
    size: PositiveCount
    connected_until: ShareBelow1 | None
    cut_from: Share | None
    first_cut: str | None
    exact: bool
    layers_until: Mapping[str, Share]
    tried: tuple[MaskEffect, ...]
    seconds: Amount
    environment: Environment
    provenance: SearchProvenance
    schema: int = SCHEMA

    @property
    def identity(self) -> str:
        """What was examined, as a file name."""
        trial = self.trial
        readable = f"{trial['data']}-{trial['model']}-{trial['criterion']['name']}-s{trial['seed']}"
        return identify(readable, self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """What was examined."""
        return dict(self.trial)

    def check(self) -> None:
        """Raise an error of some type if fields, each of its type, do not fit each other."""
        validated(self.trial, Scoring)
        layers = len(self.layers_until)
        require(
            bool(self.tried) and layers > 0,
            not any(mask.connected and mask.sparsity == 1 for mask in self.tried),
            all(len(mask.densities) == layers for mask in self.tried),
            all(mask.effective is None or len(mask.effective) == layers for mask in self.tried),
            all((mask.effective is None) == (mask.effective_sparsity is None) for mask in self.tried),
        )
