"""A criterion for pai-bench, in a package of its own."""

from dataclasses import dataclass
from typing import ClassVar

from pai_bench import criterion
from pai_bench.scoring import Batch, Criterion, MaskedModel, Scores


@criterion("gradient-magnitude", source="an example")
@dataclass(frozen=True)
class GradientMagnitude(Criterion):
    """score = |g|, with g = dL/dw."""

    properties: ClassVar[tuple[str, ...]] = ("loss-scale",)

    def score(self, model: MaskedModel, batch: Batch) -> Scores:
        return model.saliencies(batch, lambda _w, g, _loss: g.abs())
