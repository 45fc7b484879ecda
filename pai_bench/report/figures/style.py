"""Style of all figures: one look for each criterion, layout, and files without dates."""

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

from pai_bench.report.plugin_facts import CriterionFacts, Look, criteria, criterion_of
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

MOST_ENTRIES_INSIDE = 6
"""Entries of a legend up to which it is drawn inside the axes."""

PIXELS_PER_INCH = 150
"""Resolution of a PNG."""

MOST_TITLE_LINES = 5


@contextmanager
def canvas(path: Path, width: float = 6.4, height: float = 4.2) -> Iterator[Figure]:
    """A block that draws a figure of `width` x `height` inches, saved to `path` as its suffix says (.svg or .png)."""
    with rc_context():
        rcdefaults()  # no settings of the user
        rcParams.update(STYLE)
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)  # measures text several times faster than the canvas of an SVG would
        yield figure
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the reader's fonts may have it
            lay_out(figure)
            save(figure, path)


def lay_out(figure: Figure) -> None:
    """Place all parts of a figure, and break titles and labels that are wider than it."""
    for axes in figure.axes:
        for artist in (*axes.lines, *axes.images, *axes.collections):
            artist.set_in_layout(False)  # axes hold them, and measuring them takes long
    # once: a figure that has the engine is laid out, drawn for nothing and drawn
    ConstrainedLayoutEngine().execute(figure)
    texts = [(axes.title, width_left_of_legend(axes)) for axes in figure.axes]
    texts += [(axes.xaxis.label, figure.bbox.width) for axes in figure.axes]
    if sum(break_lines(text, width) for text, width in texts):  # all, not only the first
        ConstrainedLayoutEngine().execute(figure)


def width_left_of_legend(axes: Axes) -> float:
    """Pixels of the figure that a title of the axes has, up to a legend beside them."""
    beside = [float(legend.get_window_extent().x0) for legend in axes.figure.legends]
    return min([float(axes.figure.bbox.width), *(x for x in beside if x >= axes.bbox.x1)])


def save(figure: Figure, path: Path) -> None:
    """Write a figure atomically, in place of an earlier one."""
    undated, content = {"Software": None} if path.suffix == ".png" else {"Date": None}, io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=PIXELS_PER_INCH, metadata=undated)
    outfile.write(path, content.getvalue(), "a figure of the report")


def break_lines(title: Text, width: float) -> bool:
    """Break a title or label that does not fit into the first `width` pixels at commas, else at spaces, else anywhere.

    Returns whether it was broken.
    """
    text, extent = title.get_text(), title.get_window_extent()
    if not text or (extent.x0 >= 0 and extent.x1 <= width):
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
    if len(lines) > MOST_TITLE_LINES:  # the section has the whole title
        lines = [*lines[: MOST_TITLE_LINES - 1], f"{lines[MOST_TITLE_LINES - 1][:-1]}…"]
    title.set_text("\n".join(lines))
    return True


def plain(axis: Axis) -> None:
    """Write 0.1, not a power of ten, along a logarithmic axis, and only at its powers of ten."""
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def looks(methods: Iterable[str], facts: Mapping[str, CriterionFacts] | None = None) -> dict[str, Look]:
    """Colour, marker and line style of each method, no two alike; `facts` about criteria are looked up if None.

    A criterion has the same look in every figure. Its variants and other uses, whose names have a comma or a plus, have
    its colour and another marker, or line style where there is none left: some figures have no lines. So has one with
    options where the plain one is there.
    """
    methods, styles = list(methods), dict[str, Look]()
    facts = criteria(methods) if facts is None else facts
    for method in sorted(methods, key=lambda m: (criterion_of(m) != m, re.search(r", | \+ ", m) is not None, m)):
        criterion = criterion_of(method)
        own = (facts[criterion].figure_style if criterion in facts else None) or look_by_name(criterion)
        others = [(own[0], marker, line) for line, marker in product(LINES, MARKERS)]
        others += [(colour, marker, line) for line, marker, colour in product(LINES, MARKERS, COLOURS)]
        marks = {look[:2] for look in styles.values()}
        left = [look for look in (own, *others) if look not in styles.values()]
        styles[method] = next((look for look in left if look[0] == own[0] and look[:2] not in marks), left[0])
    return {method: styles[method] for method in methods}


def legend(axes: Axes) -> None:
    """Draw the legend of `axes`: inside if it is short, else beside them."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > MOST_ENTRIES_INSIDE:
        axes.figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
    else:
        axes.legend(frameon=False, fontsize=9)


def look_by_name(criterion: str) -> Look:
    """The look of a criterion that declares none: by a hash of its name, so that it is the same everywhere."""
    place = zlib.crc32(criterion.encode())
    return COLOURS[place % len(COLOURS)], MARKERS[place // len(COLOURS) % len(MARKERS)], "-"


def literal(text: str) -> str:
    """`text` with dollar signs escaped, which would begin a formula."""
    return text.replace("$", r"\$")


def wrapped(name: str, width: int = 18) -> str:
    """The name of a method in lines of about so many characters, which end before an option; escaped for matplotlib."""
    lines = [""]
    for part in re.split(r"(?<=[:+ ])", name):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return literal("\n".join(line.rstrip() for line in lines))


def shorten(names: Sequence[str]) -> list[str]:
    """Names of layers without ``.weight``, escaped for matplotlib."""
    return [literal(name.removesuffix(".weight")) for name in names]
