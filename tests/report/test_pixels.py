"""The picture of first-layer connections: each mask in its place, the right way up."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from pai_bench.report.figures import masks, style
from pai_bench.report.summary import comparisons
from pai_bench.results import as_frame
from pai_bench.results.bits import pack
from tests.report.records import drawn

F_SHAPE = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]], bool)

LEFT = np.arange(4) < 2


def test_each_mask_has_its_place_the_right_way_up(monkeypatch: pytest.MonkeyPatch) -> None:
    drawings: list[Figure] = []
    monkeypatch.setattr(style, "save", lambda figure, _path: drawings.append(figure))
    kept = {("snip", 0.5): F_SHAPE, ("snip", 0.9): F_SHAPE.T, ("random", 0.5): ~F_SHAPE}
    records = []
    for (criterion, sparsity), seen in kept.items():
        first = np.zeros((5, 16), bool)
        first[:2] = seen.ravel()  # two of the five units look at all of it, and one at its left half
        first[2] = (seen & LEFT).ravel()
        mask = pack({"a.weight": first, "b.weight": np.ones((3, 5), bool)})
        records.append(drawn(criterion, sparsity, 0, 0.9, mask=mask))
    (comparison,) = comparisons(as_frame(records))
    assert masks.first_layer(comparison, comparison.sparsities, {r.identity: r for r in records}, Path("x.png"))
    (axes,) = drawings[0].axes
    (image,) = axes.images
    shown, (left, right, bottom, top) = np.asarray(image.get_array()), image.get_extent()
    assert axes.yaxis_inverted()
    assert (axes.get_xlim(), axes.get_ylim()) == ((left, right), (bottom, top))

    def brightness(x: float, y: float) -> int:
        row, column = (y - top) / (bottom - top) * shown.shape[0], (x - left) / (right - left) * shown.shape[1]
        return int(shown[int(row), int(column)])

    step = 4 + masks.GAP
    for (criterion, sparsity), seen in kept.items():
        x, y = comparison.methods.index(criterion) * step, comparison.sparsities.index(sparsity) * step
        found = [[brightness(x + column, y + row) for column in range(4)] for row in range(4)]
        assert np.array_equal(found, 170 * seen + 85 * (seen & LEFT))  # a third of 255 for each of three connections
    assert {
        brightness(step * comparison.methods.index("random") + c, step + r) for c in range(4) for r in range(4)
    } == {255}  # not run
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == list(comparison.methods)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0.5", "0.9"]
