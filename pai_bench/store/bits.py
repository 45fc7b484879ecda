"""Masks as packed bits: as text in a record, of a large network those at the same random places every time; then whole
in a file of their own beside it.
"""

import base64
import json
import zlib
from collections.abc import Mapping
from functools import cache

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

PLACES = 2**19
"""Places of a mask that are stored; a network with no more weights is stored whole."""

Bits = np.ndarray


def pack(masks: Mapping[str, Bits]) -> str:
    """The text of a mask, given as an array of bools for each layer, in order."""
    whole = np.concatenate([np.asarray(mask, dtype=bool).ravel() for mask in masks.values()])
    if len(whole) > PLACES:
        whole = whole[places(len(whole))]
    return base64.b64encode(zlib.compress(np.packbits(whole).tobytes(), 6)).decode()


def unpack(text: str, size: int) -> Bits:
    """The bits of a network of `size` weights: all of them in order, or those at `places`; ValueError if damaged."""
    count = min(size, PLACES)
    try:
        packed = np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), np.uint8)
    except zlib.error as error:
        raise ValueError(f"no mask ({error})") from error
    if len(packed) != -(-count // 8):
        raise ValueError(f"a mask of {size} weights in {len(packed)} bytes")
    return np.unpackbits(packed, count=count).astype(bool)


@cache
def places(size: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """The places of a network of `size` weights that are stored: drawn once and for ever, in order."""
    drawn = np.random.RandomState(0).randint(0, size, PLACES, dtype=np.int64)  # a stream that numpy keeps for ever
    drawn.sort()
    return drawn


def whole_file(masks: Mapping[str, Bits]) -> bytes | None:
    """The file of a mask of which the text has only a sample, or None: safetensors of packed bits, by layer.

    Its metadata hold the layers' names in order, and their shapes.
    """
    if sum(mask.size for mask in masks.values()) <= PLACES:
        return None
    packed = {name: np.packbits(np.asarray(mask, dtype=bool).ravel()) for name, mask in masks.items()}
    return save(packed, {"shapes": json.dumps({name: mask.shape for name, mask in masks.items()})})


def read_whole(content: bytes) -> dict[str, Bits]:
    """The mask in such a file, by layer; ValueError if it is damaged."""
    try:
        size = int.from_bytes(content[:8], "little")
        shapes = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["shapes"])
        packed = load(content)
        if packed.keys() != shapes.keys():
            raise ValueError("other layers than it names")
        found = {}
        for name, shape in shapes.items():
            count = int(np.prod(shape, dtype=np.int64))
            if len(packed[name]) != -(-count // 8):
                raise ValueError(f"{count} places of {name} in {len(packed[name])} bytes")
            found[name] = np.unpackbits(packed[name], count=count).astype(bool).reshape(shape)
    except (SafetensorError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"no mask ({error!r})") from error
    return found


def differing(text: str, masks: Mapping[str, Bits]) -> int:
    """In how many of the places that a text has, a whole mask differs from it; ValueError if it is damaged."""
    whole = np.concatenate([np.asarray(mask, dtype=bool).ravel() for mask in masks.values()])
    kept = whole[places(len(whole))] if len(whole) > PLACES else whole
    return int((kept != unpack(text, len(whole))).sum())
