"""When to prune a network that is trained: when its weights have settled, as early pruning does."""

import torch
from torch import Tensor, nn

CHECKS = 20
"""Times in a training at which the distance from the start is looked at, at equal distances."""

SETTLED = 0.1
"""Share of the distance that was covered before the first of them, under which a network has settled."""

LATEST = 0.5
"""Share of the training after which a network is pruned that has not."""


def checks(steps: int) -> list[int]:
    """The numbers of steps after which it is decided whether to prune, in ascending order; the last decides that."""
    every, latest = max(1, steps // CHECKS), max(1, round(LATEST * steps))
    return [*range(every, latest, every), latest]


class Stability:
    """Whether the weights of a network have settled.

    d = ||w - w0|| / ||w0||, the relative distance of its weights from those at the start, grows fast at first. They
    have settled when it has grown by less than a tenth of the first distance since the check before. This follows
    Rachwan et al. 2022, arXiv:2206.10451, section 4; checks at each twentieth of the training, the tenth and the latest
    time are our choice. `state` is kept in checkpoints.
    """

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def has_settled(self, now: nn.Module, start: nn.Module) -> bool:
        """Whether it has at this check; never at the first."""
        distance = relative_distance(now, start)
        first, before = self.state.setdefault("first", distance), self.state.get("before")
        self.state["before"] = distance
        return before is not None and bool(distance - before < SETTLED * first)


@torch.no_grad()
def relative_distance(now: nn.Module, start: nn.Module) -> Tensor:
    """The distance of all parameters of one network from those of the other, in units of their norm; float64."""
    pairs = zip(now.parameters(), start.parameters(), strict=True)
    squares = [((p.double() - q.double()).square().sum(), q.double().square().sum()) for p, q in pairs]
    moved, norm = (torch.stack(parts).sum().cpu() for parts in zip(*squares, strict=True))
    return (moved / norm).sqrt()
