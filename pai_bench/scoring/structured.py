"""Criteria that score groups, which are removed whole, in place of single weights."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from pai_bench.groups import Groups, find_groups
from pai_bench.networks.wrappers import innermost
from pai_bench.scoring.batch import Batch, BatchLike, as_batch
from pai_bench.scoring.criterion import Criterion
from pai_bench.scoring.masked_model import MaskedModel
from pai_bench.scoring.redraw import Draw
from pai_bench.scoring.scorer import Scorer
from pai_bench.support.errors import CriterionError, UserError


@dataclass(frozen=True, kw_only=True)
class StructuredCriterion(Criterion):
    """A criterion that gives one score to each group of a network (`pai_bench.groups.Groups`).

    A subclass implements `score`, a formula of a `MaskedModel`, whose `groups` are to be scored, and a `Batch`; it
    returns a tensor of shape (groups,). Callers give any network, as to every criterion.
    """

    structured: ClassVar[bool] = True

    @abstractmethod
    def score(self, model: Any, batch: Any) -> Any:
        """One score for each group, of shape (groups,): groups with the highest are kept.

        Raises `CriterionError` for scores that cannot be ranked, UserError for a network without free groups.
        """

    def score_network(self, model: nn.Module, batch: Batch) -> Tensor:
        """One score for each group of a network, on its device."""
        return score_groups(self, model, batch)


class GroupScorer(Scorer):
    """Scores the groups of one network by one structured criterion, as `Scorer` does single weights.

    The formula is given derivatives of all weights that make or read a unit, and of the biases added to units.
    """

    def __init__(
        self,
        criterion: StructuredCriterion,
        model: nn.Module,
        groups: Groups,
        *,
        seed: int = 0,
        draw: Draw | None = None,
    ) -> None:
        if not groups.count:
            raise UserError(
                f"{criterion}: no unit of {type(innermost(model)).__name__} can be removed: {why_fixed(groups)}"
            )
        super().__init__(criterion, model, seed=seed, only=involved(groups, model), draw=draw, returns=False)
        self.model.groups = groups

    def score(self, batch: Batch, mask: Mapping[str, Tensor] | None = None) -> Any:
        """One score for each group, a tensor of shape (groups,)."""
        groups, scores = self.model.groups, self.run(batch, mask)
        assert groups is not None
        if not isinstance(scores, Tensor):
            raise CriterionError(
                f"{self.label} returned {type(scores).__name__}, not a tensor with a score for each group"
            )
        if scores.shape != (groups.count,):
            raise CriterionError(f"{self.label} gave scores of shape {tuple(scores.shape)} to {groups.count} groups")
        if not scores.is_floating_point():
            raise CriterionError(f"{self.label} gave scores of dtype {scores.dtype}, which is not a float")
        if not bool(scores.isfinite().all()):
            kind = "NaN" if bool(scores.isnan().any()) else "infinite"
            raise CriterionError(f"{self.label} gave {kind} scores; nothing can be ranked by them")
        return scores.detach().clone()


def involved(groups: Groups, model: nn.Module) -> list[str]:
    """The parameters whose slices score a group: weights that make or read it, and the biases of the former."""
    axes = {axis.name for axis in (*groups.roots, *groups.consumers)} | {axis.name for axis in groups.biases.values()}
    return [name for name, p in innermost(model).named_parameters() if name in axes and p.is_floating_point()]


def why_fixed(groups: Groups) -> str:
    """The reasons why nothing can be removed, in words."""
    reasons = dict.fromkeys(reason for of in groups.fixed.values() for reason in of)
    return "; ".join(list(reasons)[:3]) or "no operation with weights is known in it"


def score_groups(
    criterion: Criterion,
    model: nn.Module,
    batch: BatchLike,
    *,
    groups: Groups | None = None,
    seed: int = 0,
) -> Tensor:
    """The scores of `criterion` for the groups of `model`, without side effects."""
    if not isinstance(criterion, StructuredCriterion):
        raise UserError(f"{criterion} scores single weights, not groups")
    batch = as_batch(batch)
    groups = find_groups(model, batch.inputs[:1]) if groups is None else groups
    with GroupScorer(criterion, model, groups, seed=seed) as scorer:
        scores: Tensor = scorer.score(batch)
        return scores


def unstructured_scores(
    model: MaskedModel, batch: Batch, criterion: Criterion, *, signed: bool = False
) -> Mapping[str, Tensor]:
    """The scores of all weights, by a criterion of single weights, of the network whose groups a formula scores.

    `signed`: those of SNIP and others that `MaskedModel.saliencies` computes get the sign of w * g.
    """
    assert model.groups is not None
    with Scorer.within(model, criterion, only=model.groups.weights) as scorer:
        scorer.model.signed = signed
        return scorer.score(batch)
