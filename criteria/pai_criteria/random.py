"""Random scores: the baseline that every criterion has to beat."""

from dataclasses import dataclass
from typing import ClassVar

from pai_bench import criterion
from pai_bench.scoring import Batch, Criterion, MaskedModel, Scores


@criterion("random", source="baseline")
@dataclass(frozen=True)
class Random(Criterion):
    """score = u, independent and uniform in [0, 1): the baseline. The batch is not used.

    Drawn in float64 from the seed alone, so that the scores are the same on every device.
    """

    uses_data: ClassVar[bool] = False
    figure_style: ClassVar[tuple[str, str, str]] = ("#000000", "X", "-")

    def score(self, model: MaskedModel, batch: Batch) -> Scores:
        return model.uniform()
