"""Figures as they are drawn, and not written."""

from typing import Any

import pytest

from pai_bench.report.figures import style


@pytest.fixture
def drawings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that a test draws, in order; nothing is laid out or written, which takes most of the time."""
    found: list[Any] = []
    monkeypatch.setattr(style, "lay_out", lambda _figure: None)
    monkeypatch.setattr(style, "save", lambda figure, _path: found.append(figure))
    return found
