"""What figures look like, as it was last agreed to: sizes, colours and widths, in ``looks.txt``.

A change that is meant: ``python -m tests.report.test_looks`` writes the file again.
"""

import dataclasses
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import Collection, LineCollection, PathCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.spines import Spine
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FixedLocator

from pai_bench.report.figures import style
from pai_bench.report.page import write_report
from tests.report.records import ENVIRONMENT, stored
from tests.report.test_damage import benchmark, collapse, cost
from tests.report.test_pairs import full

LOOKS = Path(__file__).with_name("looks.txt")


def described(figure: Figure) -> Iterator[str]:
    """A figure and what was put into it, a line for each way to look, with how many look so and where they are."""
    width, height = figure.get_size_inches()
    yield f"figure {width:.4g} x {height:.4g}, {len(figure.axes)} axes, {len(figure.legends)} legends"
    for one in figure.axes:
        ends = f"{one.get_xlim()[0]:.3g} to {one.get_xlim()[1]:.3g}, {one.get_ylim()[0]:.3g} to {one.get_ylim()[1]:.3g}"
        yield f"  {one.get_xscale()} {one.get_yscale()} axes, {ends}{'' if one.get_visible() else ', not seen'}"
        yield f"    aspect {one.get_aspect()}, margins {one.margins()}, {', '.join(map(spine, one.spines.values()))}"
        yield from (f"    {name} {look_of_axis(axis)}" for name, axis in (("x", one.xaxis), ("y", one.yaxis)))
    axes = [(axis, axis.label) for one in figure.axes for axis in (one.xaxis, one.yaxis)]
    ticks = {
        part for axis, label in axes for part in axis.findobj() if part is not label
    }  # as many as there is room for
    looks: dict[str, list[Any]] = {}
    for artist in figure.findobj():
        if artist not in ticks and (text := look(artist)):
            looks.setdefault(text, []).append(artist)
    yield from (f"  {text} ({len(same)}){places(same)}" for text, same in sorted(looks.items()))
    yield from sorted({f"  tick {look(part)}" for part in ticks if isinstance(part, Text) and look(part)})


def spine(one: Spine) -> str:
    """A side of axes: its name and where it is."""
    if not one.get_visible() or one.spine_type == "colorbar":
        return f"no {one.spine_type}"
    where = one.get_position()
    return f"{one.spine_type} at {where[0]} {where[1]:g}" if isinstance(where, tuple) else f"{one.spine_type}"


def look_of_axis(axis: Any) -> str:
    """Where an axis has ticks, as far as this does not depend on the room that there is, and how they look."""
    major, minor = axis.get_major_locator(), axis.get_minor_locator()
    fixed = [f"{place:.3g}" for place in axis.get_majorticklocs()] if isinstance(major, FixedLocator) else ""
    grid = [f"{line.get_alpha()}" for line in axis.get_gridlines()[:1] if line.get_visible()]
    ticks = f"{axis.get_ticks_position()}, {axis.majorTicks[0].tick1line.get_markersize():g} long"
    formats = f"{type(axis.get_major_formatter()).__name__} {type(axis.get_minor_formatter()).__name__}"
    seen = "" if axis.get_visible() else ", not seen"
    return f"{type(major).__name__} {type(minor).__name__} {fixed}, {formats}, {ticks}, grid {grid}{seen}"


def look(artist: Any) -> str:
    """How a part of a figure looks; empty for what carries no look of its own."""
    own = own_look(artist)
    extra = f" zorder {artist.get_zorder():g}" if own else ""
    extra += " not in layout" if own and not artist.get_in_layout() else ""
    return own + extra + (" rasterized" if own and artist.get_rasterized() else "")


def own_look(artist: Any) -> str:
    """How a part of a figure looks, by its kind."""
    if isinstance(artist, Text):
        place = f"{artist.get_horizontalalignment()} {artist.get_verticalalignment()} {artist.get_rotation():g}"
        if isinstance(artist, Annotation):
            place += f" {artist.xyann[0]:.3g} {artist.xyann[1]:.3g} away"
        return f"text {artist.get_fontsize():g} {to_hex(artist.get_color())} {place}" if artist.get_text() else ""
    if isinstance(artist, Line2D):
        marks = f"{artist.get_marker()} {artist.get_markersize():g} {artist.get_linestyle()}"
        every = f" every {artist.get_markevery()}" if isinstance(artist.get_markevery(), int) else ""
        return f"line {artist.get_linewidth():g} {to_hex(artist.get_color())} {marks} {artist.get_alpha()}{every}"
    if isinstance(artist, Patch):
        return f"patch {to_hex(artist.get_facecolor())} {artist.get_linewidth():g} {artist.get_alpha()}"
    if isinstance(artist, Legend):
        return f"legend {'framed' if artist.get_frame_on() else 'open'}"
    if isinstance(artist, (AxesImage, QuadMesh)):
        low, high = artist.get_clim()
        kind = f"{type(artist.norm).__name__} {low:.3g} to {high:.3g}"
        smooth = artist.get_interpolation() if isinstance(artist, AxesImage) else ""
        return f"{type(artist).__name__} {artist.get_cmap().name} {kind} {smooth}"
    if isinstance(artist, Collection):
        colours = sorted({to_hex(colour) for colour in (*artist.get_facecolor(), *artist.get_edgecolor())})
        widths = sorted({f"{width:g}" for width in np.atleast_1d(artist.get_linewidth())})
        return f"{type(artist).__name__} {artist.get_alpha()} {' '.join((*colours, *widths))}"
    return ""


def places(same: Sequence[Any]) -> str:
    """What parts that look the same hold, and the sums of where they are: a line for each would be too much to read."""
    match same[0]:
        case Text():
            texts = " | ".join(sorted(text.get_text() for text in same))
            return f" {texts!r}{sums([text.get_position()] for text in same)}"
        case Line2D():
            return sums(line.get_xydata() for line in same)
        case Rectangle():
            return sums(patch.get_bbox().get_points() for patch in same)
        case AxesImage() | QuadMesh():
            held = sums(np.ma.filled(np.ma.asarray(image.get_array()), 0).reshape(-1, 1) for image in same)
            return f"{held}, over{sums(map(extent, same))}"
        case PathCollection():
            return f" sizes{sums(p.get_sizes()[:, None] for p in same)}, at{sums(p.get_offsets() for p in same)}"
        case LineCollection():
            return sums(segment for lines in same for segment in lines.get_segments())
    return ""


def extent(image: AxesImage | QuadMesh) -> Any:
    """Where an image or a mesh is: its ends, or its corners."""
    return [image.get_extent()] if isinstance(image, AxesImage) else np.asarray(image.get_coordinates()).reshape(-1, 2)


def sums(parts: Iterable[Any]) -> str:
    """The sum of each column, as far as there are numbers."""
    rows = [np.asarray(part, dtype=float) for part in parts]
    return "".join(f" {total:.3g}" for total in np.nansum(np.concatenate(rows), axis=0)) if rows else ""


def looks_of_all() -> str:
    """The looks of every figure of a report that has everything."""
    found: list[Figure] = []
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(style, "lay_out", lambda _figure: None)
        patch.setattr(style, "save", lambda figure, _path: found.append(figure))
        store = stored(f"{folder}/r", full(("net", "other", "third")))
        store.write(cost())
        store.write(dataclasses.replace(cost(), environment=dataclasses.replace(ENVIRONMENT, processor="another")))
        store.write(collapse())
        store.write(benchmark())
        for name, seconds in (("short", 0.01), ("long", 10.0)):
            store.write(dataclasses.replace(benchmark(), name=name, group="other", values={"seconds": seconds}))
        write_report(store, Path(folder) / "report.md")
    return "\n".join(line for figure in found for line in described(figure)) + "\n"


def test_figures_look_as_they_did() -> None:
    assert looks_of_all() == LOOKS.read_text(encoding="utf-8")


if __name__ == "__main__":
    LOOKS.write_text(looks_of_all(), encoding="utf-8")
