"""What training costs whose network changes: operations of all steps, and the sparsity after each epoch."""

import itertools
from dataclasses import dataclass, field
from typing import Any

from pai_bench.graph.flops import Flops
from pai_bench.groups import GroupMask
from pai_bench.groups.budget import sparsities
from pai_bench.masks import Mask
from pai_bench.scoring import Timeline

PASSES = 3
"""Forward passes that a step costs: one forward, one for the gradients of inputs, one for those of weights."""


@dataclass
class ChangeLog:
    """What was left of a network from which step on, in a training whose batches have so many examples."""

    timeline: Timeline
    batch_size: int
    dense_flops: int | None
    """Operations of the dense network's forward pass of one example; None if they are not known."""
    entries: list[list[Any]] = field(default_factory=list)
    """Steps done, share of connections kept from then on, operations of a forward pass, dense gradients or not."""

    def note(self, step: int, mask: Mask | None, dense: Flops | None, *, dense_gradients: bool = False) -> None:
        """Note the mask that there is from a step on, and whether dense gradients of the step before were needed."""
        density = 1.0 if mask is None else mask.density
        self.entries.append([step, density, forward_flops(mask, dense), dense_gradients])

    @property
    def events(self) -> list[int]:
        """After how many steps the mask was changed."""
        return [step for step, *_ in self.entries[1:]]

    def sparsity_after(self, epoch: int) -> float:
        """The share of connections that are removed at the end of an epoch, counted from 1."""
        done = min(self.timeline.steps, epoch * self.timeline.epoch)
        density: float = [density for step, density, *_ in self.entries if step <= done][-1]
        return 1 - density

    def training_flops(self) -> float | None:
        """Operations of all steps: three forward passes of what was left then, for each example of a batch.

        A step with dense gradients costs ``2 * f_S + f_D``, with the passes f_S of what is left and f_D of the dense
        network (Evci et al. 2020, arXiv:1911.11134, appendix H).
        """
        if self.dense_flops is None:
            return None
        total, ends = 0.0, [*(step for step, *_ in self.entries[1:]), self.timeline.steps]
        for (begin, _, forward, _), end in zip(self.entries, ends, strict=True):
            total += PASSES * forward * (end - begin)
        for (_, _, forward, _), (_, _, _, dense_gradients) in itertools.pairwise(self.entries):
            total += (self.dense_flops - forward) * dense_gradients
        return total * self.batch_size


def forward_flops(mask: Mask | None, dense: Flops | None) -> float | None:
    """Operations of a forward pass under a mask, for one example; products with removed weights are not counted."""
    if dense is None:
        return None
    if mask is None:
        return dense.total
    total, single, by_weight = float(dense.total), mask, dict[str, float](dense.by_weight)
    if isinstance(mask, GroupMask):
        total *= 1 - sparsities(mask)["flops"]
        if (of_smaller := mask.shrunk()) is None:
            return total
        by_weight, single = dict(mask.remaining().flops), of_smaller
    sizes, kept = {name: keep.numel() for name, keep in single.items()}, single.kept_per_layer()
    return total - sum(by_weight.get(name, 0) * (1 - kept[name] / sizes[name]) for name in single)
