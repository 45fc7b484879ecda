"""Iterative magnitude pruning: train, prune, rewind, again and again."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from pai_bench import UserError, criterion
from pai_bench.scoring import Batch, IterativePruning, MaskedModel, Rewind, Scores, Timeline

ROUNDING = 1e-6
"""By how much the number of levels may be missed by a sparsity that is written with few digits."""

DIGITS = 12
"""Digits that sparsities of levels are rounded to."""


@criterion("imp", source="Frankle & Carbin 2019, arXiv:1803.03635; Frankle et al. 2020, arXiv:1912.05671")
@dataclass(frozen=True)
class IMP(IterativePruning):
    """score = |w| of the trained weights that are left, in L levels: train, keep the share 1 - p, rewind, train again.

    Level n = 1, ..., L keeps ``round((1 - p) ** n * N)`` of N connections, over all layers, and the last exactly
    ``round((1 - s) * N)``, with ``L = ceil(log(1 - s) / log(1 - p))``. Level 0 is the dense reference. Each level costs
    a whole training.

    * ``p``: share of the connections left that a level removes.
    * ``rewind``: what a level begins with: the ``weights``, with all other parameters and buffers, of step k of level
      0; the weights as trained, with the schedule from step k (``learning-rate``); or as trained, at the last learning
      rate (``finetune``).
    * ``k``: a number of steps, or a share as ``2%``; ``auto`` is 2 % for weights, 0 for others. ``rewind=weights:k=0``
      is Frankle & Carbin 2019.

    Frankle & Carbin 2019, arXiv:1803.03635; with k > 0 Frankle et al. 2020, arXiv:1912.05671; ``learning-rate`` and
    ``finetune`` Renda et al. 2020, arXiv:2003.02389.
    """

    p: float = 0.2
    rewind: Literal["weights", "learning-rate", "finetune"] = "weights"
    k: str = "auto"

    uses_data: ClassVar[bool] = False
    own_reading: ClassVar[str] = "k = 2 % of the steps by default"
    figure_style: ClassVar[tuple[str, str, str]] = ("#D55E00", "*", "-")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.p < 1:
            raise ValueError(f"p={self.p:g} is outside (0, 1): it is a share")

    def score(self, model: MaskedModel, batch: Batch) -> Scores:
        return {name: weight.abs() for name, weight in model.weights().items()}

    def levels(self, sparsity: float) -> int:
        """L, the number of levels of a sparsity."""
        kept = 1 - sparsity + 10**-DIGITS
        return math.ceil(math.log(kept) / math.log(1 - self.p) - ROUNDING)

    def sparsity_before(self, sparsity: float) -> float:
        # rounded, so that 0.2 is 0.2
        return round(1 - (1 - self.p) ** max(0, self.levels(sparsity) - 1), DIGITS)

    def beginning(self, timeline: Timeline) -> Rewind:
        k = ("2%" if self.rewind == "weights" else "0") if self.k == "auto" else self.k
        step = timeline.step_of(k, f"{self}: k")
        if step == timeline.steps:
            raise UserError(f"{self}: k={k} leaves no step of {timeline.steps} to train")
        return Rewind(step, weights=self.rewind == "weights", last_rate=self.rewind == "finetune")
