"""Random scores: the baseline that every criterion has to beat."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from pai_bench.pruning import Batch, Criterion, Scores, prunable_parameters
from pai_bench.registry import criterion


@criterion("random", source="baseline")
@dataclass(frozen=True)
class Random(Criterion):
    """score = u, independent and uniform in [0, 1), from the trial's seed; the same on every device."""

    uses_data: ClassVar[bool] = False

    def score(self, model: nn.Module, batch: Batch) -> Scores:
        return {
            name: torch.rand(weight.shape, dtype=torch.float64).to(weight.device)
            for name, weight in prunable_parameters(model).items()
        }
