"""Schedules: the densities after each cut, from the dense network down to the target.

A schedule says how many cuts there are, how deep each is, and whether removed connections may return
(``returns``). Iteration itself lives in `pai_bench.pruning.prune`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from pai_bench import spec
from pai_bench.errors import UserError, unknown


@dataclass(frozen=True)
class Schedule(ABC):
    """A list of densities for every target; ``returns`` says whether a removed connection may come back."""

    name: ClassVar[str]
    steps: int = 1
    returns: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", spec.convert(self.steps, int, "steps"))
        if self.steps < 1:
            raise UserError(f"steps={self.steps} must be at least 1")

    @abstractmethod
    def densities(self, density: float) -> list[float]:
        """The densities after each cut; the last is `density`, in (0, 1]."""

    def __str__(self) -> str:
        """The text that `get_schedule` reads back, with the number of steps."""
        return f"{self.name}:steps={self.steps}" + ":returns=true" * self.returns


@dataclass(frozen=True)
class OneShot(Schedule):
    """One cut: ``[d]``."""

    name: ClassVar[str] = "one-shot"

    def __post_init__(self) -> None:
        if self.steps != 1:
            raise UserError(f"steps={self.steps}: one-shot has a single step; use linear, exponential or halving")

    def densities(self, density: float) -> list[float]:
        return [density]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Linear(Schedule):
    """``1 - s * t / T`` for t = 1..T, with s = 1 - d and T = ``steps``."""

    name: ClassVar[str] = "linear"
    steps: int = 100

    def densities(self, density: float) -> list[float]:
        return [1 - (1 - density) * t / self.steps for t in range(1, self.steps)] + [density]


@dataclass(frozen=True)
class Exponential(Schedule):
    """``d ** (t / T)`` for t = 1..T, with T = ``steps`` (Tanaka et al. 2020, arXiv:2006.05467)."""

    name: ClassVar[str] = "exponential"
    steps: int = 100

    def densities(self, density: float) -> list[float]:
        return [density ** (t / self.steps) for t in range(1, self.steps)] + [density]


@dataclass(frozen=True)
class Halving(Schedule):
    """Sparsities ``s - (s - 0.5) * 0.5**i`` for i = 0..S, then s: S + 2 cuts (Verdenius et al. 2020, arXiv:2006.00896).

    For s <= 0.5 a single cut, since the formula would prune beyond the target.
    """

    name: ClassVar[str] = "halving"
    steps: int = 5

    def densities(self, density: float) -> list[float]:
        sparsity = 1 - density
        if sparsity <= 0.5:
            return [density]
        return [1 - (sparsity - (sparsity - 0.5) * 0.5**i) for i in range(self.steps + 1)] + [density]


SCHEDULES = {cls.name: cls for cls in (OneShot, Linear, Exponential, Halving)}


def get_schedule(text: str | Schedule) -> Schedule:
    """The schedule written as ``NAME[:steps=N][:returns=true]``."""
    if isinstance(text, Schedule):
        return text
    if not isinstance(text, str):
        raise UserError(f"a schedule is written as NAME[:steps=N], or an instance of Schedule, not {text!r}")
    name, options = spec.parse(text)
    if (cls := SCHEDULES.get(name.replace("_", "-"))) is None:
        raise unknown("schedule", name, SCHEDULES)
    return spec.build(cls, options, name)
