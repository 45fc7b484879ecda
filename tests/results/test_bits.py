"""Masks as text."""

import base64
import json
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from safetensors.numpy import save

from pai_bench.results import bits


def test_a_small_mask_is_stored_whole() -> None:
    draw = np.random.default_rng(0)
    masks = {"a": draw.random((7, 3)) < 0.5, "b": draw.random(5) < 0.5}
    found = bits.unpack(bits.pack(masks), 26)
    np.testing.assert_array_equal(found, np.concatenate([masks["a"].ravel(), masks["b"]]))


def test_of_a_large_mask_the_same_places_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bits, "SAMPLE_SIZE", 1000)
    bits.positions.cache_clear()
    whole = np.random.default_rng(0).random(4321) < 0.3
    found = bits.unpack(bits.pack({"a": whole[:4000], "b": whole[4000:]}), 4321)
    np.testing.assert_array_equal(found, whole[bits.positions(4321)])
    assert abs(found.mean() - whole.mean()) < 0.05
    assert len(np.unique(bits.positions(4321))) > 800
    bits.positions.cache_clear()


def test_a_sparse_mask_of_lenet_takes_little() -> None:
    assert (
        len(bits.pack({"a": np.random.default_rng(0).random(266_200) < 0.05})) < 20_000
    )  # a bit for each weight is 33,275 bytes


def test_the_form_of_a_text() -> None:
    """Stored results are in it: bits, the first of a byte the highest, compressed, as base64."""
    text = bits.pack({"a": np.array([[True, False], [True, True]]), "b": np.array([False] * 6 + [True])})
    assert zlib.decompress(base64.b64decode(text)) == bytes([0b10110000, 0b00100000])
    assert bits.unpack(text, 11).dtype == bool
    assert bits.unpack(text, 11).tolist() == [True, False, True, True] + [False] * 6 + [True]


@pytest.mark.parametrize("text", ["", "no mask", base64.b64encode(b"no mask").decode()])
def test_a_damaged_text_is_an_error_of_one_kind(text: str) -> None:
    with pytest.raises(ValueError, match=r"mask|base64|padding|characters"):
        bits.unpack(text, 11)


def test_a_text_of_another_size_is_refused() -> None:
    text = bits.pack({"a": np.ones(11, bool)})
    for size in (9, 16):
        assert bits.unpack(text, size).size == size  # as many bytes
    for size, said in ((8, "more than 1 bytes"), (17, "less than 3 bytes")):
        with pytest.raises(ValueError, match=f"a mask of {size} weights in {said}"):
            bits.unpack(text, size)


def test_how_many_places_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = {"a": np.arange(12).reshape(3, 4) % 3 == 0, "b": np.ones(5, bool)}
    text = bits.pack(mask)
    assert bits.count_differences(text, mask) == 0
    assert bits.count_differences(text, {"a": ~mask["a"], "b": mask["b"]}) == 12
    assert bits.count_differences(text, {"a": mask["a"], "b": np.arange(5) > 1}) == 2
    monkeypatch.setattr(bits, "SAMPLE_SIZE", 6)
    bits.positions.cache_clear()
    sample = bits.positions(17)
    text = bits.pack(mask)
    other = np.concatenate([mask["a"].ravel(), mask["b"]])
    other[sample[0]] ^= True
    assert bits.count_differences(text, {"a": other}) == int((sample == sample[0]).sum())
    assert bits.count_differences(text, mask) == 0
    bits.positions.cache_clear()


def test_a_mask_of_as_many_weights_as_places_is_stored_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bits, "SAMPLE_SIZE", 6)
    bits.positions.cache_clear()
    whole = np.array([True, False, False, True, True, False])
    assert bits.unpack(bits.pack({"a": whole}), 6).tolist() == whole.tolist()
    assert bits.mask_file({"a": whole}) is None
    more = np.append(whole, True)
    content = bits.mask_file({"a": more})
    assert content is not None
    assert bits.read_mask_file(content)["a"].tolist() == more.tolist()
    bits.positions.cache_clear()


def test_the_places_of_a_large_network_are_the_same_for_ever() -> None:
    found = bits.positions(10**6)
    assert len(found) == 524_288
    assert (np.diff(found) >= 0).all()
    assert (
        found[[0, 1, 2, 1000, -1]].tolist()
        == np.sort(np.random.RandomState(0).randint(0, 10**6, 2**19, dtype=np.int64))[[0, 1, 2, 1000, -1]].tolist()
    )


@pytest.mark.parametrize("size", [1, 3])
def test_a_whole_mask_with_another_number_of_bytes_is_refused(size: int) -> None:
    content = save({"a": np.zeros(size, np.uint8)}, {"shapes": json.dumps({"a": [3, 4]})})
    with pytest.raises(ValueError, match=f"12 places of a in {size} bytes"):
        bits.read_mask_file(content)
    whole = save({"a": np.array([255, 0], np.uint8)}, {"shapes": json.dumps({"a": [3, 4]})})
    assert bits.read_mask_file(whole)["a"].tolist() == [[True] * 4, [True] * 4, [False] * 4]


def test_a_whole_mask_of_other_layers_than_it_names_is_refused() -> None:
    content = save({"b": np.zeros(2, np.uint8)}, {"shapes": json.dumps({"a": [3, 4]})})
    with pytest.raises(ValueError, match="other layers than it names"):
        bits.read_mask_file(content)


CHANGED: list[Callable[[str], str]] = [
    lambda text: text[:4] + "!" + text[4:],
    lambda text: text + "\n",
    lambda text: text[:-4],
    lambda text: "é" + text,
]


@pytest.mark.parametrize("change", CHANGED)
def test_what_is_no_text_of_a_mask_is_an_error(change: Callable[[str], str]) -> None:
    text = bits.pack({"a": np.arange(100) % 3 == 0})
    with pytest.raises(ValueError, match=r"."):
        bits.unpack(change(text), 100)
