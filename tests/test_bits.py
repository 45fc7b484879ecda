"""Masks as text."""

import numpy as np
import pytest

from pai_bench.store import bits


def test_a_small_mask_is_stored_whole() -> None:
    draw = np.random.default_rng(0)
    masks = {"a": draw.random((7, 3)) < 0.5, "b": draw.random(5) < 0.5}
    found = bits.unpack(bits.pack(masks), 26)
    np.testing.assert_array_equal(found, np.concatenate([masks["a"].ravel(), masks["b"]]))


def test_of_a_large_mask_the_same_places_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bits, "PLACES", 1000)
    bits.places.cache_clear()
    whole = np.random.default_rng(0).random(4321) < 0.3
    found = bits.unpack(bits.pack({"a": whole[:4000], "b": whole[4000:]}), 4321)
    np.testing.assert_array_equal(found, whole[bits.places(4321)])
    assert abs(found.mean() - whole.mean()) < 0.05
    assert len(np.unique(bits.places(4321))) > 800
    bits.places.cache_clear()


def test_a_sparse_mask_of_lenet_takes_little() -> None:
    assert (
        len(bits.pack({"a": np.random.default_rng(0).random(266_200) < 0.05})) < 20_000
    )  # a bit for each weight is 33,275 bytes
