"""The mask of a stored trial, from its record or from the file beside it."""

import numpy as np

from pai_bench.results.bits import SAMPLE_SIZE, Bits, count_differences, read_mask_file, unpack
from pai_bench.results.folder import Store
from pai_bench.results.records import Record


def size_of(record: Record) -> int:
    """Number of places that the mask of a record has."""
    return sum(layer.size for layer in record.pruning.layers)


def stored_bits(record: Record, store: Store | None) -> dict[str, Bits] | None:
    """The whole mask of a record by layer; None if there is only a sample, ValueError if it is damaged."""
    text, shapes = record.pruning.mask or "", {layer.name: layer.shape for layer in record.pruning.layers}
    if (size := size_of(record)) <= SAMPLE_SIZE:
        parts = np.split(unpack(text, size), np.cumsum([layer.size for layer in record.pruning.layers])[:-1])
        return {name: part.reshape(shape).copy() for (name, shape), part in zip(shapes.items(), parts, strict=True)}
    content = record.pruning.whole_mask
    if content is None and store is not None:
        content = store.whole_mask(record)
    if content is None:
        return None
    whole = read_mask_file(content)
    if {name: bits.shape for name, bits in whole.items()} != shapes or count_differences(text, whole):
        raise ValueError("the whole mask is of another trial, or damaged")
    return {name: whole[name] for name in shapes}
