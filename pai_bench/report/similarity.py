"""How alike the masks of two criteria are, beside what chance would give."""

import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pai_bench.report.summary import Comparison
from pai_bench.results import Record
from pai_bench.results.bits import unpack

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
    masks = {(method, seed): records[identity] for method, seed, identity in triples if records[identity].pruning.mask}
    methods = [m for m in comparison.methods if any(method == m for method, _ in masks)]
    seeds = sorted(s for s in {seed for _, seed in masks} if all((m, s) in masks for m in methods))[:SEEDS]
    if len(methods) < 2 or not seeds:
        return None
    chosen = [[masks[method, seed] for method in methods] for seed in seeds]
    shared = set.intersection(*(set(layout(record)) for same in chosen for record in same))
    if not shared:
        return None
    try:
        found = [pairs(same, shared) for same in chosen]
    except ValueError as error:
        logger.warning("masks are not compared: %s", error)
        return None
    jaccard, chance = (np.mean([one[i] for one in found], axis=0) for i in (0, 1))
    return Similarity(tuple(methods), jaccard, chance, len(seeds))


def layout(record: Record) -> tuple[tuple[str, int], ...]:
    """What a mask is of: the names and sizes of the parameters."""
    return tuple((layer.name, layer.size) for layer in record.pruning.layers)


def bits_of(record: Record, shared: Set[tuple[str, int]]) -> NDArray[np.float32]:
    """A record's mask, of the `shared` parameters alone; ValueError where those cannot be told from others."""
    sizes = [size for _, size in layout(record)]
    bits = unpack(record.pruning.mask or "", sum(sizes)).astype(np.float32)
    if shared == set(layout(record)):
        return bits
    if len(bits) < sum(sizes):
        raise ValueError("only some places of each mask are stored, and they are of different parameters")
    parts = np.split(bits, np.cumsum(sizes)[:-1])
    return np.concatenate([part for part, key in zip(parts, layout(record), strict=True) if key in shared])


def pairs(records: Sequence[Record], shared: Set[tuple[str, int]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Jaccard indices and what chance would give, for the masks of one seed, on the parameters that all have."""
    bits = np.stack([bits_of(record, shared) for record in records])
    layers = [[layer for layer in record.pruning.layers if (layer.name, layer.size) in shared] for record in records]
    sizes = np.array([layer.size for layer in layers[0]], dtype=float)
    both = (bits @ bits.T).astype(float)  # counts below 2^24 are exact
    count = np.diag(both)
    either = count[:, None] + count[None] - both
    densities = np.array([[layer.kept / layer.size for layer in own] for own in layers])
    expected = (densities * sizes) @ densities.T
    each = densities @ sizes
    with np.errstate(invalid="ignore"):
        return both / either, expected / (each[:, None] + each[None] - expected)
