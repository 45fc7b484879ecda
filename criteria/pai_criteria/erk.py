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
    """score = u, uniform in [0, 1), with layer densities proportional to (sum of dimensions) / (product of dimensions).

    The dimensions are those of the weight: out, in, and those of the kernel. The scores are ranked inside each layer
    (scope ``quota``). A layer whose density would exceed 1 is kept whole, and the others share what is left.

    Evci et al. 2020, arXiv:1911.11134, section 3.
    """

    uses_data: ClassVar[bool] = False
    scope: ClassVar[Scope] = "quota"
    figure_style: ClassVar[tuple[str, str, str]] = ("#56B4E9", "P", "-")

    def score(self, model: MaskedModel, batch: Batch) -> Scores:
        return model.uniform()

    def proportions(self, shapes: Mapping[str, torch.Size]) -> Mapping[str, int]:
        """Connections of each layer, up to a common factor: density * size = sum of the dimensions."""
        return {name: sum(shape) for name, shape in shapes.items()}
