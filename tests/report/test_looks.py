"""What figures look like, as it was last agreed to: sizes, colours and widths, in ``looks.txt``.

A change that is meant: ``python -m tests.report.test_looks`` writes the file again.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.collections import Collection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Annotation, Text

from pai_bench.report.figures import style
from pai_bench.report.page import write_report
from tests.report.records import stored
from tests.report.test_damage import benchmark, collapse, cost
from tests.report.test_pairs import full

LOOKS = Path(__file__).with_name("looks.txt")


def described(figure: Figure) -> Iterator[str]:
    """A figure and what was put into it, a line for each way to look, with how many look so."""
    width, height = figure.get_size_inches()
    yield f"figure {width:.4g} x {height:.4g}, {len(figure.axes)} axes, {len(figure.legends)} legends"
    for one in figure.axes:
        ends = f"{one.get_xlim()[0]:.3g} to {one.get_xlim()[1]:.3g}, {one.get_ylim()[0]:.3g} to {one.get_ylim()[1]:.3g}"
        yield f"  {one.get_xscale()} {one.get_yscale()} axes, {ends}"
    axes = [(axis, axis.label) for one in figure.axes for axis in (one.xaxis, one.yaxis)]
    ticks = {
        part for axis, label in axes for part in axis.findobj() if part is not label
    }  # as many as there is room for
    looks = Counter(filter(None, (look(artist) for artist in figure.findobj() if artist not in ticks)))
    yield from (f"  {text} ({count})" for text, count in sorted(looks.items()))
    yield from sorted({f"  tick {look(part)}" for part in ticks if isinstance(part, Text) and look(part)})


def look(artist: Any) -> str:
    """How a part of a figure looks; empty for what carries no look of its own."""
    if isinstance(artist, Text):
        place = f"{artist.get_horizontalalignment()} {artist.get_verticalalignment()} {artist.get_rotation():g}"
        if isinstance(artist, Annotation):
            place += f" {artist.xyann[0]:.3g} {artist.xyann[1]:.3g} away"
        return f"text {artist.get_fontsize():g} {to_hex(artist.get_color())} {place}" if artist.get_text() else ""
    if isinstance(artist, Line2D):
        marks = f"{artist.get_marker()} {artist.get_markersize():g} {artist.get_linestyle()}"
        return f"line {artist.get_linewidth():g} {to_hex(artist.get_color())} {marks} {artist.get_alpha()}"
    if isinstance(artist, Patch):
        return f"patch {to_hex(artist.get_facecolor())} {artist.get_linewidth():g} {artist.get_alpha()}"
    if isinstance(artist, AxesImage):
        return f"image {artist.get_cmap().name} {artist.get_interpolation()}"
    return f"{type(artist).__name__} {artist.get_alpha()}" if isinstance(artist, Collection) else ""


def looks_of_all() -> str:
    """The looks of every figure of a report that has everything."""
    found: list[Figure] = []
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(style, "lay_out", lambda _figure: None)
        patch.setattr(style, "save", lambda figure, _path: found.append(figure))
        store = stored(f"{folder}/r", full(("net", "other", "third")))
        store.write(cost())
        store.write(collapse())
        store.write(benchmark())
        write_report(store, Path(folder) / "report.md")
    return "\n".join(line for figure in found for line in described(figure)) + "\n"


def test_figures_look_as_they_did() -> None:
    assert looks_of_all() == LOOKS.read_text(encoding="utf-8")


if __name__ == "__main__":
    LOOKS.write_text(looks_of_all(), encoding="utf-8")
