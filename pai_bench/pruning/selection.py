"""Selection: from scores to exactly k kept connections.

Higher scores are kept. Equal scores are decided by position: first in parameter order, then in flat index.
Nothing here knows what is selected; it takes tensors of scores and counts.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from pai_bench.errors import UserError

Scope = Literal["global", "layerwise"]


def kept_count(density: float, size: int) -> int:
    """How many of `size` connections a density keeps: ``round(density * size)``, with Python's `round`."""
    return round(density * size)


def apportion(sizes: Sequence[int], count: int, limits: Sequence[int] | None = None) -> list[int]:
    """Divide `count` in proportion to `sizes`, rounded by largest remainder, no part above its limit.

    The sum of the parts is exactly `count`, which must not exceed the sum of the limits (default: the sizes).
    """
    limits = sizes if limits is None else limits
    total = sum(sizes)
    if not 0 <= count <= sum(limits):
        raise UserError(f"{count} connections cannot be divided over layers that hold {sum(limits)}")
    parts = [min(count * size // total, limit) for size, limit in zip(sizes, limits, strict=True)]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-(count * sizes[i] % total), i))
    while (missing := count - sum(parts)) > 0:
        open_parts = [i for i in by_remainder if parts[i] < limits[i]]
        for i in open_parts[:missing]:
            parts[i] += 1
    return parts


def top(scores: Sequence[Tensor], count: int) -> list[Tensor]:
    """Masks (bool, of the scores' shapes) of the `count` highest scores over all tensors together."""
    flat = torch.cat([tensor.reshape(-1) for tensor in scores])
    if count >= flat.numel():
        keep = torch.ones_like(flat, dtype=torch.bool)
    elif count <= 0:
        keep = torch.zeros_like(flat, dtype=torch.bool)
    else:
        threshold = flat.kthvalue(flat.numel() - count + 1).values
        keep = flat > threshold
        ties = (flat == threshold).nonzero().squeeze(1)
        keep[ties[: count - int(keep.count_nonzero())]] = True
    parts = keep.split([tensor.numel() for tensor in scores])
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, scores, strict=True)]


def select(
    scores: Mapping[str, Tensor],
    count: int,
    scope: Scope = "global",
    alive: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Masks that keep exactly `count` connections with the highest scores.

    ``global`` ranks all layers together; ``layerwise`` keeps the same share of every layer (largest remainder).
    With `alive`, only connections that are ``True`` there can be kept.
    """
    if scope not in get_args(Scope):
        raise UserError(f"scope {scope!r} is not one of {', '.join(get_args(Scope))}")
    if alive is not None:
        scores = {name: tensor.masked_fill(~alive[name], -torch.inf) for name, tensor in scores.items()}
    values = list(scores.values())
    if scope == "global":
        masks = top(values, count)
    else:
        sizes = [tensor.numel() for tensor in values]
        limits = sizes if alive is None else [int(alive[name].count_nonzero()) for name in scores]
        quotas = apportion(sizes, count, limits)
        masks = [top([tensor], quota)[0] for tensor, quota in zip(values, quotas, strict=True)]
    return dict(zip(scores, masks, strict=True))
