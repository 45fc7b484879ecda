"""SNIP-it: SNIP in steps, elasticity instead of sensitivity."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from pai_bench.pruning import Batch, Criterion, Halving, Schedule, Scores, loss_and_gradients, weights
from pai_bench.registry import criterion


@criterion("snip-it", source="Verdenius et al. 2020, arXiv:2006.00896")
@dataclass(frozen=True)
class SNIPit(Criterion):
    """score = |w * g / L| on the masked network, with g = dL/dw; removed connections stay removed."""

    schedule: ClassVar[Schedule] = Halving(steps=5)

    def score(self, model: nn.Module, batch: Batch) -> Scores:
        loss, g = loss_and_gradients(model, batch)
        return {name: (weight * g[name] / loss).abs_() for name, weight in weights(model).items()}
