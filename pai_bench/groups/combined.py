"""Groups and single weights that are removed by one ranking of both (Verdenius et al. 2020, arXiv:2006.00896)."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pai_bench.groups.budget import removal_order
from pai_bench.groups.groups import MASK, GroupMask, Groups, mask_in
from pai_bench.groups.stored import SHRUNK
from pai_bench.masks import Mask, select
from pai_bench.support import tensor_files, transfers
from pai_bench.support.errors import UserError

UNITS = ""
"""The key of the groups in a ranking with weights by name; no parameter has it."""


class CombinedMask(GroupMask):
    """Which groups of a network stay, and which single weights of these.

    As a `Mask` it holds both: a weight is kept where it is kept by itself, and in no group that is removed. What
    `pai_bench.shrink` makes of it is smaller, and zero where single weights are removed; `shrunk` is the mask that
    keeps them zero in training.
    """

    def __init__(self, groups: Groups, kept: Tensor, weights: Mapping[str, Tensor]) -> None:
        super().__init__(groups, kept)
        single = Mask(weights)
        for name in groups.weights:
            if name not in single or single[name].shape != groups.shapes[name]:
                raise UserError(f"single weights are kept by a mask of all: {name!r} is missing, or of another shape")
        self._tensors = {name: self.of(name) & single[name].cpu() for name in groups.weights}

    def __repr__(self) -> str:
        groups = f"{int(self.kept_groups.count_nonzero())} of {self.groups.count} groups"
        return f"CombinedMask({groups}, {self.kept} of {self.size} weights)"

    @classmethod
    def load(cls, path: str | Path) -> "CombinedMask":
        """The mask that `save` wrote to `path`, of groups and of single weights.

        Raises `UserError` for a file that cannot be read, for a mask of single weights, and for a smaller network.
        """
        tensors, metadata = tensor_files.read(path, MASK)
        found = mask_in(metadata, path, MASK)
        if SHRUNK in metadata:
            what = "it holds a smaller network, not which of its single weights are kept"
            raise tensor_files.unreadable(path, MASK, what)
        return cls(found.groups, found.kept_groups, tensors)

    def shrunk(self) -> Mask:
        """The mask of single weights on the smaller network."""
        shapes = self.shapes()
        return Mask({name: kept[self.of(name).to(kept.device)].view(shapes[name]) for name, kept in self.items()})

    def apply_(self, model: nn.Module) -> nn.Module:
        """Set all slices of the removed groups, and all removed weights, of `model` to exactly 0.0, in place."""
        return Mask.apply_(self, super().apply_(model))


def composed(first: GroupMask, second: GroupMask) -> GroupMask:
    """The mask of both, where `second` is a mask on the network that `first` leaves."""
    kept = first.kept_groups.clone()
    kept[first.kept_groups] = second.kept_groups
    if not isinstance(second, CombinedMask):
        return GroupMask(first.groups, kept)
    weights = {}
    for name, single in second.items():
        weights[name] = first.of(name)
        weights[name][weights[name].clone()] = single.flatten()
    return CombinedMask(first.groups, kept, weights)


def bounded_scores(groups: Groups, scores: Tensor, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The score of each weight, or that of the lowest group which it goes with, if this is lower."""
    scores = torch.cat([scores, scores.new_full((1,), math.inf)])  # -1, the last: fixed
    found = {}
    for name, bounded in weights.items():
        for axis in groups.axes_of.get(name, ()):
            of_slices = scores[groups.by_axis[axis].to(scores.device)]
            bounded = torch.minimum(bounded, of_slices.view(-1, *(1,) * (bounded.dim() - 1 - axis.dim)))
        found[name] = bounded
    return found


def guarded(groups: Groups, scores: Tensor) -> Tensor:
    """The scores of groups, infinite for those that always stay: the best of every layer."""
    removable = removal_order(groups, scores).to(scores.device)
    return torch.full_like(scores, math.inf).index_copy(0, removable, scores[removable])


def keep_weights(
    groups: Groups,
    scores: Tensor,
    weights: Mapping[str, Tensor],
    count: int,
    alive: Mapping[str, Tensor] | None = None,
) -> CombinedMask:
    """The mask that keeps exactly `count` weights, by one threshold for single weights and groups.

    What scores less than the threshold goes, and a weight also if a group that it lies in goes. The threshold is the
    largest one that leaves at least `count` weights; of these, the lowest go until `count` are left.

    * `scores`: of the groups, (groups,), on the device of `weights`, the scores of single weights by name.
    * `alive`: which weights can be kept.

    The best group of every layer stays, whatever the threshold is.
    """
    scores = guarded(groups, scores)
    bounded = bounded_scores(groups, scores, weights)  # at least the threshold, if a weight is left by it
    left = select(bounded, count, alive)
    lowest = transfers.read_scalars(bounded[name].masked_fill(~kept, math.inf).amin() for name, kept in left.items())
    able = {name: bound >= min(lowest) for name, bound in bounded.items()}
    if alive is not None:
        able = {name: where & alive[name] for name, where in able.items()}
    return CombinedMask(groups, (scores >= min(lowest)).cpu(), select(weights, count, able))


def keep_items(
    groups: Groups,
    scores: Tensor,
    weights: Mapping[str, Tensor],
    count: int,
    alive: Mapping[str, Tensor] | None = None,
) -> CombinedMask:
    """The mask of the `count` single weights and groups with the highest scores; parameters as of `keep_weights`.

    Weights that lie in removed groups are removed, too, and count all the same.
    """
    ranking = {**weights, UNITS: guarded(groups, scores)}
    chosen = select(ranking, count, None if alive is None else {**alive, UNITS: torch.ones_like(scores).bool()})
    kept = chosen.pop(UNITS) | ranking[UNITS].isposinf()
    return CombinedMask(groups, kept.cpu(), chosen)
