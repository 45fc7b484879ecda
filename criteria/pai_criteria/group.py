"""Any criterion of single weights, over the weights of each group."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pai_bench import UserError, criterion
from pai_bench.masks import OneShot, Schedule
from pai_bench.scoring import (
    Batch,
    BatchNormMode,
    Criterion,
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
      ``group:of=grasp:of.temperature=1``. Its option ``bn``, too: ``group:of=snip:of.bn=train``.
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
        if inner.uses_data and self.bn not in (type(self).bn, inner.bn):
            what = f"{inner.name or self.of}, which gives the scores, has bn={inner.bn}"
            raise UserError(f"{self.name}:of={self.of}: {what}; write of.bn={self.bn} in the place of bn={self.bn}")

    def __str__(self) -> str:
        """With the criterion, whichever it is, so that tables say what is compared."""
        name, *options = super().__str__().split(":")
        return ":".join([name, *([] if self.of != "magnitude" else ["of=magnitude"]), *options])

    @property
    def renamed(self) -> tuple[str, str] | None:
        """Magnitude was not written at first."""
        if self.of != "magnitude":
            return super().renamed
        return f"{self.name}:of=magnitude", self.former_name or self.name

    def with_batch_norm(self, mode: BatchNormMode) -> Criterion:
        inner, of = get_criterion(self.of), self.of
        if inner.uses_data and inner.bn != mode:
            given = [option.partition("=")[0].strip() for option in of.split(":")[1:]]
            if "bn" in given or self.bn != type(self).bn:
                raise UserError(f"{self} and bn {mode} ask for different modes of batch norm")
            of = f"{of}:bn={mode}"  # which gives the scores
        return dataclasses.replace(self, of=of, bn=mode) if of != self.of else super().with_batch_norm(mode)

    def formula_version_under(self, schedule: Schedule) -> int:
        inner = get_criterion(self.of)
        own = super().formula_version_under(schedule) + (self.reduce == "gate")  # whose sums were not signed at first
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
