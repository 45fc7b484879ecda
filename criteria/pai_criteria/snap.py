"""SNAP and SNAP-it: the sensitivity of the loss to whole units, in one cut or in steps."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from pai_bench import criterion
from pai_bench.masks import Halving, Schedule
from pai_bench.scoring import (
    AuthorsChoice,
    AuthorsStatement,
    Batch,
    DuringOrBefore,
    MaskedModel,
    StructuredCriterion,
    gate_sensitivity,
)

AUTHORS_CHOICES = (
    AuthorsChoice("score_batches", "scores 5 batches of 512 examples", (5,)),
    AuthorsChoice("loss", "applies the negative log-likelihood to raw logits, a bug", ("nll",)),
)


@criterion("snap", source="Verdenius et al. 2020, arXiv:2006.00896")
@dataclass(frozen=True)
class SNAP(StructuredCriterion):
    """score = |dL/dc| at c = 1, where one gate c multiplies all that makes a unit: |sum of w * g over its rows|.

    The sum is over the rows of all roots of the group and their biases, with g = dL/dw over the batch; the gate stands
    after the bias and before normalisation. Of hidden units and heads, whose layers are not linear in their weights, it
    stands behind the output: |sum of w * g over the columns that read it|.

    * ``gate``: ``consumer`` takes the columns for all groups, which is the first-order change of the loss when the
      group is removed, what batch norm adds included.
    * ``tied``: of several roots, such as those of a residual stream, the absolute value of the sum (``joint``), the
      sum of absolute values (``sum``), or the largest (``max``).
    * ``bias``: whether biases count.

    Source: Verdenius et al. 2020, arXiv:2006.00896.
    """

    gate: Literal["producer", "consumer"] = "producer"
    tied: Literal["joint", "sum", "max"] = "joint"
    bias: bool = True

    figure_style: ClassVar[tuple[str, str, str]] = ("#0072B2", "s", "--")
    authors_choices: ClassVar[tuple[AuthorsChoice, ...]] = AUTHORS_CHOICES

    def score(self, model: MaskedModel, batch: Batch) -> Tensor:
        products = model.saliencies(batch, lambda w, g, _loss: w * g)
        assert model.groups is not None
        return gate_sensitivity(model.groups, products, gate=self.gate, tied=self.tied, bias=self.bias)


@criterion("snap-it", source="Verdenius et al. 2020, arXiv:2006.00896")
@dataclass(frozen=True)
class SNAPit(SNAP, DuringOrBefore):
    """score = |dL/dc| as of SNAP, on the smaller network: without the units that earlier cuts have removed.

    * ``when``, ``delay``, ``every``: whether cuts are made before or during training, as of ``snip-it``.

    Source: Verdenius et al. 2020, arXiv:2006.00896.
    """

    schedule: ClassVar[Schedule] = Halving(steps=5)
    authors_choices: ClassVar[tuple[AuthorsChoice, ...]] = AUTHORS_CHOICES
    authors_statements: ClassVar[tuple[AuthorsStatement, ...]] = (
        AuthorsStatement(
            "cifar10",
            "vgg-16",
            "for their VGG-16 without 93 % of the nodes: 99 % of the weights removed, 8 times fewer training FLOPs, 1 "
            "point of accuracy lost (the README of their code)",
        ),
    )
    figure_style: ClassVar[tuple[str, str, str]] = ("#0072B2", "D", ":")
