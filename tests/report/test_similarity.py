"""Similarity of masks: by hand, of other parameters, of samples, and of masks that cannot be read."""

from pathlib import Path

import numpy as np
import pytest

from pai_bench.cli.entry import main
from pai_bench.report.similarity import similarity
from pai_bench.report.summary import comparisons
from pai_bench.results import Layer, as_frame, bits
from pai_bench.results.bits import pack, unpack
from tests.report.records import altered, drawn, stored

pytestmark = pytest.mark.usefixtures("drawings")  # what figures show is tested elsewhere


def test_likeness_by_hand() -> None:
    records = [drawn(name, 0.5, 0, 0.9) for name in ("snip", "random")]
    (comparison,) = comparisons(as_frame(records))
    found = similarity(comparison, 0.5, {one.identity: one for one in records})
    assert found is not None
    one, other = (set(unpack(r.pruning.mask or "", 95).nonzero()[0].tolist()) for r in records)
    assert found.jaccard[0, 1] == pytest.approx(len(one & other) / len(one | other))
    assert found.jaccard[0, 0] == 1
    both = either = 0.0
    for a, b in zip(*(r.pruning.layers for r in records), strict=True):
        p, q = a.kept / a.size, b.kept / b.size
        both += a.size * p * q
        either += a.size * (p + q - p * q)
    assert found.chance[0, 1] == pytest.approx(both / either)
    assert similarity(comparison, 0.5, {r.identity: altered(r, mask=None) for r in records}) is None


def test_masks_with_other_parameters_are_compared_on_those_that_both_have() -> None:
    one, other = (drawn(name, 0.5, 0, 0.9) for name in ("snip", "random"))
    bits = unpack(other.pruning.mask or "", 95)
    more = (other.pruning.layers[0], Layer(name="a.bias", size=5, kept=5, shape=(5,)), other.pruning.layers[1])
    masks = {"a": bits[:80], "bias": np.ones(5, bool), "b": bits[80:]}
    wider = altered(other, layers=more, mask=pack(masks))
    found = [
        similarity(comparisons(as_frame(both))[0], 0.5, {r.identity: r for r in both})
        for both in ([one, other], [one, wider])
    ]
    assert found[0] is not None
    assert found[1] is not None
    np.testing.assert_array_equal(found[0].jaccard, found[1].jaccard)
    np.testing.assert_array_equal(found[0].chance, found[1].chance)


def test_samples_of_masks_are_compared_if_they_are_of_the_same_parameters(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bits, "SAMPLE_SIZE", 90)
    one, other = (drawn(name, 0.5, 0, 0.9) for name in ("snip", "random"))
    more = (*other.pruning.layers, Layer(name="c", size=2, kept=2, shape=(2,)))
    wider = altered(other, layers=more, mask=pack({"all": np.ones(97, bool)}))
    for records, compared in (([one, other], True), ([one, wider], False)):
        found = similarity(comparisons(as_frame(records))[0], 0.5, {r.identity: r for r in records})
        assert (found is not None) is compared
    assert caplog.messages == [
        "masks are not compared: only some places of each mask are stored, and they are of different parameters"
    ]


@pytest.mark.parametrize("mask", ["AAAA", "!!", "eJwDAAAAAAE="])
def test_a_damaged_mask_is_no_reason_to_fail(mask: str, caplog: pytest.LogCaptureFixture) -> None:
    stored("r", [drawn(name, 0.5, 0, 0.9, mask=mask) for name in ("snip", "random")])
    assert main(["report", "r", "-o", "x.md"]) == 0
    assert "masks are not compared: " in caplog.text
    assert "likeness" not in Path("x.md").read_text()


def test_networks_of_one_name_with_other_layers() -> None:
    other = (Layer(name="c.weight", size=9, kept=3, shape=(3, 3)),)
    stored("r", [drawn("snip", 0.5, 0, 0.9), drawn("snip", 0.5, 1, 0.9, layers=other), drawn("random", 0.5, 0, 0.9)])
    assert main(["report", "r", "-o", "x.md"]) == 0
