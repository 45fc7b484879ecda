"""How alike the masks of two criteria are, beside what chance would give."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pai_bench.report.summary import Comparison
from pai_bench.store import Record
from pai_bench.store.bits import unpack

logger = logging.getLogger(__name__)

SEEDS = 3
"""Seeds whose masks are compared; more change the mean little."""


@dataclass(frozen=True)
class Similarity:
    """Jaccard indices |A and B| / |A or B| of the masks of methods, (methods, methods), means over seeds.

    `chance` is what is expected of two masks that keep as much of each layer, at places drawn at random:
    sum n p q / sum n (p + q - p q) over layers of n weights with densities p and q.
    """

    methods: tuple[str, ...]
    jaccard: NDArray[np.float64]
    chance: NDArray[np.float64]
    seeds: int


def similarity(comparison: Comparison, sparsity: float, records: Mapping[str, Record]) -> Similarity | None:
    """The likeness of the masks at one sparsity, over the seeds that all methods have; None without two masks."""
    rows = comparison.rows[comparison.rows.sparsity == sparsity]
    triples = zip(rows.method.astype(str), rows.seed.astype(int), rows.identity.astype(str), strict=True)
    masks = {(method, seed): records[identity] for method, seed, identity in triples if records[identity].mask}
    methods = [m for m in comparison.methods if any(method == m for method, _ in masks)]
    seeds = sorted(s for s in {seed for _, seed in masks} if all((m, s) in masks for m in methods))[:SEEDS]
    if len(methods) < 2 or not seeds:
        return None
    chosen = [[masks[method, seed] for method in methods] for seed in seeds]
    if len({layout(record) for same in chosen for record in same}) > 1:
        return None
    try:
        found = [pairs(same) for same in chosen]
    except ValueError as error:
        logger.warning("masks are not compared: %s", error)
        return None
    jaccard, chance = (np.mean([one[i] for one in found], axis=0) for i in (0, 1))
    return Similarity(tuple(methods), jaccard, chance, len(seeds))


def layout(record: Record) -> tuple[tuple[str, int], ...]:
    """The layers of a network: masks of others cannot be compared with it."""
    return tuple((layer.name, layer.size) for layer in record.layers)


def pairs(records: Sequence[Record]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Jaccard indices and what chance would give, for the masks of one seed."""
    sizes = np.array([layer.size for layer in records[0].layers], dtype=float)
    kept = [unpack(record.mask or "", int(sizes.sum())).astype(np.float32) for record in records]
    bits = np.stack(kept)
    both = (bits @ bits.T).astype(float)  # counts below 2^24 are exact
    own = np.diag(both)
    either = own[:, None] + own[None] - both
    densities = np.array([[layer.kept / layer.size for layer in record.layers] for record in records])
    expected = (densities * sizes) @ densities.T
    each = densities @ sizes
    with np.errstate(invalid="ignore"):
        return both / either, expected / (each[:, None] + each[None] - expected)
