"""A third party's criterion for pai-bench."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from pai_bench import criterion
from pai_bench.pruning import Batch, Criterion, Scores, saliencies


@criterion("gradient-magnitude", source="an example")
@dataclass(frozen=True)
class GradientMagnitude(Criterion):
    """score = |g|, with g = dL/dw."""

    claims: ClassVar[tuple[str, ...]] = ("loss-scale",)

    def score(self, model: nn.Module, batch: Batch) -> Scores:
        return saliencies(model, batch, lambda _w, g, _loss: g.abs_())
