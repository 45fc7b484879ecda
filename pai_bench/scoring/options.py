"""The options of every criterion, and what the scorer needs to know of it beside its formula."""

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal

from torch import nn

from pai_bench.masks.selection import Ties
from pai_bench.networks.private_copy import BatchNormMode
from pai_bench.support import spec
from pai_bench.support.errors import UserError
from pai_bench.support.registry import INITIALISATIONS


@dataclass(frozen=True, kw_only=True)
class CriterionOptions(ABC):
    """The options of every criterion.

    * ``bn``: the statistics that batch norm uses while scoring: those of the batch (``train``), or the running ones
      (``eval``). Dropout is always off.
    * ``seed``: of the criterion's random numbers, in 0..2**63 - 1; by default the caller's.
    * ``accumulate``: with several score batches, whether the formula is applied to the gradient of their mean loss
      (``gradient``), or to the gradient of each, and the scores are summed (``score``).
    * ``score_init``: the weights that are scored: those that will be trained (``trained``), another draw of their
      initialisation (``redrawn``), or a draw by the named one (`pai_bench.support.initialise`): Glorot (``vs-x``), He
      (``vs-h``), by fan in (``vs``), standard normal (``rn``), or truncated at 2 (``tn``).
    * ``loss``: L, the cross-entropy of the logits, or as some codes have it by mistake (``nll``), the negative
      log-likelihood of logits taken as log-probabilities: minus the logit of the target.
    * ``ties``: which connections are kept whose scores equal the threshold: the first by position, so that the number
      is exact (``position``), all of them (``keep``), or none (``remove``).
    * ``biases``: whether biases are scored, and counted in the budget, like weights.
    * ``micro_batch``: number of examples, at least 1, that go through the network at once, to save memory. The
      gradients are those of the whole batch.
    * ``score_dtype``: the data type of scoring, ``float32`` or ``float64``. By default that of the weights, but float32
      for half precision, in which most scores underflow. In float64, masks from two machines differ only where scores
      differ by less than its rounding.

    Raises `UserError` for a value of another type or out of range.
    """

    bn: BatchNormMode = "eval"
    seed: int | None = None
    accumulate: Literal["gradient", "score"] = spec.added_later("gradient")
    score_init: Annotated[str, spec.OneOf(("trained", "redrawn"), INITIALISATIONS)] = spec.added_later("trained")
    loss: Literal["cross-entropy", "nll"] = spec.added_later("cross-entropy")
    ties: Ties = spec.added_later("position")
    biases: bool = spec.added_later(False)
    micro_batch: int | None = spec.added_later(None)
    score_dtype: Literal["float32", "float64"] | None = spec.added_later(None)

    name: ClassVar[str] = ""
    uses_data: ClassVar[bool] = True
    """Whether the score depends on the batch. If not, it does not depend on ``bn`` either."""
    structured: ClassVar[bool] = False
    """Whether it scores groups of weights, which are removed whole (`pai_bench.scoring.StructuredCriterion`)."""
    combined: ClassVar[bool] = False
    """Whether it scores groups and single weights (`pai_bench.scoring.CombinedCriterion`)."""
    normalised: ClassVar[bool] = False
    """Whether the scorer divides the scores by their sum over the network, so that the formula need not."""
    _formula_behind_score: ClassVar[Callable[..., Any]]
    """The `score` that the class defines. Its attribute `score` is the wrapper for callers."""

    def __post_init__(self) -> None:
        hints = spec.option_types(type(self))
        for f in fields(self):
            if f.name in hints:
                label = f"{self.name or type(self).__name__}:{f.name}"
                object.__setattr__(self, f.name, spec.convert(getattr(self, f.name), hints[f.name], label))
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise UserError(f"seed={self.seed} is outside 0..2**63")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise UserError(f"micro_batch={self.micro_batch} must be at least 1")

    def prepare(self, model: nn.Module) -> None:  # noqa: B027  # most criteria have nothing to do here
        """Change the private copy of the network, once, before any mask is applied. `score` may not change it."""
