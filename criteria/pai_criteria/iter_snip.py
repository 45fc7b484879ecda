"""Iter-SNIP: SNIP on the masked network, in many small steps."""

from dataclasses import dataclass
from typing import ClassVar

from pai_bench import criterion
from pai_bench.masks import Exponential, Schedule
from pai_bench.scoring import Batch, BatchNormMode, Criterion, MaskedModel, Scores


@criterion("iter-snip", source="de Jorge et al. 2021, arXiv:2006.09081, section 4")
@dataclass(frozen=True)
class IterSNIP(Criterion):
    """score = |w * g| / sum |w * g| on the masked network, with g = dL/dw: SNIP in many cuts.

    The sum is over the kept connections; removed connections stay removed. Scores are at least 0.

    de Jorge et al. 2021, arXiv:2006.09081, section 4.
    """

    bn: BatchNormMode = "train"

    schedule: ClassVar[Schedule] = Exponential(steps=60)
    normalised: ClassVar[bool] = True
    properties: ClassVar[tuple[str, ...]] = ("keeps-the-loss", "loss-scale")
    figure_style: ClassVar[tuple[str, str, str]] = ("#0072B2", "v", "--")

    def score(self, model: MaskedModel, batch: Batch) -> Scores:
        return model.saliencies(batch, lambda w, g, _loss: (w * g).abs())
