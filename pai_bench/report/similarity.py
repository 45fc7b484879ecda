"""Similarity of the masks of criteria, and of random masks with the same layer densities."""

import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pai_bench.report.summary import Comparison
from pai_bench.results import Record
from pai_bench.results.bits import unpack

logger = logging.getLogger(__name__)

MOST_SEEDS = 3
"""Seeds whose masks are compared; more change the mean little."""


@dataclass(frozen=True)
class Similarity:
    """Jaccard indices |A and B| / |A or B| of the masks of methods, (methods, methods), in [0, 1]; means over seeds.

    `chance` is their expectation for random masks with the same densities p and q of each layer of n weights:
    sum n p q / sum n (p + q - p q).
    """

    methods: tuple[str, ...]
    jaccard: NDArray[np.float64]
    chance: NDArray[np.float64]
    seeds: int


def similarity(comparison: Comparison, sparsity: float, records: Mapping[str, Record]) -> Similarity | None:
    """The similarity of the masks at one sparsity, over the seeds that all methods have; None without two masks."""
    rows = comparison.rows[comparison.rows.sparsity == sparsity]
    triples = zip(rows.method.astype(str), rows.seed.astype(int), rows.identity.astype(str), strict=True)
    masked = {(method, seed): records[identity] for method, seed, identity in triples if records[identity].pruning.mask}
    methods = [m for m in comparison.methods if any(method == m for method, _ in masked)]
    seeds = sorted(s for s in {seed for _, seed in masked} if all((m, s) in masked for m in methods))[:MOST_SEEDS]
    if len(methods) < 2 or not seeds:
        return None
    by_seed = [[masked[method, seed] for method in methods] for seed in seeds]
    shared = set.intersection(*(set(layout(record)) for records_of_seed in by_seed for record in records_of_seed))
    if not shared:
        return None
    try:
        indices = np.mean([jaccard_and_chance(records_of_seed, shared) for records_of_seed in by_seed], axis=0)
    except ValueError as error:
        logger.warning("masks are not compared: %s", error)
        return None
    return Similarity(tuple(methods), indices[0], indices[1], len(seeds))


def layout(record: Record) -> tuple[tuple[str, int], ...]:
    """The names and sizes of the parameters of a mask."""
    return tuple((layer.name, layer.size) for layer in record.pruning.layers)


def bits_of(record: Record, shared: Set[tuple[str, int]]) -> NDArray[np.float32]:
    """A record's mask, of the `shared` parameters alone; ValueError if it holds too few places to separate them."""
    sizes = [size for _, size in layout(record)]
    bits = unpack(record.pruning.mask or "", sum(sizes)).astype(np.float32)
    if shared == set(layout(record)):
        return bits
    if len(bits) < sum(sizes):
        raise ValueError("only some places of each mask are stored, and they are of different parameters")
    parts = np.split(bits, np.cumsum(sizes)[:-1])
    return np.concatenate([part for part, key in zip(parts, layout(record), strict=True) if key in shared])


def jaccard_and_chance(records: Sequence[Record], shared: Set[tuple[str, int]]) -> NDArray[np.float64]:
    """Jaccard indices and their expectation by chance, (2, methods, methods), of one seed's `shared` parameters."""
    bits = np.stack([bits_of(record, shared) for record in records])
    layers = [[layer for layer in record.pruning.layers if (layer.name, layer.size) in shared] for record in records]
    sizes = np.array([layer.size for layer in layers[0]], dtype=float)
    densities = np.array([[layer.kept / layer.size for layer in own] for own in layers])
    both = np.stack([(bits @ bits.T).astype(float), (densities * sizes) @ densities.T])  # counts to 2^24 are exact
    kept = np.stack([np.diag(both[0]), densities @ sizes])
    with np.errstate(invalid="ignore"):
        indices: NDArray[np.float64] = both / (kept[:, :, None] + kept[:, None] - both)
    return indices
