"""GraSP: gradient signal preservation."""

from dataclasses import dataclass

from torch import nn

from pai_bench.pruning import Batch, BatchNormMode, Criterion, CriterionError, Scores, hessian_saliencies
from pai_bench.registry import criterion


@criterion("grasp", source="Wang et al. 2020, arXiv:2002.07376, eq. 8")
@dataclass(frozen=True)
class GraSP(Criterion):
    """score = w * (H g), with g and the Hessian H of L at logits / ``temperature``.

    The paper removes the connections with the largest -w * (H g): those whose removal costs the gradient norm least.
    """

    temperature: float = 200.0
    bn: BatchNormMode = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise CriterionError(f"temperature={self.temperature} must be positive")

    def score(self, model: nn.Module, batch: Batch) -> Scores:
        return hessian_saliencies(model, batch, lambda w, hg, _value: hg.mul_(w), temperature=self.temperature)
