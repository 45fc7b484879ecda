"""GraSP: gradient signal preservation."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

from pai_bench import criterion
from pai_bench.masks import Schedule
from pai_bench.scoring import (
    AuthorsChoice,
    Batch,
    BatchNormMode,
    Criterion,
    CriterionError,
    MaskedModel,
    Scores,
    added_later,
)


@criterion("grasp", source="Wang et al. 2020, arXiv:2002.07376, eq. 8")
@dataclass(frozen=True)
class GraSP(Criterion):
    """score = w * (H g), with g = dL/dw and the Hessian H of L, the loss at logits / ``temperature``.

    The paper removes the connections with the largest -w * (H g), whose removal reduces the gradient norm least. Scores
    have either sign.

    * ``temperature``: divides the logits; positive.
    * ``halves``: the batch is sorted by class and goes through the network in two halves, of which L is the mean loss,
      as in the authors' code, to save memory. Without batch norm in ``train`` mode the scores are the same.
    * ``gradient``: under a schedule of several cuts, whether g is zero at removed connections (``kept``), so that the
      gradient norm is that of the pruned network, as in the codes of SynFlow and NTK-SAP; or includes them (``all``),
      as in that of "Missing the mark".

    Raises `CriterionError` for a temperature that is not positive, for ``halves`` with ``accumulate=score``, with
    several score batches, or with targets that are not class indices.

    Wang et al. 2020, arXiv:2002.07376, eq. 8.
    """

    temperature: float = 200.0
    halves: bool = added_later(False)
    gradient: Literal["kept", "all"] = added_later("kept")
    bn: BatchNormMode = "train"

    formula_version: ClassVar[int] = 2
    """From 2 on, cuts after the first count gradients of kept connections only."""
    figure_style: ClassVar[tuple[str, str, str]] = ("#D55E00", "s", "-")
    authors_choices: ClassVar[tuple[AuthorsChoice, ...]] = (
        AuthorsChoice("score_init", "draws its linear layers again for scoring", otherwise=("trained",)),
        AuthorsChoice("halves", "takes the gradients of two halves of the score batch, sorted by class", (True,)),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.halves and self.accumulate == "score":
            raise CriterionError("halves sums gradients of parts of a batch, accumulate=score sums scores: give one")
        if self.temperature <= 0:
            raise CriterionError(f"temperature={self.temperature} must be positive")

    def score(self, model: MaskedModel, batch: Batch) -> Scores:
        if self.halves:
            if batch.targets.dim() > 1:
                raise CriterionError(f"{self} sorts by class, but the targets are no class indices")
            if batch.batches > 1:
                raise CriterionError(f"{self} divides one score batch by class; it has {batch.batches}")
            order = batch.targets.argsort(stable=True)
            batch = dataclasses.replace(batch, inputs=batch.inputs[order], targets=batch.targets[order], batches=2)
        kept_only = self.gradient == "kept"
        return model.hessian_saliencies(
            batch, lambda w, hg, _value: w * hg, temperature=self.temperature, kept_only=kept_only
        )

    def formula_version_under(self, schedule: Schedule) -> int:
        return 1 if schedule.steps == 1 else self.formula_version
