"""Moments of a training written by hand, and the largest of some scores by plain sorting."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import pai_bench as pb
from pai_bench.scoring import Moment, Timeline


def first_of(scores: Tensor, count: int, among: Tensor) -> Tensor:
    """The mask of the `count` highest scores `among` some places; of equal ones the first."""
    order = sorted(among.flatten().nonzero().flatten().tolist(), key=lambda i: (-float(scores.flatten()[i]), i))
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[order[:count]] = True
    return mask.view_as(scores)


def moment(
    step: int,
    timeline: Timeline,
    mask: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    **others: Any,
) -> Moment:
    """A moment of a network whose layers are ranked each by itself; `density` is that of the trial."""

    def select(scores: Mapping[str, Tensor], density: float, *, returns: bool = False) -> pb.Mask:
        return pb.Mask(
            {
                name: first_of(
                    score, round(density * score.numel()), torch.ones_like(mask[name]) if returns else mask[name]
                )
                for name, score in scores.items()
            }
        )

    usual: dict[str, Any] = {"number": 0, "density": timeline.densities[-1], "gradients": {}, "state": {}}
    usual |= {"random": torch.Generator().manual_seed(step), "score": dict, "initial": dict, "select": select}
    usual |= {"cut": lambda density: select({name: weight.abs() for name, weight in weights.items()}, density)}
    keys = {**usual, **others}
    return Moment(step=step, timeline=timeline, mask=pb.Mask(mask), weights=dict(weights), **keys)
