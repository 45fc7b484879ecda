"""CNIP and CNIP-it: single weights and whole units in one ranking, in one cut or in steps."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pai_bench import criterion
from pai_bench.masks import Halving, Schedule
from pai_bench.scoring import (
    AuthorsChoice,
    Batch,
    CombinedCriterion,
    CombinedScores,
    DuringOrBefore,
    MaskedModel,
    gate_sensitivity,
)

AUTHORS_CHOICES = (
    AuthorsChoice("count", "counts weights and units above its threshold, not the weights left", ("published",)),
    AuthorsChoice("score_batches", "scores 5 batches of 512 examples, others for units than for weights", (5,)),
    AuthorsChoice("loss", "applies the negative log-likelihood to raw logits, a bug", ("nll",)),
)


@criterion("cnip", source="Verdenius et al. 2020, arXiv:2006.00896")
@dataclass(frozen=True)
class CNIP(CombinedCriterion):
    """score = |w * g| of single weights, and of units |sum of w * g over the rows|, as SNAP's, in one ranking.

    Both are |dL/dc| at c = 1, where c multiplies the weight, or all that makes the unit, with g = dL/dw over the same
    batch. Dividing both by |L| would not change the ranking. What scores less than one threshold goes, and a weight
    also if one of its units goes.

    * ``count``: ``exact`` keeps as many weights as asked for: the largest threshold that leaves enough, and of these
      without the lowest. ``published`` counts weights and units above the threshold; weights of removed units are
      counted nowhere, so that fewer weights are left than asked for.
    * ``gate``, ``tied``, ``bias``: of the units, as of SNAP.

    Source: Verdenius et al. 2020, arXiv:2006.00896. Their code scores weights and units on different batches.
    """

    gate: Literal["producer", "consumer"] = "producer"
    tied: Literal["joint", "sum", "max"] = "joint"
    bias: bool = True

    figure_style: ClassVar[tuple[str, str, str]] = ("#56B4E9", "o", "--")
    authors_choices: ClassVar[tuple[AuthorsChoice, ...]] = AUTHORS_CHOICES

    def score(self, model: MaskedModel, batch: Batch) -> CombinedScores:
        products, groups = model.saliencies(batch, lambda w, g, _loss: w * g), model.groups
        assert groups is not None
        # before the products lose their signs
        units = gate_sensitivity(groups, products, gate=self.gate, tied=self.tied, bias=self.bias)
        return CombinedScores({name: products[name].abs_() for name in groups.weights}, units)


@criterion("cnip-it", source="Verdenius et al. 2020, arXiv:2006.00896")
@dataclass(frozen=True)
class CNIPit(CNIP, DuringOrBefore):
    """score = |w * g| and |sum of w * g| as of CNIP, on the smaller network without what earlier cuts have removed.

    * ``when``, ``delay``, ``every``: whether cuts are made before or during training, as of ``snip-it``.

    Source: Verdenius et al. 2020, arXiv:2006.00896.
    """

    schedule: ClassVar[Schedule] = Halving(steps=5)
    figure_style: ClassVar[tuple[str, str, str]] = ("#56B4E9", "D", ":")
    authors_choices: ClassVar[tuple[AuthorsChoice, ...]] = AUTHORS_CHOICES
