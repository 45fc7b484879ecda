"""Masks as packed bits: as text in a record, and whole in a file of their own beside it where they are large.

Of a large network, the text has those at the same random positions every time.
"""

import base64
import functools
import hashlib
import json
import math
import zlib
from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pai_bench.results.stored import DIGITS, MALFORMED, plain_text

SAMPLE_SIZE = 2**19
"""Positions of a mask that are stored; a network with no more weights is stored whole."""

Bits = np.ndarray


def pack(masks: Mapping[str, Bits]) -> str:
    """The text of a mask, an array of bools for each layer, in order."""
    return base64.b64encode(zlib.compress(np.packbits(sample(masks)).tobytes(), 6)).decode()


def unpack(text: str, size: int) -> Bits:
    """The `sample` that a text holds of a mask of `size` weights; ValueError if it is damaged."""
    count = min(size, SAMPLE_SIZE)
    length = -(-count // 8)
    stream = zlib.decompressobj()
    try:
        packed = stream.decompress(base64.b64decode(text, validate=True), length + 1)  # some would fill the memory
    except zlib.error as error:
        raise ValueError(f"no mask ({error})") from error
    if len(packed) != length or not stream.eof:
        compared = "less" if len(packed) < length else "more"
        raise ValueError(f"a mask of {size} weights in {compared} than {length} bytes")
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=count).astype(bool)


def sample(masks: Mapping[str, Bits]) -> Bits:
    """The bits of a mask that its text has: all of them in the order of the layers, or those at `positions`."""
    whole = np.concatenate([np.asarray(mask, dtype=bool).ravel() for mask in masks.values()])
    return whole[positions(len(whole))] if len(whole) > SAMPLE_SIZE else whole


@functools.cache
def positions(size: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """The positions in a mask of `size` weights that are stored: drawn once and for ever, in order."""
    # a stream that numpy never changes
    indices = np.random.RandomState(0).randint(0, size, SAMPLE_SIZE, dtype=np.int64)
    indices.sort()
    return indices


def mask_file(masks: Mapping[str, Bits]) -> bytes | None:
    """The file of a mask of which the text has only a sample, or None: safetensors of packed bits, by layer.

    Its metadata hold the layers' names in order with their shapes, and a checksum.
    """
    if sum(mask.size for mask in masks.values()) <= SAMPLE_SIZE:
        return None
    masks = {plain_text(name): np.asarray(mask, dtype=bool) for name, mask in masks.items()}
    packed = {name: np.packbits(mask.ravel()) for name, mask in masks.items()}
    shapes = json.dumps({name: mask.shape for name, mask in masks.items()})
    return save(packed, {"shapes": shapes, "checksum": checksum(shapes, packed)})


def checksum(shapes: str, packed: Mapping[str, Bits]) -> str:
    """Of the content of a file of a mask, whose layers are named in the text `shapes`, in order."""
    content = [packed[name].tobytes() for name in json.loads(shapes)]
    return hashlib.sha256(shapes.encode() + b"".join(content)).hexdigest()[:DIGITS]


def read_mask_file(content: bytes) -> dict[str, Bits]:
    """The mask in such a file, by layer; ValueError if it is damaged. Files of earlier versions have no checksum."""
    masks = {}
    try:
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size])["__metadata__"]
        shapes = json.loads(metadata["shapes"])
        packed = load(content)
        if packed.keys() != shapes.keys():
            raise ValueError("other layers than it names")
        if "checksum" in metadata and metadata["checksum"] != checksum(metadata["shapes"], packed):
            raise ValueError("its content is not that of its checksum")
        for name, shape in shapes.items():
            count = math.prod(shape)
            if packed[name].shape != (-(-count // 8),):
                raise ValueError(f"{count} places of {name} in {packed[name].size} bytes")
            masks[name] = np.unpackbits(packed[name], count=count).astype(bool).reshape(shape)
    except (SafetensorError, *MALFORMED) as error:
        raise ValueError(f"no mask ({error!r})") from error
    return masks


def count_differences(text: str, masks: Mapping[str, Bits]) -> int:
    """In how many of the positions that a text has, a whole mask differs from it; ValueError if it is damaged."""
    return int((sample(masks) != unpack(text, sum(mask.size for mask in masks.values()))).sum())
