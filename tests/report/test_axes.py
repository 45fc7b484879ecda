"""Axes of figures: their ends, their ticks, and what is drawn along them."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pai_bench.report import tables
from pai_bench.report.figures import pareto
from pai_bench.report.figures.accuracy import (
    TICKS,
    accuracy_ticks,
    accuracy_to_error,
    error_axis,
    error_to_accuracy,
    spaced,
)
from pai_bench.report.summary import comparisons
from pai_bench.results import as_frame
from tests.report.records import drawn


@pytest.mark.parametrize(("bottom", "top"), [(22, 60), (8.5, 20), (41, 50), (97.2, 99), (0, 100), (99.1, 99.5)])
def test_an_accuracy_axis_has_room_for_its_ticks(bottom: float, top: float) -> None:
    found = accuracy_ticks(bottom, top)
    assert 3 <= len(found) <= 12
    assert bottom <= min(found) < max(found) <= top
    places = [accuracy_to_error(tick) for tick in found]
    length = accuracy_to_error(top) - accuracy_to_error(bottom)
    assert min(np.diff(places)) >= 0.07 * length


@pytest.mark.parametrize(("bottom", "top", "found"), [(40, 50, [40, 45, 50]), (8.5, 15, [10, 12, 14, 15])])
def test_fewer_than_three_round_accuracies_have_others_beside_them(
    bottom: float, top: float, found: list[float]
) -> None:
    assert accuracy_ticks(bottom, top) == found


def test_ticks_may_be_as_near_as_their_least_distance() -> None:
    assert spaced([0.0, 1.0, 0.5, 2.0], float, 1.0) == [0, 1, 2]


@pytest.mark.parametrize(("lowest", "bottom"), [(2.0, 0.0), (3.5, 0.5), (50.0, 47.0)])
def test_an_accuracy_axis_begins_three_points_below(lowest: float, bottom: float) -> None:
    axes = Figure().subplots()
    error_axis(axes, lowest, 100.0)
    assert axes.get_ylim() == pytest.approx((bottom, 100))


def test_accuracies_that_an_axis_may_name_are_round() -> None:
    fives = set(range(0, 101, 5))
    assert {tick for tick in TICKS if tick not in fives} == {96, 97, 98, 99, 99.5}
    assert fives <= set(TICKS)
    assert len(set(TICKS)) == len(TICKS)


def test_the_scale_of_accuracies_there_and_back() -> None:
    """By the error, to which 0.3 per cent are added; beyond the axis it goes on."""
    accuracies = np.array([0.0, 50.0, 98.0, 99.9, 100.0])
    scaled = accuracy_to_error(accuracies)
    np.testing.assert_allclose(np.exp(-scaled), 100.3 - accuracies)
    np.testing.assert_allclose(error_to_accuracy(scaled), accuracies, atol=1e-9)
    assert np.isfinite(accuracy_to_error(1e9))


def test_disconnected_seeds_count_in_the_cost_of_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(Axes, "plot", lambda _axes, *args, **_keys: seen.append(args))
    monkeypatch.setattr(pareto, "legend", lambda _axes: None)
    records = [drawn("random", 0.5, 0, 0.8)]
    cut = [drawn("random", 0.5, seed, 0.1, connected=False, curve=()) for seed in (1, 2)]
    records += [dataclasses.replace(one, status="disconnected") for one in cut]
    records += [drawn("snip", 0.5, s, 0.71) for s in range(3)]
    (comparison,) = comparisons(as_frame(records))
    pareto.pareto(comparison, 0.5, Path("x.svg"))
    assert sorted(round(args[1], 2) for args in seen if isinstance(args[1], float)) == [33.33, 71]


def test_seconds_are_shown_as_they_are_and_none_are_told_of_what_was_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of costs that hardly differ too; and a dense network has no schedule and no memory of scoring."""
    seen: list[Any] = []

    def look(axes: Axes) -> None:
        axes.figure.canvas.draw()
        low, high = axes.get_xlim()
        seen.append((high - low, low, axes.xaxis.get_offset_text().get_text()))

    monkeypatch.setattr(pareto, "legend", look)
    records = [drawn(c, 0.5, 0, 0.9, train_seconds=1000.0, score_seconds=s) for c, s in (("snip", 0.1), ("grasp", 0.2))]
    records.append(drawn(None, 0.0, 0, 0.9, score_peak_bytes=None))
    (comparison,) = comparisons(as_frame(records))
    pareto.pareto(comparison, 0.5, Path("x.svg"))
    ((width, low, offset),) = seen
    assert width >= 0.0199 * low
    assert offset == ""
    head, *rows = tables.cost(comparison)
    memory = {row[0]: row[head.index("peak memory")] for row in rows}
    assert memory == {"dense": "", "snip": "not measured", "grasp": "not measured"}
