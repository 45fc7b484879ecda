"""Ranks of criteria over networks and data sets."""

import math
from collections.abc import Sequence
from statistics import fmean

from pai_bench.report.statistics import LEVEL, Ranks, ranks
from pai_bench.report.summary import Comparison, plural
from pai_bench.report.tables import grouped


def ranking(compared: Sequence[Comparison]) -> Ranks | None:
    """Ranks of the methods that all blocks have; None if there are fewer than two, or no block in which all trained.

    A block is one network on one data set: its mean accuracy over the sparsities that all of these methods have, and at
    which all have trained. The sparsities of one network are not independent, and make one block.
    """
    blocks = blocks_of(compared)
    methods = [m for m in blocks[0].methods if all(m in block.methods for block in blocks)] if blocks else []
    rows = []
    for block in blocks:
        cells = [[block.cell(method, sparsity) for method in methods] for sparsity in block.sparsities]
        trained = [row for row in cells if all(cell.accuracies and not cell.at_chance for cell in row)]
        if trained:
            rows.append([fmean(row[i].percent.mean for row in trained) for i in range(len(methods))])
    return ranks(methods, rows) if len(methods) > 1 and rows else None


def blocks_of(compared: Sequence[Comparison]) -> list[Comparison]:
    """One comparison for each network and data set: the plainest, with most cells, and no random labels."""
    candidates = [one for one in compared if one.methods and one.trained and not one.label_noise]
    by_network = grouped(candidates, lambda one: (one.data, one.model))
    return [min(group, key=lambda one: (one.special, one.title, one.protocol)) for group in by_network.values()]


def friedman(result: Ranks) -> str:
    """The result of Friedman's test in words."""
    if math.isnan(result.p):
        return f"With {len(result.methods)} criteria and {plural(result.blocks, 'block')} there is no test."
    verdict = "differ" if result.p <= LEVEL else "are not distinguishable"
    text = f"Friedman's test: the criteria {verdict} in rank (p = {result.p:.2g})"
    few = "; with so few blocks it seldom rejects" if result.blocks < 5 else ""
    if result.critical >= len(result.methods) - 1:
        return f"{text}{few}. No two of them can be distinguished: with so few blocks, no ranks are far enough apart."
    return f"{text}{few}. Criteria nearer than the critical difference ({result.critical:.2f}) are not distinguishable."
