"""Any criterion of single weights, over the weights of each group."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pai_bench import UserError, criterion
from pai_bench.masks import OneShot, Schedule
from pai_bench.scoring import (
    Batch,
    MaskedModel,
    StructuredCriterion,
    get_criterion,
    root_sums,
    unstructured_scores,
)


@criterion("group", source="magnitude: Li et al. 2017, arXiv:1608.08710")
@dataclass(frozen=True)
class Group(StructuredCriterion):
    """score = the scores that a criterion gives to single weights, reduced over the rows that make a unit.

    * ``of``: the criterion, whose schedule is not used; its options are written behind it, as in
      ``group:of=grasp:of.temperature=1``.
    * ``reduce``: the sum over the rows of all roots of the group (``sum``; of magnitude, the L1 norm of filters), the
      square root of the sum of squares (``l2``), the ``mean``, or the absolute value of the sum of signed scores
      (``gate``: of SNIP and its kind, whose scores are |w * g|, the sum of w * g, which is SNAP without biases).

    Source of magnitude over filters: Li et al. 2017, arXiv:1608.08710.
    """

    of: str = "magnitude"
    reduce: Literal["sum", "l2", "mean", "gate"] = "sum"

    figure_style: ClassVar[tuple[str, str, str]] = ("#E69F00", "v", "--")

    def __post_init__(self) -> None:
        super().__post_init__()
        inner = get_criterion(self.of)
        if inner.ties != "position" or inner.biases:
            raise UserError(f"{self.name}:of={self.of}: ties and biases of single weights have no meaning for groups")
        if inner.structured:
            raise UserError(f"{self.name}:of={self.of} scores groups itself; give a criterion of single weights")

    def formula_version_under(self, schedule: Schedule) -> int:
        inner = get_criterion(self.of)
        own = self.formula_version + (self.reduce == "gate")  # whose sums were not signed at first
        return own + inner.formula_version_under(OneShot()) - 1  # every cut is scored as the first one

    def score(self, model: MaskedModel, batch: Batch) -> Tensor:
        groups = model.groups
        assert groups is not None
        scores = unstructured_scores(model, batch, get_criterion(self.of), signed=self.reduce == "gate")
        if self.reduce == "l2":
            return torch.stack(root_sums(groups, {n: s.square() for n, s in scores.items()})).sum(0).sqrt()
        sums = torch.stack(root_sums(groups, scores)).sum(0)
        if self.reduce == "mean":
            return sums / torch.stack(root_sums(groups, {n: torch.ones_like(s) for n, s in scores.items()})).sum(0)
        return sums.abs() if self.reduce == "gate" else sums
