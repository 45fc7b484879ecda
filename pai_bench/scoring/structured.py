"""Criteria that score groups, which are removed whole, in place of single weights."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pai_bench.groups import Groups, find_groups
from pai_bench.masks.schedule import Schedule
from pai_bench.networks.wrappers import innermost
from pai_bench.scoring.batch import Batch, BatchLike, Scores, as_batch
from pai_bench.scoring.criterion import Criterion
from pai_bench.scoring.masked_model import MaskedModel
from pai_bench.scoring.redraw import Draw
from pai_bench.scoring.scorer import Scorer, checked
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

    def formula_version_under(self, schedule: Schedule) -> int:
        """As of all criteria; one higher under ``accumulate=score``, whose batches were not scored apart at first."""
        return super().formula_version_under(schedule) + (self.accumulate == "score")

    def score_network(self, model: nn.Module, batch: Batch) -> Any:
        """One score for each group of a network, on its device."""
        return score_groups(self, model, batch)


class CombinedScores(NamedTuple):
    """The scores of single weights and of groups, which are comparable: both are put in one ranking."""

    weights: Scores
    """Of each weight of the network (`Groups.weights`), by name."""
    groups: Tensor
    """Of each group, (groups,)."""

    def __neg__(self) -> "CombinedScores":
        return CombinedScores({name: -score for name, score in self.weights.items()}, -self.groups)


@dataclass(frozen=True, kw_only=True)
class CombinedCriterion(StructuredCriterion):
    """A criterion that scores groups and single weights, all of which are put in one ranking.

    A subclass implements `score`, which returns `CombinedScores`. Single weights and groups that score less than a
    threshold are removed, and a weight also if a group that it lies in is. A sparsity is a share of the weights.

    * ``count``: ``exact`` takes the largest threshold that leaves at least as many weights as asked for; of these, the
      lowest go until the number is exact. ``published`` counts weights and groups that score more than the threshold,
      and nothing makes up for weights that lie in removed groups: fewer weights are left than asked for.
    """

    combined: ClassVar[bool] = True

    count: Literal["exact", "published"] = "exact"

    @abstractmethod
    def score(self, model: Any, batch: Any) -> Any:
        """The scores of all weights and groups, `CombinedScores`: those with the highest are kept.

        Raises `CriterionError` for scores that cannot be ranked, UserError for a network without free groups.
        """


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
            raise nothing_free(criterion, type(innermost(model)).__name__, groups)
        groups.check(model)
        names = involved(groups, model, combined=criterion.combined)
        super().__init__(criterion, model, seed=seed, only=names, draw=draw, returns=False)
        self.model.groups = groups

    def score(self, batch: Batch, mask: Mapping[str, Tensor] | None = None) -> Any:
        """One score for each group, a tensor of shape (groups,); of a `CombinedCriterion`, `CombinedScores`.

        `mask` may be of some of the scored parameters; all of the others is kept.
        """
        if mask is not None:
            whole = {name: torch.ones_like(p, dtype=torch.bool) for name, p in self.model.prunable.items()}
            mask = whole | {name: kept.to(self._device) for name, kept in mask.items()}
        parts = batch.split() if self.criterion.accumulate == "score" else [batch]
        first, *others = (self._of(part, mask) for part in parts)
        for other in others:
            first = added(first, other)
        return first

    def _of(self, batch: Batch, mask: Mapping[str, Tensor] | None) -> Any:
        """The scores by one score batch, or by all of them together."""
        scores = self.run(batch, mask)
        if not self.criterion.combined:
            return self._checked(scores)
        if not isinstance(scores, tuple) or len(scores) != 2:
            what = type(scores).__name__
            raise CriterionError(f"{self.label} returned {what}, not CombinedScores: of single weights, and of groups")
        groups = self.model.groups
        assert groups is not None
        weights = {name: self.model.prunable[name] for name in groups.weights if name in self.model.prunable}
        if len(weights) < len(groups.weights):
            name = next(name for name in groups.weights if name not in weights)
            raise UserError(f"{self.label}: {name!r} is no parameter of a floating-point type, so that it has no score")
        return CombinedScores(checked(scores[0], weights, self.label)[0], self._checked(scores[1]))

    def _checked(self, scores: Any) -> Tensor:
        """The scores of groups, if they can be ranked."""
        groups = self.model.groups
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
        return scores.detach().to(self._device, copy=True)


def added(first: Any, second: Any) -> Any:
    """The sum of the scores of two score batches."""
    if not isinstance(first, CombinedScores):
        return first + second
    weights = {name: score + second.weights[name] for name, score in first.weights.items()}
    return CombinedScores(weights, first.groups + second.groups)


def involved(groups: Groups, model: nn.Module, *, combined: bool = False) -> list[str]:
    """The parameters whose slices score a group: weights that make or read it, and the biases of the former.

    With `combined`, all weights.
    """
    axes = {axis.name for axis in (*groups.roots, *groups.consumers)} | {axis.name for axis in groups.biases.values()}
    names = axes.union(groups.weights) if combined else axes
    return [name for name, p in innermost(model).named_parameters() if name in names and p.is_floating_point()]


def nothing_free(criterion: Criterion, network: str, groups: Groups) -> UserError:
    """The error for a network without free groups, with the first reasons."""
    reasons = list(dict.fromkeys(reason for of in groups.fixed.values() for reason in of))
    fixed = f"all its layers are fixed ({'; '.join(reasons[:3])})"
    why = fixed if reasons else "no operation with weights is known in it"
    return UserError(f"{criterion}: no unit of {network} can be removed, since {why}")


def score_groups(
    criterion: Criterion,
    model: nn.Module,
    batch: BatchLike,
    *,
    groups: Groups | None = None,
    seed: int = 0,
) -> Any:
    """The scores of `criterion` for the groups of `model`, without side effects: what `GroupScorer.score` gives."""
    if not isinstance(criterion, StructuredCriterion):
        raise UserError(f"{criterion} scores single weights, not groups")
    batch = as_batch(batch)
    groups = find_groups(model, batch.inputs[:1]) if groups is None else groups
    with GroupScorer(criterion, model, groups, seed=seed) as scorer:
        return scorer.score(batch)


def unstructured_scores(
    model: MaskedModel, batch: Batch, criterion: Criterion, *, signed: bool = False
) -> Mapping[str, Tensor]:
    """The scores of all weights, by a criterion of single weights, of the network whose groups a formula scores.

    `signed`: those of SNIP and others that `MaskedModel.saliencies` computes get the sign of w * g.
    """
    assert model.groups is not None
    mask = None if model.mask is None else {name: model.mask[name] for name in model.groups.weights}
    with Scorer.within(model, criterion, only=model.groups.weights) as scorer:
        scorer.model.signed, scorer.model.returns = signed, model.returns
        return scorer.score(batch, mask)
