"""Masks as text: packed bits, compressed; of a large network, those at the same random places every time."""

import base64
import zlib
from collections.abc import Mapping
from functools import cache

import numpy as np

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
