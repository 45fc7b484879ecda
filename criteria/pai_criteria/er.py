"""ER: random masks with Erdős-Rényi layer densities."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from pai_bench import criterion
from pai_bench.masks import Scope
from pai_bench.scoring import Batch, Criterion, MaskedModel, Scores


@criterion("er", source="Mocanu et al. 2018, arXiv:1707.04780; Evci et al. 2020, arXiv:1911.11134")
@dataclass(frozen=True)
class ER(Criterion):
    """score = u, uniform in [0, 1), with layer densities proportional to (in + out) / (in * out).

    The scores are ranked inside each layer (scope ``quota``). The size of a kernel does not change the density. A layer
    whose density would exceed 1 is kept whole, and the others share what is left.

    Mocanu et al. 2018, arXiv:1707.04780; Evci et al. 2020, arXiv:1911.11134.
    """

    uses_data: ClassVar[bool] = False
    scope: ClassVar[Scope] = "quota"
    figure_style: ClassVar[tuple[str, str, str]] = ("#56B4E9", "v", "--")

    def score(self, model: MaskedModel, batch: Batch) -> Scores:
        return model.uniform()

    def proportions(self, shapes: Mapping[str, torch.Size]) -> Mapping[str, int]:
        """Connections of each layer, up to a common factor: density * size = (in + out) * kernel size."""
        return {name: sum(shape[:2]) * shape[2:].numel() for name, shape in shapes.items()}
