"""Weight magnitude, at initialisation."""

from dataclasses import dataclass
from typing import ClassVar

from pai_bench import criterion
from pai_bench.scoring import Batch, Criterion, MaskedModel, Scores


@criterion("magnitude", source="Han et al. 2015, arXiv:1506.02626, applied at initialisation")
@dataclass(frozen=True)
class Magnitude(Criterion):
    """score = |w|, the magnitude of the initial weight. The batch is not used.

    Han et al. 2015, arXiv:1506.02626, who apply it to trained weights.
    """

    uses_data: ClassVar[bool] = False
    figure_style: ClassVar[tuple[str, str, str]] = ("#E69F00", "D", "-")

    def score(self, model: MaskedModel, batch: Batch) -> Scores:
        return {name: weight.abs() for name, weight in model.weights().items()}
