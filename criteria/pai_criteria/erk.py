"""ERK: random masks with Erdős-Rényi-kernel layer densities."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from pai_bench import criterion
from pai_bench.masks import Scope
from pai_bench.scoring import Batch, Criterion, MaskedModel, Scores


@criterion("erk", source="Evci et al. 2020, arXiv:1911.11134, section 3")
@dataclass(frozen=True)
class ERK(Criterion):
    """score = u, uniform in [0, 1), ranked inside each layer; density proportional to sum / product of its dimensions.

    Those of the kernel are among them.
    """

    uses_data: ClassVar[bool] = False
    scope: ClassVar[Scope] = "quota"
    figure_style: ClassVar[tuple[str, str, str]] = ("#56B4E9", "P", "-")

    def score(self, model: MaskedModel, batch: Batch) -> Scores:
        return model.uniform()

    def proportions(self, shapes: Mapping[str, torch.Size]) -> Mapping[str, int]:
        """Connections of a layer: density times size, which is the sum of the dimensions."""
        return {name: sum(shape) for name, shape in shapes.items()}
