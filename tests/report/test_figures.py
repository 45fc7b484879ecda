"""What figures of trials show: each point, bar, line and label by hand."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex

from pai_bench.report.figures import accuracy as figure
from pai_bench.report.figures import bar_charts, curves
from pai_bench.report.figures.accuracy import sparsity_ticks
from pai_bench.report.figures.during_training import sparsity_by_epoch
from pai_bench.report.figures.pareto import pareto
from pai_bench.report.figures.style import COLLAPSED_COLOUR, DENSE_COLOUR
from pai_bench.report.statistics import Ranks
from pai_bench.report.summary import Comparison, comparisons
from pai_bench.results import EpochRecord, Record, as_frame
from tests.report.records import LOOKS, record

PATH = Path("x.svg")


def compared(records: list[Record]) -> Comparison:
    (found,) = comparisons(as_frame(records))
    return found


def names(axes: Any) -> tuple[str, str, str]:
    """What the axes say that they show."""
    return axes.get_title(), axes.get_xlabel(), axes.get_ylabel()


def entries(axes: Any) -> set[str]:
    legend = axes.get_legend()
    assert legend is not None
    return {text.get_text() for text in legend.get_texts()}


def ticks(axes: Any, axis: str = "x") -> dict[float, str]:
    """The ticks that are named."""
    own = axes.xaxis if axis == "x" else axes.yaxis
    return dict(
        zip(own.get_majorticklocs().tolist(), [label.get_text() for label in own.get_ticklabels()], strict=True)
    )


def marked(axes: Any, colour: str) -> list[list[float]]:
    """Where circles and squares of a colour stand."""
    collections: list[Any] = [one for one in axes.collections if isinstance(one, PathCollection)]
    found = [one for one in collections if to_hex(one.get_edgecolor()[0]) == colour]
    return [place for collection in found for place in np.asarray(collection.get_offsets()).tolist()]


def points(axes: Any) -> dict[str, list[list[float]]]:
    """What is drawn of each criterion with bars of error: x, y and both ends."""
    found = {}
    for container in axes.containers:
        data, _, (bars,) = container.lines
        ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
        found[str(container.get_label())] = [
            [x, y, *end] for x, y, end in zip(data.get_xdata(), data.get_ydata(), ends, strict=True)
        ]
    return found


def curve(*losses: float | None, accuracies: Sequence[float] = ()) -> tuple[EpochRecord, ...]:
    accuracies = accuracies or [0.5] * len(losses)
    return tuple(
        EpochRecord(epoch=i, train_loss=loss, test_loss=1.0, test_accuracy=accuracy)
        for i, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True), 1)
    )


def test_accuracy_against_sparsity(drawings: list[Any]) -> None:
    records = [record(None, 0.0, seed, a) for seed, a in enumerate((0.97, 0.99))]
    records += [record("snip", 0.5, seed, a) for seed, a in enumerate((0.90, 0.92, 0.94))]
    records += [record("snip", 0.9, 0, 0.5, kept=0)]
    records += [record("random", 0.5, 0, 0.3, curve=curve(2.3))]
    figure.accuracy(compared(records), PATH)
    (axes,) = drawings[0].axes
    # t(0.975, 2) = 4.302653 times 2 / sqrt(3); of one seed, no interval
    half = 4.302653 * 2 / math.sqrt(3)
    drawn = points(axes)
    assert drawn.keys() == {"snip", "random"}
    assert drawn["snip"][0] == pytest.approx([2, 92, 92 - half, 92 + half])
    assert drawn["snip"][1] == pytest.approx([10, 50, 50, 50])
    assert drawn["random"] == [pytest.approx([2, 30, 30, 30])]
    for container in axes.containers:
        line = container.lines[0]
        assert (line.get_color(), line.get_marker(), line.get_linestyle()) == LOOKS[str(container.get_label())]
    # t(0.975, 1) = 12.7062 times sqrt(2) / sqrt(2), and no accuracy is above 100
    dense = next(line for line in axes.lines if line.get_label() == "dense")
    assert np.asarray(dense.get_ydata()).tolist() == [98, 98]
    assert (dense.get_color(), dense.get_linestyle()) == (DENSE_COLOUR, "--")
    (band,) = axes.patches
    assert band.get_window_extent().width == axes.get_window_extent().width
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((85.2938, 100))
    assert band.get_alpha() == 0.2  # the lines are seen through it
    assert to_hex(band.get_facecolor()) == DENSE_COLOUR
    assert marked(axes, COLLAPSED_COLOUR.lower()) == [pytest.approx([10, 50])]
    assert marked(axes, DENSE_COLOUR) == [[2, 30]]
    assert entries(axes) == {"dense", "snip", "random", "a layer is dead", "loss at chance"}
    assert names(axes) == (
        "net on digits",
        "sparsity (scale: compression)",
        "test accuracy in %, last epoch (scale: error)",
    )
    assert axes.get_xscale() == "log"
    assert axes.get_xlim() == pytest.approx((0.8 * 2, 1.25 * 10))
    assert {round(x): name for x, name in ticks(axes).items()} == {2: "0.5", 10: "0.9"}
    assert axes.get_ylim() == (27, 100)  # three below the lowest end
    # at least 7 % of the axis apart, which is ln(73.3 / 0.3) = 5.5 long: 0.385 in ln(100.3 - accuracy)
    assert list(ticks(axes, "y").values()) == ["50", "70", "80", "90", "95", "98", "99", "99.5", "100"]
    assert not axes.xaxis.get_minorticklocs().size + axes.yaxis.get_minorticklocs().size


def test_criteria_of_one_sparsity_stand_beside_each_other(drawings: list[Any]) -> None:
    found = compared([record(name, 0.8, 0, 0.5, effective_sparsity=0.9) for name in ("snip", "random", "grasp")])
    figure.accuracy(found, PATH)
    shown = {name: rows[0][0] for name, rows in points(drawings[0].axes[0]).items()}
    # 0.36 to share between three
    expected = {name: 5 * math.exp(0.12 * i) for name, i in zip(found.methods, (-1, 0, 1), strict=True)}
    assert shown == pytest.approx(expected)
    assert entries(drawings[0].axes[0]) == {"snip", "random", "grasp"}
    figure.accuracy(found, PATH, "effective")
    assert [rows[0][0] for rows in points(drawings[1].axes[0]).values()] == pytest.approx([10] * 3)
    assert drawings[1].axes[0].get_xlabel() == "effective sparsity (scale: compression)"
    assert drawings[1].axes[0].get_xlim() == pytest.approx((0.8 * 5, 12.5))


def test_what_has_no_accuracy_or_no_path_has_no_place(drawings: list[Any]) -> None:
    records = [record("snip", 0.5, 0, None), record("snip", 0.9, 0, 0.4, effective_sparsity=1.0)]
    records += [record("random", 0.9, 0, 0.6, effective_sparsity=0.99996)]
    figure.accuracy(compared(records), PATH, "effective")
    (axes,) = drawings[0].axes
    assert {name: len(rows) for name, rows in points(axes).items()} == {"snip": 0, "random": 1}
    assert axes.get_xlim() == pytest.approx((0.8 * 2, 1.25 / 0.00004))
    assert axes.get_ylim() == (37, 60)


def test_sparsities_on_the_axis_are_told_apart_from_1(drawings: list[Any]) -> None:
    figure.accuracy(compared([record("snip", s, 0, 0.5) for s in (0.98765, 0.99996)]), PATH)
    assert [*ticks(drawings[0].axes[0]).values()] == ["0.9877", "0.9999600"]
    # 11 % of ln(1000 / 1.2) are 0.74: every fourth of steps of ln(1 / 0.8) = 0.22
    grid = [1 - 0.8**k for k in range(1, 30)]
    assert sparsity_ticks(grid, np.log(1.2), np.log(1000)) == [grid[k - 1] for k in range(1, 30, 4)]
    # of ln(1000 / 50) 0.33: every second
    assert sparsity_ticks(grid, np.log(50), np.log(1000)) == [grid[k - 1] for k in range(1, 30, 2)]


def test_accuracy_against_cost(drawings: list[Any]) -> None:
    values = {"snip": (1.0, 0.9), "random": (0.5, 0.5), "grasp": (2.0, 0.8), "er": (1.0, 0.7)}
    records = [
        record(name, 0.9, seed, a, score_seconds=s + 0.1 * (seed - 1), train_seconds=(1.0, 2.0, 9.0)[seed])
        for name, (s, a) in values.items()
        for seed in range(3)
    ]
    records += [record("snip", 0.5, 0, 0.99), record("erk", 0.9, 0, None, score_seconds=None)]
    assert pareto(compared(records), 0.9, PATH)
    (axes,) = drawings[0].axes
    # medians: two seconds of training, and the score's
    shown = {str(x.get_label()): (float(x.get_xdata()[0]), float(x.get_ydata()[0])) for x in axes.lines[:-1]}
    expected = {"snip": (3, 90), "random": (2.5, 50), "grasp": (4, 80), "er": (3, 70)}
    assert shown == {name: pytest.approx(place) for name, place in expected.items()}
    for line in axes.lines[:-1]:
        assert (line.get_color(), line.get_marker()) == LOOKS[str(line.get_label())][:2]
    front = axes.lines[-1]
    assert np.allclose(front.get_xydata(), [(2.5, 50), (3, 90)])
    assert front.get_zorder() == 0  # behind the points
    assert entries(axes) == {*expected, "not beaten in both"}
    assert names(axes) == (
        "net on digits, sparsity 0.9",
        "seconds: scoring, median over seeds, and training, median of all trials",
        "test accuracy in %, last epoch",
    )
    assert not pareto(compared([record("snip", 0.9, 0, None)]), 0.9, PATH)


@pytest.mark.parametrize(
    ("accuracies", "ends"),
    [
        ((0.5, 0.501), (49.95, 50.15)),  # two tenths of a point around 50.05
        ((0.5, 0.7), (49, 71)),  # matplotlib's margins of a twentieth
        ((1.0, 0.9995), (99.875, 100.01)),  # hardly above 100
        ((0.0, 0.0005), (-0.01, 0.125)),
    ],
)
def test_axes_of_cost_do_not_enlarge_what_nobody_cares_for(
    accuracies: tuple[float, float], ends: tuple[float, float], drawings: list[Any]
) -> None:
    pair = zip(("snip", "grasp"), (0.1, 0.2), accuracies, strict=True)
    records = [record(name, 0.5, 0, a, score_seconds=s, train_seconds=1000.0) for name, s, a in pair]
    pareto(compared(records), 0.5, PATH)
    (axes,) = drawings[0].axes
    assert axes.get_ylim() == pytest.approx(ends)
    assert axes.get_xlim() == pytest.approx((990.1485, 1010.1515))  # a hundredth to each side of 1000.15


def bars(axes: Any) -> list[tuple[float, float]]:
    """Where bars begin and end."""
    return [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]


def test_what_a_mask_costs(drawings: list[Any]) -> None:
    """In steps of 32 images of 1000 a second."""
    seconds = {"snip": 0.32, "random": 0.0, "grasp": 0.032}
    records = [record(name, 0.9, seed, 0.5, score_seconds=s * seed) for name, s in seconds.items() for seed in range(3)]
    assert bar_charts.mask_costs(compared(records), PATH)
    (axes,) = drawings[0].axes
    shown = dict(zip([label.get_text() for label in axes.get_yticklabels()], bars(axes), strict=True))
    assert shown == {"snip": pytest.approx((0.5, 10)), "grasp": pytest.approx((0.5, 1))}  # from half of the least
    centres = [bar.get_y() + bar.get_height() / 2 for bar in axes.patches]
    assert centres == pytest.approx(axes.get_yticks().tolist())
    assert [text.get_text() for text in axes.texts] == ["10" if name == "snip" else "1" for name in shown]
    assert [to_hex(bar.get_facecolor()).upper() for bar in axes.patches] == [LOOKS[name][0] for name in shown]
    assert names(axes) == ("Cost of a mask, net on digits", "training steps (logarithmic)", "")
    assert axes.get_xscale() == "log"
    assert axes.get_xlim() == pytest.approx((0.5, 30))
    assert axes.yaxis_inverted()
    assert axes.xaxis.get_major_formatter()(0.1) == "0.1"
    assert axes.xaxis.get_minor_formatter()(0.2) == ""
    assert not bar_charts.mask_costs(compared([record("random", 0.9, 0, 0.5, score_seconds=0.0)]), PATH)


def learnt(epochs: int = 2) -> list[Record]:
    """Learning curves of two seeds of two criteria and of the dense network."""
    ends = {None: (0.8, 1.0), "snip": (0.6, 0.8), "random": (0.2, 0.4)}
    found = []
    for name, (low, high) in ends.items():
        for seed, end in enumerate((low, high)):
            losses = [2.0 + seed, *[1.0 + seed] * (epochs - 1)]
            own = curve(*losses, accuracies=[0.1, *[end] * (epochs - 1)])
            found.append(record(name, 0.9 if name else 0.0, seed, end, curve=own))
    return found


def test_learning_curves(drawings: list[Any]) -> None:
    records = [*learnt(), record("snip", 0.9, 2, None), record("snip", 0.5, 0, 0.9, curve=curve(0.1, 0.1))]
    known = {one.identity: one for one in records}
    assert curves.learning(compared(records), 0.9, known, PATH)
    (axes,) = drawings[0].axes
    shown = {str(line.get_label()): line for line in axes.lines}
    expected = {"dense": (10, 90), "snip, 2 of 3 seeds": (10, 70), "random": (10, 30)}
    assert shown.keys() == expected.keys() == entries(axes)
    for label, heights in expected.items():
        assert np.asarray(shown[label].get_xdata()).tolist() == [1, 2]
        assert shown[label].get_ydata() == pytest.approx(heights)
    line = shown["random"]
    assert (line.get_color(), line.get_marker(), line.get_linestyle()) == LOOKS["random"]
    assert (shown["dense"].get_color(), shown["dense"].get_linestyle()) == (DENSE_COLOUR, "--")
    assert names(axes) == ("net on digits, sparsity 0.9", "epoch", "test accuracy in % (scale: error)")
    assert axes.get_ylim() == (7, 90)
    assert axes.get_yscale() == "function"
    assert all(float(tick).is_integer() for tick in axes.get_xticks())
    assert curves.learning(compared(records), 0.9, known, PATH, loss=True)
    (axes,) = drawings[1].axes
    assert [np.asarray(line.get_ydata()).tolist() for line in axes.lines] == [[2.5, 1.5]] * 3
    assert axes.get_ylim()[0] == 0
    assert names(axes) == ("net on digits, sparsity 0.9", "epoch", "training loss, mean of each epoch")


def test_curves_begin_with_their_first_epoch(drawings: list[Any]) -> None:
    """A level of iterative pruning may leave some out."""
    later = tuple(dataclasses.replace(epoch, epoch=epoch.epoch + 3) for epoch in curve(1.0, 1.0))
    records = [record("imp", 0.9, 0, 0.5, curve=later), record("snip", 0.9, 0, 0.5, curve=curve(1.0, 1.0))]
    known = {one.identity: one for one in records}
    curves.learning(compared(records), 0.9, known, PATH)
    sparsity_by_epoch(compared(records), known, PATH)
    begins = [{line.get_label(): np.asarray(line.get_xdata()).tolist() for line in d.axes[0].lines} for d in drawings]
    assert begins == [{"imp": [4, 5], "snip": [1, 2]}, {"imp": [3, 4, 5], "snip": [0, 1, 2]}]


def test_long_learning_curves_have_about_ten_marks(drawings: list[Any]) -> None:
    records = learnt(epochs=35)
    curves.learning(compared(records), 0.9, {one.identity: one for one in records}, PATH)
    assert [line.get_markevery() for line in drawings[0].axes[0].lines] == [3, 3, None]


def test_curves_of_other_lengths_or_of_one_epoch_are_not_drawn(drawings: list[Any]) -> None:
    for epochs, others in ((2, 3), (1, 1)):
        records = [
            *learnt()[:2],
            *(record("snip", 0.9, s, 0.5, curve=curve(*[1.0] * n)) for s, n in enumerate((epochs, others))),
        ]
        assert not curves.learning(compared(records), 0.9, {one.identity: one for one in records}, PATH)
    records = [record("snip", 0.9, 0, 0.5, curve=curve(2.0, None))]
    assert not curves.learning(compared(records), 0.9, {one.identity: one for one in records}, PATH, loss=True)
    assert not drawings


def test_ranks_on_a_line(drawings: list[Any]) -> None:
    """Of a at 1.0, b at 1.2, c at 1.4, d at 2.3 and e at 4: bars join a to c and c to d, and none is within another."""
    curves.critical_difference(Ranks(("e", "b", "a", "d", "c"), (4.0, 1.2, 1.0, 2.3, 1.4), 9, 0.01, 1.0), PATH)
    (axes,) = drawings[0].axes
    lines = [np.asarray(line.get_xydata()).tolist() for line in axes.lines]
    depth = 0.6 + 0.25 * 2
    levels = {"a": -depth, "b": -depth - 0.5, "c": -depth - 1, "d": -depth - 0.5, "e": -depth}
    ranks, ends = (
        {"a": 1.0, "b": 1.2, "c": 1.4, "d": 2.3, "e": 4.0},
        dict(zip("abcde", [0.5] * 3 + [5.5] * 2, strict=True)),
    )
    for line, name in zip(lines, "abcde", strict=False):
        assert np.allclose(line, [(ranks[name], 0), (ranks[name], levels[name]), (ends[name], levels[name])])
    assert np.allclose(lines[5], [(0.97, -0.25), (1.43, -0.25)])  # a little more than from rank to rank
    assert np.allclose(lines[6], [(1.37, -0.5), (2.33, -0.5)])
    assert np.allclose(lines[7], [(1, 0.9), (2, 0.9)])
    assert len(lines) == 8
    told = {text.get_text(): (text.get_position(), text.get_horizontalalignment()) for text in axes.texts}
    assert told.keys() == {"a 1.00", "b 1.20", "c 1.40", "d 2.30", "e 4.00", "critical difference 1.00"}
    assert told["a 1.00"] == ((0.5, pytest.approx(levels["a"])), "right")
    assert told["e 4.00"] == ((5.5, pytest.approx(levels["e"])), "left")
    assert told["critical difference 1.00"] == ((1.5, 1.0), "center")
    assert axes.get_xlim() == (0.5, 5.5)
    low, high = axes.get_ylim()
    assert low < min(levels.values())
    assert high > 1
    assert axes.get_xticks().tolist() == [1, 2, 3, 4, 5]
    assert axes.xaxis.get_ticks_position() == "top"
    assert axes.spines["top"].get_position() == ("data", 0)
    assert {side: spine.get_visible() for side, spine in axes.spines.items()} == {
        "left": False, "right": False, "bottom": False, "top": True
    }  # fmt: skip
    assert not axes.yaxis.get_visible()


def test_of_an_even_number_of_methods_half_stand_on_each_side(drawings: list[Any]) -> None:
    curves.critical_difference(Ranks(("a", "b", "c", "d"), (1.0, 2.0, 3.0, 4.0), 9, 0.01, 0.5), PATH)
    (axes,) = drawings[0].axes
    sides = {text.get_text()[0]: text.get_position()[0] for text in axes.texts[:4]}
    assert sides == {"a": 0.5, "b": 0.5, "c": 4.5, "d": 4.5}


def test_a_dollar_sign_begins_no_formula(drawings: list[Any]) -> None:
    changes: dict[str, Any] = {"trial": {"model": "$x$"}, "curve": curve(1.0, 1.0)}
    records = [record("$y$", 0.9, 0, 0.5, **changes)]
    found, known = compared(records), {one.identity: one for one in records}
    figure.accuracy(found, PATH)
    pareto(found, 0.9, PATH)
    bar_charts.mask_costs(found, PATH)
    curves.learning(found, 0.9, known, PATH)
    for drawing in drawings:
        texts = [drawing.axes[0].title, *drawing.axes[0].get_yticklabels()]
        texts += legend.get_texts() if (legend := drawing.axes[0].get_legend()) else []
        dollars = [text.get_text() for text in texts if "$" in text.get_text()]
        assert len(dollars) == 2
        assert all(text.count("$") == text.count(r"\$") for text in dollars)
