"""Ranks of criteria over networks and data sets."""

import math
from collections.abc import Sequence

from pai_bench.report.statistics import LEVEL, Ranks, ranks
from pai_bench.report.summary import Comparison, plural


def ranking(found: Sequence[Comparison]) -> Ranks | None:
    """Ranks of the methods that all comparisons have, over comparisons of different networks or data sets.

    A block is one network on one data set: its mean accuracy over the sparsities that all of its methods have, and at
    which all have trained.
    The sparsities of one network are not independent and make one block.
    """
    if not (blocks := blocks_of(found)):
        return None
    shared = [m for m in blocks[0].methods if all(m in block.methods for block in blocks)]
    rows = []
    for block in blocks:
        cells = {s: [block.cells.get((m, s)) for m in shared] for s in block.sparsities}
        common = [
            s for s, there in cells.items() if all(cell and cell.accuracies and not cell.at_chance for cell in there)
        ]
        if common:
            rows.append([sum(block.cells[m, s].percent.mean for s in common) / len(common) for m in shared])
    return ranks(shared, rows) if len(shared) > 1 and rows else None


def blocks_of(found: Sequence[Comparison]) -> list[Comparison]:
    """One comparison for each network and data set; of several the plainest, with most cells, but no false labels."""
    rivals: dict[tuple[str, str], list[Comparison]] = {}
    for one in found:
        if one.methods and one.trained and not one.label_noise:
            rivals.setdefault((one.data, one.model), []).append(one)
    return [min(group, key=lambda one: (one.special, one.title, one.protocol)) for group in rivals.values()]


def friedman(found: Ranks) -> str:
    """What Friedman's test says of some ranks."""
    if math.isnan(found.p):
        return f"With {len(found.methods)} criteria and {plural(found.blocks, 'block')} there is no test."
    verdict = "differ" if found.p <= LEVEL else "are not distinguishable"
    text = f"Friedman's test: the criteria {verdict} in rank (p = {found.p:.2g})"
    few = "; with so few blocks it seldom rejects" if found.blocks < 5 else ""
    if found.critical >= len(found.methods) - 1:
        return f"{text}{few}. No two of them could be told apart: with so few blocks, no ranks are far enough apart."
    return f"{text}{few}. Criteria nearer than the critical difference ({found.critical:.2f}) are not told apart."
