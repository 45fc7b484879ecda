"""One cut: from scores and a density to the mask of what is kept."""

from collections.abc import Mapping

from torch import Tensor

from pai_bench.masks.allocation import Division, floors, raise_to_floor, select_with_floor
from pai_bench.masks.mask import Mask
from pai_bench.masks.selection import Ties, kept_count, select, with_ties
from pai_bench.support import transfers
from pai_bench.support.errors import check_least

Scores = Mapping[str, Tensor]
"""Parameter name -> score; the highest are kept."""


def cut(
    scores: Scores,
    density: float,
    *,
    alive: Mapping[str, Tensor] | None = None,
    division: Division | None = None,
    min_per_layer: float = 0,
    ties: Ties = "position",
) -> Mask:
    """The mask that keeps the ``round(density * n)`` connections with the highest of the n `scores`.

    * `scores`: parameter name -> score, of any float type.
    * `density`: share of the connections that is kept, in [0, 1].
    * `alive`: only connections that are ``True`` there can be kept.
    * `division`: the number of connections of each layer, a function of their total and of how many each layer has
      left; without it, all layers are ranked together.
    * `min_per_layer`: at least so many connections of each layer are kept, or below 1, that share of them.
    * `ties`: whether equal scores at the threshold are kept in order of position (the exact number), or all of them
      (``keep``), or none (``remove``).

    Raises `UserError` for scores with NaN, and for numbers that the layers cannot satisfy.
    """
    check_least(min_per_layer)
    count = kept_count(density, sum(score.numel() for score in scores.values()))
    if ties == "remove" and alive is not None:  # earlier cuts may have left fewer
        left = transfers.counts(alive[name] for name in scores)
        if division is None:
            count = min(count, sum(left))
        else:  # what a layer lacks does not go to the others
            limited = list(map(min, division(count, [score.numel() for score in scores.values()]), left))
            division = lambda _count, _left: limited  # noqa: E731
    mask = _cut(scores, count, alive, division, min_per_layer)
    if ties == "position":
        return Mask(mask)
    result: dict[str, Tensor] = {}
    for names in [list(scores)] if division is None else [[name] for name in scores]:
        ranked, kept = ({name: of[name] for name in names} for of in (scores, mask))
        result |= with_ties(ranked, kept, ties, alive)
    return Mask(result)


def _cut(
    scores: Scores, count: int, alive: Mapping[str, Tensor] | None, division: Division | None, min_per_layer: float
) -> dict[str, Tensor]:
    """The mask that keeps exactly `count` connections."""
    if division is None and not min_per_layer:
        return select(scores, count, alive)
    sizes = left = {name: score.numel() for name, score in scores.items()}
    if alive is not None:
        left = dict(zip(left, transfers.counts(alive[name] for name in left), strict=True))
    floor = floors(sizes, left, min_per_layer, count)
    if division is None:
        return select_with_floor(scores, count, floor, alive)
    parts = dict(zip(scores, division(count, list(left.values())), strict=True))
    return select(scores, raise_to_floor(parts, floor) if min_per_layer else parts, alive)
