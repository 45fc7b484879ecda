"""SNIP: connection sensitivity."""

from dataclasses import dataclass
from typing import ClassVar

from pai_bench import criterion
from pai_bench.scoring import AuthorsChoice, Batch, Criterion, MaskedModel, Scores


@criterion("snip", source="Lee et al. 2019, arXiv:1810.02340, eq. 6")
@dataclass(frozen=True)
class SNIP(Criterion):
    """score = |w * g| / sum |w * g|, with g = dL/dw: the normalised connection sensitivity.

    L is the mean loss over the batch. w * g = dL/dc at c = 1, where c multiplies the weight. The sum is over the kept
    connections, at first all, so that the scores are in [0, 1] and sum to 1.

    Lee et al. 2019, arXiv:1810.02340, eq. 6.
    """

    normalised: ClassVar[bool] = True
    properties: ClassVar[tuple[str, ...]] = ("keeps-the-loss", "loss-scale")
    figure_style: ClassVar[tuple[str, str, str]] = ("#0072B2", "o", "-")
    authors_choices: ClassVar[tuple[AuthorsChoice, ...]] = (
        AuthorsChoice("score_sampling", "draws its score batch at random", ("random",)),
        AuthorsChoice(
            "score_init",
            "scores another draw of the initialisation than the one that is trained",
            otherwise=("trained",),
        ),
        AuthorsChoice("biases", "counts biases in its budget", (True,)),
    )

    def score(self, model: MaskedModel, batch: Batch) -> Scores:
        return model.saliencies(batch, lambda w, g, _loss: (w * g).abs())
