"""What all figures share: colours and markers that stand for the same criterion everywhere, and files without dates."""

import io
import re
import textwrap
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import NullFormatter

from pai_bench.report import plugin_facts
from pai_bench.report.plugin_facts import CriterionFacts, Look, criterion_of
from pai_bench.support import outfile

# Okabe & Ito's palette, which colour-blind readers can tell apart, without its yellow
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
LINES = ("-", "--", ":", "-.")
DENSE_COLOUR, COLLAPSED_COLOUR = "#888888", "#B00000"

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "pai-bench",
    "svg.fonttype": "none",  # text that can be searched and read aloud, in the reader's own fonts
    "font.size": 10,
    "axes.formatter.useoffset": False,  # numbers as they are
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",  # so that a page in dark colours shows it as it is
    "savefig.facecolor": "white",
}

INSIDE = 6
"""Entries of a legend that find room among the lines."""

PIXELS = 150
"""Of a PNG, per inch."""


@contextmanager
def canvas(path: Path, width: float = 6.4, height: float = 4.2) -> Iterator[Figure]:
    """A block that draws a figure, which is saved to `path` in the format of its suffix, ``.svg`` or ``.png``."""
    with rc_context():
        rcdefaults()  # whatever the user has set would show
        rcParams.update(STYLE)
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)  # measures text several times faster than the canvas of an SVG would
        yield figure
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the reader's fonts may have it
            lay_out(figure)
            save(figure, path)


def lay_out(figure: Figure) -> None:
    """Give all parts of a figure their places."""
    for axes in figure.axes:
        for artist in (*axes.lines, *axes.images, *axes.collections):
            artist.set_in_layout(False)  # axes hold them, and measuring them takes long
    # once: a figure that has the engine is laid out, drawn for nothing and drawn
    ConstrainedLayoutEngine().execute(figure)
    texts = [text for axes in figure.axes for text in (axes.title, axes.xaxis.label)]
    if [text for text in texts if broken(text, figure.bbox.width)]:
        ConstrainedLayoutEngine().execute(figure)


def save(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all, in place of an earlier one."""
    undated, content = {"Software": None} if path.suffix == ".png" else {"Date": None}, io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=PIXELS, metadata=undated)
    outfile.write(path, content.getvalue(), "a figure of the report")


ROWS = 5
"""Lines of a title at most."""


def broken(title: Text, width: float) -> bool:
    """Whether a title or label that reaches beyond a figure of this `width` has been broken into lines, at its commas.

    A part that is too long alone is broken at spaces, or anywhere.
    """
    if not (text := title.get_text()):
        return False
    extent = title.get_window_extent()
    if extent.x0 >= 0 and extent.x1 <= width:
        return False
    middle = (extent.x0 + extent.x1) / 2  # of its axes, which it is centred above
    fitting = max(map(len, text.splitlines())) * 2 * min(middle, width - middle) / extent.width
    width, lines = max(1, int(fitting)), list[str]()
    for line in text.split("\n"):
        *parts, last = line.split(", ")
        before = len(lines)
        for part in [*(f"{part}," for part in parts), last]:
            if len(lines) > before and len(lines[-1]) + 1 + len(part) <= width:
                lines[-1] += f" {part}"
            else:
                lines += textwrap.wrap(part, width)
    if len(lines) > ROWS:  # there must be room for the figure, and its section has the whole title
        lines = [*lines[: ROWS - 1], f"{lines[ROWS - 1][:-1]}…"]
    title.set_text("\n".join(lines))
    return True


def plain(axis: Axis) -> None:
    """Numbers as they are along a logarithmic axis, 0.1 and not a ten with an exponent, at its powers of ten alone."""
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def looks(methods: Iterable[str], facts: Mapping[str, CriterionFacts] | None = None) -> dict[str, Look]:
    """Colour, marker and line of each method, no two the same; `facts` about criteria are looked up if not given.

    A criterion has the same look in every figure; variants and other uses of it, which its name goes on with behind a
    comma or a plus, have its colour, and another marker or line. So has one with options where the plain one is there.
    """
    found: dict[str, Look] = {}
    methods = list(methods)
    facts = plugin_facts.criteria(methods) if facts is None else facts
    for method in sorted(methods, key=lambda method: (criterion_of(method) != method, is_use(method), method)):
        criterion = criterion_of(method)
        own = (facts[criterion].figure_style if criterion in facts else None) or look_by_name(criterion)
        others = [(own[0], marker, line) for line, marker in product(LINES, MARKERS)]
        others += [(colour, marker, line) for line, marker, colour in product(LINES, MARKERS, COLOURS)]
        found[method] = next(look for look in (own, *others) if look not in found.values())
    return {method: found[method] for method in methods}


def legend(figure: Figure, axes: Axes) -> None:
    """The legend of `axes`: in it if it is short, else beside it."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > INSIDE:
        figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
    else:
        axes.legend(frameon=False, fontsize=9)


def is_use(method: str) -> bool:
    """Whether a method is a variant or another use of its criterion."""
    return re.search(r", | \+ ", method) is not None


def look_by_name(criterion: str) -> Look:
    """The look of a criterion that has none of its own: by its name, so that it is the same everywhere."""
    place = zlib.crc32(criterion.encode())
    return COLOURS[place % len(COLOURS)], MARKERS[place // len(COLOURS) % len(MARKERS)], "-"


def literal(text: str) -> str:
    """`text` as it is: a dollar sign would begin a formula."""
    return text.replace("$", r"\$")


def shorten(names: Sequence[str]) -> list[str]:
    """Names of layers without what they all end in, and literally."""
    return [literal(name.removesuffix(".weight")) for name in names]
