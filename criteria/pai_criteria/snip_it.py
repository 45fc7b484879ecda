"""SNIP-it: SNIP in steps, elasticity instead of sensitivity."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from pai_bench import criterion
from pai_bench.pruning import AuthorsChoice, Batch, Criterion, Halving, Schedule, Scores, saliencies


@criterion("snip-it", source="Verdenius et al. 2020, arXiv:2006.00896")
@dataclass(frozen=True)
class SNIPit(Criterion):
    """score = |w * g / L| on the masked network, with g = dL/dw; removed connections stay removed."""

    schedule: ClassVar[Schedule] = Halving(steps=5)
    claims: ClassVar[tuple[str, ...]] = ("keeps-the-loss", "loss-scale")
    figure_style: ClassVar[tuple[str, str, str]] = ("#0072B2", "s", ":")
    authors_choices: ClassVar[tuple[AuthorsChoice, ...]] = (
        AuthorsChoice("score_batches", "scores 5 batches of 512 examples", (5,)),
        AuthorsChoice("loss", "applies the negative log-likelihood to raw logits, a bug", ("nll",)),
    )

    def score(self, model: nn.Module, batch: Batch) -> Scores:
        return saliencies(model, batch, lambda w, g, loss: g.mul_(w).div_(loss).abs_())
