"""Criteria that are applied to trained networks, which are then trained again, level by level."""

import dataclasses
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pai_bench.scoring.criterion import Criterion
from pai_bench.scoring.during import Timeline
from pai_bench.support.errors import UserError
from pai_bench.support.failures import described


@dataclass(frozen=True)
class Rewind:
    """What a level begins with. The optimiser begins anew."""

    step: int = 0
    """The step of the first training whose schedule and order of examples it continues with."""
    weights: bool = True
    """Whether all parameters and buffers are those of that step, too; or as the level before has trained them."""
    last_rate: bool = False
    """Whether it trains at the last learning rate throughout."""


@dataclass(frozen=True, kw_only=True)
class IterativePruning(Criterion):
    """A criterion whose sparsity is reached in levels. Level 0 is the trained dense network.

    Each further level scores the network that the level before has trained, keeps the highest scores among what is
    left, and trains again. A level is a trial of the sparsity that it keeps, so that trials of higher sparsities share
    it. A subclass implements `score`, `sparsity_before` and `beginning`.
    """

    @property
    def begins_dense(self) -> bool:
        return True

    def checked_sparsity_before(self, sparsity: float) -> float:
        """`sparsity_before`, if it is smaller; else a `UserError` that names the criterion."""
        with self._named(f"has no level before sparsity {sparsity}"):
            before = float(self.sparsity_before(sparsity))
        if not 0 <= before < sparsity:
            raise UserError(f"{self}: the level before sparsity {sparsity:g} would have {before:g}")
        return before

    def checked_beginning(self, timeline: Timeline) -> Rewind:
        """`beginning`; a `UserError` that names the criterion if it fails, or does not fit into the training."""
        with self._named(f"cannot say what a level begins with in {timeline}"):
            found = self.beginning(timeline)
        if not isinstance(found, Rewind) or found.step not in range(timeline.steps):
            raise UserError(f"{self}: a level begins with a Rewind within {timeline.steps} steps, and not with {found}")
        return dataclasses.replace(found, step=int(found.step))

    @contextmanager
    def _named(self, failure: str) -> Iterator[None]:
        """A block whose errors name the criterion, and what it could not say."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{self} {failure} ({described(error)})") from error

    @abstractmethod
    def sparsity_before(self, sparsity: float) -> float:
        """The sparsity of the level before that of a `sparsity`; 0 is the dense network."""

    @abstractmethod
    def beginning(self, timeline: Timeline) -> Rewind:
        """What a level begins with. UserError for what does not fit the training."""
