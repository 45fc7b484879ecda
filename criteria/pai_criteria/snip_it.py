"""SNIP-it: SNIP in steps, elasticity instead of sensitivity."""

from dataclasses import dataclass
from typing import ClassVar

from pai_bench import criterion
from pai_bench.masks import Halving, Schedule
from pai_bench.scoring import AuthorsChoice, AuthorsStatement, Batch, DuringOrBefore, MaskedModel, Scores


@criterion("snip-it", source="Verdenius et al. 2020, arXiv:2006.00896")
@dataclass(frozen=True)
class SNIPit(DuringOrBefore):
    """score = |w * g / L| on the masked network, with g = dL/dw: the elasticity of the loss.

    Removed connections stay removed. Scores are at least 0.

    * ``when``: ``before`` training, or ``during`` it, dense at first: cut i = 1, 2, ... after ``delay + i * every``
      epochs of the published training.

    Verdenius et al. 2020, arXiv:2006.00896.
    """

    schedule: ClassVar[Schedule] = Halving(steps=5)
    properties: ClassVar[tuple[str, ...]] = ("keeps-the-loss", "loss-scale")
    figure_style: ClassVar[tuple[str, str, str]] = ("#0072B2", "s", ":")
    authors_choices: ClassVar[tuple[AuthorsChoice, ...]] = (
        AuthorsChoice("score_batches", "scores 5 batches of 512 examples", (5,)),
        AuthorsChoice("loss", "applies the negative log-likelihood to raw logits, a bug", ("nll",)),
    )

    authors_statements: ClassVar[tuple[AuthorsStatement, ...]] = (
        AuthorsStatement(
            "cifar10",
            "snip-it-resnet-18",
            "for their ResNet-18 without 98 % of the weights: 0 % of accuracy lost if it is pruned during training, "
            "4 % if before (the README of their code)",
        ),
    )

    def score(self, model: MaskedModel, batch: Batch) -> Scores:
        return model.saliencies(batch, lambda w, g, loss: (w * g / loss).abs())
