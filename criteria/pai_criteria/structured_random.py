"""Random scores of groups: the baseline of structured pruning."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pai_bench import criterion
from pai_bench.scoring import Batch, MaskedModel, StructuredCriterion


@criterion("structured-random", source="baseline")
@dataclass(frozen=True)
class StructuredRandom(StructuredCriterion):
    """score = u of each group, independent and uniform in [0, 1), from the trial's seed; the same on every device."""

    uses_data: ClassVar[bool] = False
    figure_style: ClassVar[tuple[str, str, str]] = ("#000000", "P", "--")

    def score(self, model: MaskedModel, batch: Batch) -> Tensor:
        assert model.groups is not None
        return torch.rand(model.groups.count, dtype=torch.float64)
