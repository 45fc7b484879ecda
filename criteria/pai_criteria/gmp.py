"""Gradual magnitude pruning, while a network is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pai_bench import UserError, criterion
from pai_bench.masks import Scope
from pai_bench.scoring import Batch, Change, DuringTraining, MaskedModel, Moment, Scores, Timeline


@criterion("gmp", source="Zhu & Gupta 2017, arXiv:1710.01878")
@dataclass(frozen=True)
class GMP(DuringTraining):
    """score = |w| of the weights in training, cut after t = t0, t0 + D, ..., t1 steps to the sparsity s(t).

    ``s(t) = s + (s0 - s) * (1 - (t - t0) / (t1 - t0)) ** 3`` for the sparsity s of the trial. t1 is always among the
    steps, and exactly ``round((1 - s) * n)`` connections are kept from then on.

    * ``first``: s0, the sparsity at t0.
    * ``begin``, ``end``: t0 and t1, as shares of the steps.
    * ``every``: D, in steps of the published training, which a budget scales; 0 for a hundredth of the training.
    * ``returns``: whether removed weights keep the value that they had, and return when others fall below it, as in
      TensorFlow's code.

    Zhu & Gupta 2017, arXiv:1710.01878, eq. 1; every layer gets the same sparsity there.
    """

    first: float = 0.0
    begin: float = 0.2
    end: float = 0.75
    every: int = 0
    returns: bool = False

    uses_data: ClassVar[bool] = False
    scope: ClassVar[Scope] = "layerwise"
    figure_style: ClassVar[tuple[str, str, str]] = ("#E69F00", "X", "--")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.first < 1:
            raise ValueError(f"first={self.first:g} is outside [0, 1): it is a sparsity")
        if not 0 <= self.begin <= self.end <= 1:
            raise ValueError(f"begin={self.begin:g} and end={self.end:g} must be in order, in [0, 1]: they are shares")
        if self.every < 0:
            raise ValueError(f"every={self.every} must be at least 0")

    def score(self, model: MaskedModel, batch: Batch) -> Scores:
        return {name: weight.abs() for name, weight in model.weights().items()}

    def moments(self, timeline: Timeline) -> Sequence[int]:
        begin, end = self._interval(timeline)
        *earlier, last = timeline.densities
        if earlier:
            raise UserError(
                f"{self} has its own times and sparsities: it takes no schedule, as this of {len(earlier) + 1} cuts"
            )
        if last > 1 - self.first:
            raise UserError(f"{self}: first={self.first:g} is above the sparsity {1 - last:g}, which it rises to")
        every = timeline.after(self.every) if self.every else max(1, timeline.steps // 100)
        return [*range(begin, end, every), end]

    def _interval(self, timeline: Timeline) -> tuple[int, int]:
        return round(self.begin * timeline.steps), round(self.end * timeline.steps)

    def density(self, moment: Moment) -> float:
        """The share of connections that is kept from a moment on: 1 - s(t)."""
        (begin, end), target = self._interval(moment.timeline), 1 - moment.density
        if moment.step == end:
            return moment.density
        left = 1 - (moment.step - begin) / (end - begin)
        return 1 - (target + (self.first - target) * left**3)

    def change(self, moment: Moment) -> Change:
        if not self.returns:
            return Change(moment.cut(self.density(moment)))
        stored = moment.state
        values = {name: w + stored[name] if name in stored else w for name, w in moment.weights.items()}
        mask = moment.select({name: value.abs() for name, value in values.items()}, self.density(moment), returns=True)
        stored.update({name: value * ~mask[name] for name, value in values.items()})
        return Change(mask, values)
