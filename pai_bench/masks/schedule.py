"""Schedules: the densities after each cut, from the dense network down to the target.

A schedule says how many cuts there are, how deep each is, and whether removed connections may return
(``returns``). Iteration itself lives in `pai_bench.pruning.prune`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar

from pai_bench.support import spec
from pai_bench.support.errors import UserError, unknown
from pai_bench.support.registry import SCHEDULES, schedule


@dataclass(frozen=True)
class Schedule(ABC):
    """The densities after each cut, for any target density.

    * ``steps``: the number of cuts, at least 1.
    * ``returns``: whether a removed connection may be kept again at a later cut.

    A subclass is a frozen dataclass that implements `densities`, registered by ``pai_bench.schedule``. Its further
    fields are further options. Raises `UserError` for fewer than one step.
    """

    name: ClassVar[str]
    steps: int = 1
    returns: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", spec.convert(self.steps, int, "steps"))
        if self.steps < 1:
            raise UserError(f"steps={self.steps} must be at least 1")

    @abstractmethod
    def densities(self, density: float) -> list[float]:
        """The densities after each cut, in (0, 1]; the last is `density`, the target."""

    def __str__(self) -> str:
        """The text that `get_schedule` reads back, with the number of steps and what else is not the default."""
        given = {f.name.replace("_", "-"): getattr(self, f.name) for f in fields(self) if f.name != "steps"}
        usual = {f.name.replace("_", "-"): f.default for f in fields(self)}
        texts = (
            f":{key}={str(value).lower() if value is True else value}"
            for key, value in given.items()
            if value != usual[key]
        )
        return f"{self.name}:steps={self.steps}" + "".join(texts)


@schedule("one-shot", source="Lee et al. 2019, arXiv:1810.02340")
@dataclass(frozen=True)
class OneShot(Schedule):
    """A single cut: ``[d]``, with the target density d.

    Lee et al. 2019, arXiv:1810.02340.
    """

    def __post_init__(self) -> None:
        if self.steps != 1:
            raise UserError(f"steps={self.steps}: one-shot has a single step; use linear, exponential or halving")

    def densities(self, density: float) -> list[float]:
        return [density]

    def __str__(self) -> str:
        return self.name


@schedule("linear", source="equal steps of the sparsity")
@dataclass(frozen=True)
class Linear(Schedule):
    """``1 - s * t / T`` for t = 1..T, with T = ``steps``, the target density d and sparsity s = 1 - d."""

    steps: int = 100

    def densities(self, density: float) -> list[float]:
        return [1 - (1 - density) * t / self.steps for t in range(1, self.steps)] + [density]


@schedule("exponential", source="Tanaka et al. 2020, arXiv:2006.05467")
@dataclass(frozen=True)
class Exponential(Schedule):
    """``d ** (t / T)`` for t = 1..T, with T = ``steps`` and the target density d.

    Tanaka et al. 2020, arXiv:2006.05467.
    """

    steps: int = 100

    def densities(self, density: float) -> list[float]:
        return [density ** (t / self.steps) for t in range(1, self.steps)] + [density]


@schedule("halving", source="Verdenius et al. 2020, arXiv:2006.00896")
@dataclass(frozen=True)
class Halving(Schedule):
    """Sparsities ``s - (s - 0.5) * 0.5**i`` for i = 0..S, then the target s: S + 2 cuts, with S = ``steps``.

    For s <= 0.5 a single cut, since the formula would prune more than the target.

    Verdenius et al. 2020, arXiv:2006.00896.
    """

    steps: int = 5

    def densities(self, density: float) -> list[float]:
        sparsity = 1 - density
        if sparsity <= 0.5:
            return [density]
        return [1 - (sparsity - (sparsity - 0.5) * 0.5**i) for i in range(self.steps + 1)] + [density]


def get_schedule(text: str | Schedule) -> Schedule:
    """The schedule written as ``NAME[:steps=N][:returns=true]``, or an instance as it is.

    Raises `UserError` for an unknown name or option, with the nearest known one.
    """
    if isinstance(text, Schedule):
        return text
    if not isinstance(text, str):
        raise UserError(f"a schedule is written as NAME[:steps=N], or an instance of Schedule, not {text!r}")
    name, options = spec.parse(text)
    if (cls := SCHEDULES.get(name.replace("_", "-"))) is None:
        raise unknown("schedule", name, SCHEDULES)
    made = spec.build(cls, options, name)
    assert isinstance(made, Schedule)
    return made
