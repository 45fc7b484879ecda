"""What is kept of where a network falls apart. Plain values, which validate when read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pai_bench.identity import identify
from pai_bench.store.shape import Environment, Origin, Scored, fits
from pai_bench.store.stored import SCHEMA, Stored


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
class Collapse(Stored):
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
        return identify(readable, self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """What was examined."""
        return dict(self.trial)

    @classmethod
    def of(cls, raw: dict[str, Any]) -> Self:
        """A collapse with the content of a file."""
        raw["tried"] = tuple(Tried(**tried) for tried in raw["tried"])
        return super().of(raw)

    def check(self) -> None:
        """Raise an error of some kind if a field is not of its type, or has an impossible value."""
        forms = [(self, Collapse), (self.trial, Scored), (self.environment, Environment), (self.provenance, Origin)]
        shares = [one for one in (self.connected_until, self.cut_from) if one is not None]
        shares += [*self.layers_until.values(), *(one.sparsity for one in self.tried)]
        shares += [one.effective_sparsity for one in self.tried if one.effective_sparsity is not None]
        shares += [density for one in self.tried for density in (*one.densities, *(one.effective or ()))]
        layers = len(self.layers_until)
        ok = [
            *(fits(value, form) for value, form in forms),
            all(0 <= share <= 1 for share in shares),
            self.connected_until is None or self.connected_until < 1,
            not any(one.connected and one.sparsity == 1 for one in self.tried),
            self.size > 0 and self.seconds >= 0 and bool(self.tried) and layers > 0,
            all(len(one.densities) == layers for one in self.tried),
            all(one.effective is None or len(one.effective) == layers for one in self.tried),
            all((one.effective is None) == (one.effective_sparsity is None) for one in self.tried),
        ]
        if not all(ok):
            raise ValueError("a field has an impossible value")
