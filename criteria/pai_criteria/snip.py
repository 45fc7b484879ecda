"""SNIP: connection sensitivity."""

from dataclasses import dataclass

from torch import nn

from pai_bench.pruning import Batch, Criterion, Scores, gradients, weights
from pai_bench.registry import criterion


@criterion("snip", source="Lee et al. 2019, arXiv:1810.02340, eq. 6")
@dataclass(frozen=True)
class SNIP(Criterion):
    """score = |w * g| / sum |w * g|, with g = dL/dw over the batch: the connection sensitivity |dL/dc| at c = 1."""

    def score(self, model: nn.Module, batch: Batch) -> Scores:
        g = gradients(model, batch)
        sensitivity = {name: (weight * g[name]).abs_() for name, weight in weights(model).items()}
        total = sum(float(s.sum()) for s in sensitivity.values())
        return {name: s / total if total > 0 else s for name, s in sensitivity.items()}
