"""FORCE: foresight connection sensitivity."""

from dataclasses import dataclass
from typing import ClassVar

from pai_bench import criterion
from pai_bench.masks import Exponential, Schedule
from pai_bench.scoring import AuthorsChoice, Batch, BatchNormMode, Criterion, MaskedModel, Scores


@criterion("force", source="de Jorge et al. 2021, arXiv:2006.09081, eq. 8")
@dataclass(frozen=True)
class FORCE(Criterion):
    """score = |w * g|, with w the dense weight and g = dL/dw at the masked network; removed connections may return.

    They are scored too, and a later cut may keep them (``returns`` of the schedule). Scores are at least 0.

    de Jorge et al. 2021, arXiv:2006.09081, eq. 8.
    """

    bn: BatchNormMode = "train"

    schedule: ClassVar[Schedule] = Exponential(steps=60, returns=True)
    properties: ClassVar[tuple[str, ...]] = ("keeps-the-loss", "loss-scale")
    figure_style: ClassVar[tuple[str, str, str]] = ("#CC79A7", "P", "-")
    authors_choices: ClassVar[tuple[AuthorsChoice, ...]] = (
        AuthorsChoice("loss", "applies the negative log-likelihood to raw logits, a bug", ("nll",)),
    )

    def score(self, model: MaskedModel, batch: Batch) -> Scores:
        return model.saliencies(batch, lambda w, g, _loss: (w * g).abs())
