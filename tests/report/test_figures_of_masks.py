"""What figures of masks, searches, costs and checks show: each field, bar, line and label by hand."""

import math
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex

from pai_bench.report.figures import bar_charts, collapses, masks
from pai_bench.report.figures.style import COLLAPSED_COLOUR, COLOURS
from pai_bench.report.similarity import Similarity
from pai_bench.results import Collapse, Layer, MaskEffect, Record
from pai_bench.results.bits import pack
from tests.report.records import LOOKS, altered, cost, drawn, record
from tests.report.test_benchmarks import result
from tests.report.test_figures import PATH, bars, compared, entries, names, ticks


def test_densities_of_layers(drawings: list[Any]) -> None:
    """Means over two seeds; of b, random keeps nothing."""
    kept = {"snip": ((27, 2), (30, 3)), "random": ((6, 0), (3, 0))}
    records: list[Record] = []
    for name, seeds in kept.items():
        for seed, (a, b) in enumerate(seeds):
            layers = (Layer(name="a.weight", size=30, kept=a), Layer(name="b.weight", size=20, kept=b))
            records.append(record(name, 0.9, seed, 0.5, layers=layers))
    records.append(record("grasp", 0.9, 0, None))
    assert masks.densities(compared(records), 0.9, {one.identity: one for one in records}, PATH)
    axes, bar = drawings[0].axes
    (image,) = axes.images
    columns = list(ticks(axes).values())
    shown = np.ma.getdata(image.get_array())[:, [columns.index(name) for name in kept]]
    assert np.allclose(shown, [(0.95, 0.15), (0.125, 0)])
    assert int(np.ma.getmaskarray(image.get_array()).sum()) == 1  # grey: none
    assert to_hex(axes.get_facecolor()) == "#dddddd"
    assert (image.norm.vmin, image.norm.vmax) == pytest.approx((0.125, 1))
    assert ticks(axes, "y") == {0: "a", 1: "b"}
    # light below the middle, sqrt(0.125) = 0.35
    told = {text.get_text(): text for text in axes.texts}
    assert {text: one.get_color() for text, one in told.items()} == {
        "95": "black", "15": "white", "12.5": "white", "0": "black"
    }  # fmt: skip
    assert told["95"].get_position() == (columns.index("snip"), 0)
    assert told["0"].get_position() == (columns.index("random"), 1)
    assert axes.get_title() == "net on digits, sparsity 0.9: % kept (grey: none)"
    assert bar.get_ylabel() == "density"
    assert bar.yaxis.get_major_formatter()(0.5) == "0.5"


def layered(count: int, kept: int, name: str = "snip") -> Any:
    layers = tuple(Layer(name=f"{i}.weight", size=10, kept=kept) for i in range(count))
    return record(name, 0.9, 0, 0.5, layers=layers)


def test_densities_that_cannot_be_drawn_together_or_written(drawings: list[Any]) -> None:
    def draw(*records: Any) -> bool:
        return masks.densities(compared([*records]), 0.9, {one.identity: one for one in records}, PATH)

    assert not draw(layered(2, 5), layered(3, 5, "random"))
    assert not draw(layered(0, 0))
    assert draw(layered(20, 5))
    assert draw(layered(21, 10))
    assert draw(layered(2, 0))
    assert [len(one.axes[0].texts) for one in drawings] == [20, 0, 2]  # as many numbers as can be read
    # a scale has two ends, whatever is kept
    assert [(one.axes[0].images[0].norm.vmin, one.axes[0].images[0].norm.vmax) for one in drawings[1:]] == [
        (0.99, 1),
        (0.1, 1),
    ]


def test_likeness_of_masks(drawings: list[Any]) -> None:
    jaccard = np.array([(1, 0.4, np.nan), (0.4, 1, 0.5), (np.nan, 0.5, 1)])
    found = Similarity(("snip", "random", "$x"), jaccard, jaccard / 2, 3)
    assert masks.similarities("net", found, PATH)
    axes, bar = drawings[0].axes
    (image,) = axes.images
    told = {text.get_position(): (text.get_text(), text.get_color()) for text in axes.texts}
    assert told == {
        (0, 1): ("0.40\n/ 0.20", "white"),
        (0, 2): ("–", "black"),
        (1, 2): ("0.50\n/ 0.25", "black"),
    }
    assert np.ma.getmaskarray(image.get_array()).tolist() == [[True] * 3, [False, True, True], [True, False, True]]
    assert (image.norm.vmin, image.norm.vmax) == (0, 1)
    assert ticks(axes) == {0: "snip", 1: "random"}
    assert ticks(axes, "y") == {1: "random", 2: r"\$x"}
    assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 1.5), (2.5, 0.5))
    assert axes.get_title() == "Likeness of masks, net: Jaccard index / by chance"
    assert bar.get_ylabel() == "Jaccard index"


def test_figures_of_many_criteria_are_wide(drawings: list[Any]) -> None:
    """Of ten: 0.75 inches for each column of fields, 1.1 for each picture, and room for names of 11 characters."""
    records = [drawn(f"criterion-{i}", 0.5, 0, 0.9) for i in range(10)]
    found, known = compared(records), {one.identity: one for one in records}
    assert masks.densities(found, 0.5, known, PATH)
    assert masks.similarities("net", Similarity(found.methods, np.ones((10, 10)), np.ones((10, 10)), 1), PATH)
    assert masks.first_layer(found, found.sparsities, known, PATH)
    sizes = [one.get_size_inches().tolist() for one in drawings]
    assert sizes == [pytest.approx(one) for one in ((9.3, 1.5 + 0.52 + 0.105), (9.7, 7.6 + 0.105), (12, 2.1))]


@pytest.mark.parametrize(
    ("layer", "shape", "seen"),
    [
        (Layer(name="a", size=16, kept=8, shape=(2, 8)), [2, 2, 2], True),
        (Layer(name="a", size=16, kept=8, shape=(2, 8)), [2, 2, 3], False),
        (Layer(name="a", size=16, kept=8, shape=(2, 2, 2, 2)), [1, 2, 2], False),  # a convolution
        (Layer(name="a", size=16, kept=8, shape=(2, 8)), [8], False),  # no image
        (Layer(name="a", size=16, kept=8, shape=(2, 8)), None, False),
    ],
)
def test_pictures_of_pixels_are_of_layers_that_see_them_all(layer: Layer, shape: list[int] | None, seen: bool) -> None:
    bits = np.array([[1, 0, 0, 0, 1, 0, 0, 1], [1, 1, 0, 0, 0, 0, 0, 1]], bool)
    one = drawn("snip", 0.5, 0, 0.9, layers=(layer,), mask=pack({"a": bits}))
    one = altered(one, provenance={"data": {"shape": shape}})
    found = masks.picture(one)
    # both channels of each pixel, of both units
    assert (found is not None and found.tolist() == [[3, 1], [0, 2]]) is seen


def collapse(name: str, **changes: Any) -> Collapse:
    """A search of a network of two layers, of 10 and 40 connections."""
    trial = {
        "data": "d", "model": "net", "seed": 0, "score_batch": 10, "scope": "global", "sparsity": 0.0,
        "criterion": {"name": name, "schedule": "one-shot", "revision": 1, "options": []},
    }  # fmt: skip
    tried = (
        MaskEffect(sparsity=0.5, connected=True, effective_sparsity=0.6, densities=(0.5, 0.5), effective=(0.5, 0.4)),
        MaskEffect(sparsity=0.75, connected=True, effective_sparsity=0.9, densities=(0.5, 0.2), effective=(0.4, 0.1)),
        MaskEffect(sparsity=0.9, connected=False, effective_sparsity=1.0, densities=(0.5, 0.0), effective=(0.0, 0.0)),
    )
    values: dict[str, Any] = {
        "trial": trial, "size": 50, "connected_until": 0.8, "cut_from": 0.82, "first_cut": "b.weight", "exact": True,
        "layers_until": {"a.weight": 0.98, "b.weight": 0.8}, "tried": tried, "seconds": 1.0,
        "environment": {}, "provenance": {},
    }  # fmt: skip
    return Collapse(**values | changes)


def test_effective_against_direct_compression(drawings: list[Any]) -> None:
    more = (
        MaskEffect(sparsity=0.75, connected=True, effective_sparsity=0.8, densities=(0.5, 0.2), effective=None),
        MaskEffect(sparsity=0.99, connected=True, effective_sparsity=None, densities=(0.5, 0.2), effective=None),
    )
    known = {
        "snip": [collapse("snip"), collapse("snip", tried=more, connected_until=0.6)],
        "er": [collapse("er", connected_until=None, tried=collapse("er").tried[:1])],
        "magnitude": [collapse("magnitude", cut_from=None, tried=())],
    }
    collapses.effective_compression("$net", known, PATH)
    (axes,) = drawings[0].axes
    curve, end, er, magnitude, diagonal = axes.lines
    assert np.allclose(curve.get_xydata(), [(2, 2.5), (4, 1 / 0.15)])
    assert np.allclose(er.get_xydata(), [(2, 2.5)])
    assert not len(np.asarray(magnitude.get_xydata()))
    for line in (curve, er, magnitude):
        assert (line.get_color(), line.get_marker(), line.get_linestyle()) == LOOKS[str(line.get_label())]
    assert np.asarray(end.get_xdata()) == pytest.approx([1 / 0.3] * 2)
    assert (end.get_color(), end.get_linestyle()) == (LOOKS["snip"][0], ":")
    ends = np.asarray(diagonal.get_xydata())
    assert (ends[:, 0] == ends[:, 1]).all()
    assert ends[0, 0] == 2
    assert ends[1, 0] >= 4
    assert diagonal.get_zorder() == 0
    assert entries(axes) == {"snip", "er", "magnitude"}
    assert names(axes) == (
        r"\$net", "compression, 1 / (1 - sparsity); dotted: the end of connection", "effective compression"
    )  # fmt: skip
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.xaxis.get_major_formatter()(10) == axes.yaxis.get_major_formatter()(10) == "10"


def test_density_of_each_layer_along_compression(drawings: list[Any]) -> None:
    whole = MaskEffect(sparsity=1.0, connected=False, effective_sparsity=1.0, densities=(0.0, 0.0), effective=None)
    known = {name: [collapse(name)] for name in ("snip", "er", "erk", "random", "$x")}
    known["er"] = [collapse("er", connected_until=None), collapse("er", size=1)]
    known["erk"] = [collapse("erk", cut_from=None)]
    known["random"] = [collapse("random", tried=(*collapse("random").tried, whole), size=100)]
    collapses.layer_densities("net", known, PATH)
    *panels, bar = drawings[0].axes
    assert [one.get_title() for one in panels] == ["snip", "er", "erk", "random", r"\$x", ""]
    assert [one.get_visible() for one in panels] == [True] * 5 + [False]
    for axes in panels[:5]:
        (mesh,) = axes.collections
        assert np.ma.getdata(mesh.get_array()).tolist() == [[0.5, 0.5, 0.5], [0.5, 0.2, 0.0]]
        assert np.ma.getmaskarray(mesh.get_array()).tolist() == [[False] * 3, [False, False, True]]  # white
        # of the network with most connections, one
        assert (mesh.norm.vmin, mesh.norm.vmax) == pytest.approx((0.01, 1))
        # at 2, 4 and 10: borders are geometric means, and as far beyond the outer ones
        borders = np.asarray(mesh.get_coordinates())[0, :, 0]
        assert borders == pytest.approx([2 / math.sqrt(2), math.sqrt(8), math.sqrt(40), 10 * math.sqrt(2.5)])
        assert np.asarray(mesh.get_coordinates())[:, 0, 1].tolist() == [0, 1, 2]
        assert axes.get_xscale() == "log"
        assert axes.yaxis_inverted()
    assert ticks(panels[0], "y") == {0.5: "a.weight", 1.5: "b.weight"}  # which the others share
    lines = [[(line.get_xdata()[0], line.get_color()) for line in one.lines] for one in panels[:5]]
    end = [(pytest.approx(5), COLLAPSED_COLOUR)]
    assert lines == [end, [], [], end, end]
    labelled = [one.xaxis.get_tick_params()["labelbottom"] for one in panels[:5]]
    assert labelled == [False, False, True, True, True]  # the lowest of each column
    assert drawings[0].get_suptitle() == "net"
    assert drawings[0].get_supxlabel() == "compression, 1 / (1 - sparsity); red: the end of connection"
    assert bar.get_ylabel() == "density of the layer (white: nothing kept)"
    assert bar.yaxis.get_major_formatter()(0.1) == "0.1"
    assert collapses.edges_of([6]) == [4, 9]


def test_costs_in_steps(drawings: list[Any]) -> None:
    """The median of steps of 0.1, 0.2 and 0.4 seconds."""
    named = {"criterion": {"name": "$er", "schedule": "one-shot"}}
    rows = [cost(seconds=0.4, prune_seconds=0.8), cost(named, seconds=2.0, prune_seconds=0.2, step_seconds=0.2)]
    bar_charts.costs("net", [*rows, cost(step_seconds=0.4, seconds=1.0, prune_seconds=1.0)], PATH)
    (axes,) = drawings[0].axes
    expected = [(0.5, 2), (0.5, 10), (0.5, 5), (0.5, 4), (0.5, 1), (0.5, 5)]  # from half of the least
    assert bars(axes) == [pytest.approx(one) for one in expected]
    assert [to_hex(bar.get_facecolor()).upper() for bar in axes.patches] == [COLOURS[0]] * 3 + [COLOURS[1]] * 3
    centres = [bar.get_y() + bar.get_height() / 2 for bar in axes.patches]
    assert [round(centre) for centre in centres] == [0, 1, 2] * 2
    assert all(
        high - low > bar.get_height() for low, high, bar in zip(centres[:3], centres[3:], axes.patches, strict=False)
    )
    assert [text.get_text() for text in axes.texts] == ["2", "10", "5", "4", "1", "5"]
    assert ticks(axes, "y") == {0: "snip", 1: r"\$er", 2: "snip"}
    assert entries(axes) == {"one score", "pruning"}
    assert names(axes) == ("net", "training steps (logarithmic)", "")
    assert axes.get_xscale() == "log"
    assert axes.get_xlim() == pytest.approx((0.5, 30))
    assert axes.yaxis_inverted()
    assert axes.xaxis.get_major_formatter()(0.1) == "0.1"


def test_costs_by_machine(drawings: list[Any]) -> None:
    bar_charts.costs_by_machine("net", {"$a": {"snip": 0.2, "er": 0.4}, "b": {"er": 6.0}}, PATH)
    (axes,) = drawings[0].axes
    assert bars(axes) == [pytest.approx(one) for one in [(0.1, 0.2), (0.1, 0.4), (0.1, 6)]]
    places = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in axes.patches]
    # 0.8 for both machines, the first above
    assert places == [pytest.approx(one) for one in [(-0.4, 0), (0.6, 1), (1, 1.4)]]
    assert [to_hex(bar.get_facecolor()).upper() for bar in axes.patches] == [COLOURS[0], COLOURS[0], COLOURS[1]]
    assert [text.get_text() for text in axes.texts] == ["0.2", "0.4", "6"]
    assert ticks(axes, "y") == {0: "snip", 1: "er"}
    assert entries(axes) == {r"\$a", "b"}
    assert names(axes) == ("net", "seconds of one score (logarithmic)", "")
    assert axes.get_xscale() == "log"
    assert axes.get_xlim() == pytest.approx((0.1, 18))
    assert axes.yaxis_inverted()
    assert axes.xaxis.get_major_formatter()(0.1) == "0.1"


@pytest.mark.parametrize(
    ("values", "limits", "logarithmic", "ends", "red"),
    [
        ((1.0, 2.0), (None, 3.0), False, [(0, 1), (0, 2)], [(3, 1)]),
        ((-1.0, 2.0), (0.0, None), False, [(-1, -1), (-1, 2)], [(0, 0)]),
        ((0.1, 3.0), (None, None), False, [(0, 0.1), (0, 3)], []),  # thirty times, and not more
        ((0.3, 30.0), (0.6, 0.0), True, [(0.1, 0.3), (0.1, 30)], [(0.6, 0)]),
        ((0.0, 0.3), (None, 30.0), True, [(0.1, 0.1), (0.1, 0.3)], [(30, 1)]),
        ((0.0, 0.0), (None, None), False, [(0, 0), (0, 0)], []),
    ],
)
def test_measured_values_and_their_limits(
    values: tuple[float, float],
    limits: tuple[float | None, float | None],
    logarithmic: bool,
    ends: list[tuple[float, float]],
    red: list[tuple[float, int]],
    drawings: list[Any],
) -> None:
    rows = [
        result(name, values={"largest": value}, limits={} if limit is None else {"largest": limit})
        for name, value, limit in zip(("$a", "b"), values, limits, strict=True)
    ]
    bar_charts.benchmarks("$t", rows, PATH)
    (axes,) = drawings[0].axes
    assert bars(axes) == [pytest.approx(one) for one in ends]
    assert [text.get_text() for text in axes.texts] == [f"{value:g}" for value in values]
    lines = [np.asarray(line.get_xydata()).tolist() for line in axes.lines]
    assert lines == [[[x, pytest.approx(y - 0.4)], [x, pytest.approx(y + 0.4)]] for x, y in red]  # as high as a bar
    assert all(line.get_color() == COLLAPSED_COLOUR for line in axes.lines)
    assert axes.get_xscale() == ("log" if logarithmic else "linear")
    assert names(axes) == (r"\$t", "largest (logarithmic)" if logarithmic else "largest", "")
    if logarithmic:
        assert axes.get_xlim() == pytest.approx((0.1, 120))
        assert axes.xaxis.get_major_formatter()(0.1) == "0.1"
    assert ticks(axes, "y") == {0: r"\$a", 1: "b"}
    assert axes.yaxis_inverted()
    assert {to_hex(bar.get_facecolor()).upper() for bar in axes.patches} == {COLOURS[0]}
