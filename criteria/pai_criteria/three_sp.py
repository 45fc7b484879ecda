"""3SP: sensitivity per operation saved."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pai_bench import criterion
from pai_bench.scoring import Batch, Groups, MaskedModel, StructuredCriterion, added_later, gate_sensitivity, root_sums


def saved_flops(groups: Groups, *, rows_only: bool = False) -> Tensor:
    """The operations that the network saves, for one example, without each group alone; of its own rows, or in all."""
    found = torch.zeros(groups.count, dtype=torch.float64)
    for name, flops in groups.flops.items():
        left = torch.ones(groups.count, dtype=torch.float64)
        for axis in groups.axes_of.get(name, ()):
            if not rows_only or axis in groups.roots:
                of = groups.by_axis[axis]
                left *= 1 - torch.bincount(of[of >= 0], minlength=groups.count).double() / len(of)
        found += flops * (1 - left)
    for of, flops in () if rows_only else groups.products:
        found[of] += flops / len(of)
    return found


@criterion("3sp", source="van Amersfoort et al. 2020, arXiv:2007.00389 (pai-bench's reading)")
@dataclass(frozen=True)
class ThreeSP(StructuredCriterion):
    """score = |sum of w * g over a group's rows| / F, with F the operations saved when this group alone is removed.

    g = dL/dw over the batch, as of SNAP.

    * ``compute_aware``: without it, the numerator alone.
    * ``reduce``: ``l2`` takes the square root of the sum of squares of w * g, in place of the gate's |sum|.
    * ``cost``: what F counts: also the columns that read the unit (``removed``), or its own rows alone (``own``).

    Source: van Amersfoort et al. 2020, arXiv:2007.00389. The abstract defines sensitivity per operation removed; the
    exact numerator, and the treatment of shortcuts, are pai-bench's reading.
    """

    compute_aware: bool = True
    cost: Literal["removed", "own"] = "removed"
    reduce: Literal["gate", "l2"] = added_later("gate")

    figure_style: ClassVar[tuple[str, str, str]] = ("#CC79A7", "^", "--")
    own_reading: ClassVar[str] = (
        "pai-bench's reading of the paper, whose abstract defines sensitivity per operation removed: the exact "
        "numerator, and what becomes of shortcuts, were decided here"
    )

    def score(self, model: MaskedModel, batch: Batch) -> Tensor:
        groups = model.groups
        assert groups is not None
        products = model.saliencies(batch, lambda w, g, _loss: w * g)
        if self.reduce == "l2":
            squares = {name: product.square() for name, product in products.items()}
            scores = torch.stack(root_sums(groups, squares, bias=False)).sum(0).sqrt()
        else:
            scores = gate_sensitivity(groups, products, bias=False)
        if not self.compute_aware:
            return scores
        return scores / saved_flops(groups, rows_only=self.cost == "own").to(scores)
