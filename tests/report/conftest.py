"""Figures as they are drawn, and not written."""

from typing import Any

import pytest

from pai_bench.report.figures import style


def check_style(figure: Any) -> None:
    """What all figures share: legends have no frame, and names under an axis are level or rise a little."""
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    assert not any(legend.get_frame_on() for legend in legends if legend is not None)
    assert {label.get_rotation() for axes in figure.axes for label in axes.get_xticklabels()} <= {0, 30}


@pytest.fixture
def drawings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that a test draws, in order; nothing is laid out or written, which takes most of the time."""
    found: list[Any] = []
    monkeypatch.setattr(style, "lay_out", lambda _figure: None)

    def save(figure: Any, _path: Any) -> None:
        check_style(figure)
        found.append(figure)

    monkeypatch.setattr(style, "save", save)
    return found
