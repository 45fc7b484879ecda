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
    Groups,
    MaskedModel,
    Scores,
    StructuredCriterion,
    gate_sensitivity,
)
from pai_criteria.snip_it import AUTHORS_CHOICES


@dataclass(frozen=True, kw_only=True)
class Gates:
    """The options of criteria that score units by gates, and the score of a gate: |dL/dc| at c = 1."""

    gate: Literal["producer", "consumer"] = "producer"
    tied: Literal["joint", "sum", "max"] = "joint"
    bias: bool = True

    def of_units(self, groups: Groups, products: Scores) -> Tensor:
        """The scores of all groups, (groups,), from the products w * g by name."""
        return gate_sensitivity(groups, products, gate=self.gate, tied=self.tied, bias=self.bias)


@criterion("snap", source="Verdenius et al. 2020, arXiv:2006.00896")
@dataclass(frozen=True)
class SNAP(Gates, StructuredCriterion):
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

    figure_style: ClassVar[tuple[str, str, str]] = ("#0072B2", "s", "--")
    authors_choices: ClassVar[tuple[AuthorsChoice, ...]] = AUTHORS_CHOICES

    def score(self, model: MaskedModel, batch: Batch) -> Tensor:
        assert model.groups is not None
        return self.of_units(model.groups, model.saliencies(batch, lambda w, g, _loss: w * g))


@criterion("snap-it", source="Verdenius et al. 2020, arXiv:2006.00896")
@dataclass(frozen=True)
class SNAPit(SNAP):
    """score = |dL/dc| as of SNAP, on the smaller network: without the units that earlier cuts have removed.

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
