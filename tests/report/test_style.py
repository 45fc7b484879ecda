"""What all figures share: titles that fit, legends, axes of plain numbers, and looks of what has none of its own."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib import rc_context, rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pai_bench.report.figures import style
from pai_bench.report.figures.style import break_lines, canvas, legend, literal, look_by_name, looks, plain, shorten


class Title:
    """A text in letters that are one pixel wide, centred above a place."""

    def __init__(self, text: str, middle: float) -> None:
        self.text, self.middle = text, middle

    def get_text(self) -> str:
        return self.text

    def set_text(self, text: str) -> None:
        self.text = text

    def get_window_extent(self) -> Any:
        width = max(map(len, self.text.splitlines()), default=0)
        return SimpleNamespace(x0=self.middle - width / 2, x1=self.middle + width / 2, width=width)


@pytest.mark.parametrize(
    ("text", "middle", "width", "lines"),
    [
        ("", 5, 10, None),
        ("0123456789", 5, 10, None),  # to both ends
        ("0123456789", 4.5, 10, ["012345678", "9"]),
        ("0123456789", 5.5, 10, ["012345678", "9"]),
        ("one, two, three, four", 5, 10, ["one, two,", "three,", "four"]),
        ("one, two, three, four", 4.5, 9, ["one, two,", "three,", "four"]),  # as long as there is room
        ("one, two, three, four", 4, 8, ["one,", "two,", "three,", "four"]),
        ("one, two, three, four", 4, 20, ["one,", "two,", "three,", "four"]),  # of the nearer side
        ("one, two, three, four", 16, 20, ["one,", "two,", "three,", "four"]),
        ("of one long part, two", 4, 8, ["of one", "long", "part,", "two"]),
        ("first\nsecond, third", 4, 8, ["first", "second,", "third"]),
        ("a, b\nc, d, e, f", 2.5, 5, ["a, b", "c, d,", "e, f"]),
        ("a, b, c, d, e", 1, 2, ["a,", "b,", "c,", "d,", "e"]),
        ("a, b, c, d, e, f", 1, 2, ["a,", "b,", "c,", "d,", "e…"]),
        ("a b", 0.2, 2, ["a", "b"]),  # no line is of nothing
    ],
)
def test_titles_are_broken_at_commas_where_they_reach_beyond_the_figure(
    text: str, middle: float, width: float, lines: list[str] | None
) -> None:
    title: Any = Title(text, middle)
    assert break_lines(title, width) == (lines is not None)
    assert title.text == (text if lines is None else "\n".join(lines))


def test_a_title_that_is_broken_fits() -> None:
    figure = Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.set_title("a network of many layers on data, sparsity 0.99, with 30 seeds of each")
    assert axes.title.get_window_extent().x1 > figure.bbox.width
    style.lay_out(figure)
    extent = axes.title.get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= figure.bbox.width
    assert axes.title.get_text().count("\n") > 0
    assert extent.y1 <= figure.bbox.height  # there is room for its lines


def test_a_figure_is_the_same_whatever_its_reader_has_set(tmp_path: Path) -> None:
    with rc_context({"lines.linewidth": 9, "axes.formatter.useoffset": True}):
        with canvas(tmp_path / "x.svg") as figure:
            axes = figure.subplots()
            (line,) = axes.plot([0, 1], [1000.01, 1000.02])
        assert line.get_linewidth() < 9
        assert axes.yaxis.get_major_formatter().get_offset() == ""
        assert rcParams["lines.linewidth"] == 9
    assert "1000.01" in (tmp_path / "x.svg").read_text()
    with canvas(tmp_path / "x.svg", 3, 2) as figure:
        figure.subplots().set_title("\N{BRAILLE PATTERN DOTS-1}\U0001fae8")  # which the fonts here may not have
    assert 'width="216pt" height="144pt"' in (tmp_path / "x.svg").read_text()


@pytest.mark.parametrize(("lines", "inside"), [(6, True), (7, False)])
def test_a_long_legend_is_beside_the_axes(lines: int, inside: bool) -> None:
    figure = Figure()
    axes = figure.subplots()
    for i in range(lines):
        axes.plot([0, 1], label=f"line {i}")
    legend(axes)
    assert (axes.get_legend() is not None, len(figure.legends)) == (inside, int(not inside))
    found = axes.get_legend() if inside else figure.legends[0]
    assert found is not None
    assert [text.get_text() for text in found.get_texts()] == [f"line {i}" for i in range(lines)]
    assert not found.get_frame_on()
    assert {text.get_fontsize() for text in found.get_texts()} == {9 if inside else 8}


def test_numbers_of_a_logarithmic_axis_are_plain() -> None:
    axes = Figure().subplots()
    axes.set_xscale("log")
    plain(axes.xaxis)
    assert [axes.xaxis.get_major_formatter()(place, 0) for place in (0.1, 1, 10)] == ["0.1", "1", "10"]
    assert axes.xaxis.get_minor_formatter()(2, 0) == ""


def test_looks_without_one_of_their_own_are_by_name_and_apart() -> None:
    names = [f"mine-{i}" for i in range(60)]
    by_name = {look_by_name(name) for name in names}
    assert {colour for colour, _, _ in by_name} == set(style.COLOURS)
    assert {marker for _, marker, _ in by_name} == set(style.MARKERS)
    assert {line for *_, line in by_name} == {"-"}
    found = looks(["snip + shuffle", "snip", "snip, bn=train"], {})
    assert list(found) == ["snip + shuffle", "snip", "snip, bn=train"]
    assert found["snip"] == look_by_name("snip")  # whatever else there is
    assert {colour for colour, _, _ in found.values()} == {found["snip"][0]}
    assert len(set(found.values())) == 3
    many = looks([f"snip, temperature={i}" for i in range(100)], {})
    assert len(set(many.values())) == 100


def test_names_as_they_are_drawn() -> None:
    assert literal("$x$") == r"\$x\$"
    assert shorten(["a.weight", "b.bias", "$.weight"]) == ["a", "b.bias", r"\$"]


def test_a_title_ends_before_a_legend_beside_its_axes() -> None:
    figure = Figure(figsize=(6, 4))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number in range(8):
        axes.plot([0, 1], [0, number], label=f"a criterion with options, {number}")
    axes.set_title("a network on some data, a fifth of the training set, sparsity 0.98")
    legend(axes)
    style.lay_out(figure)
    (beside,) = figure.legends
    assert axes.title.get_window_extent().x1 <= beside.get_window_extent().x0
    assert "\n" in axes.title.get_text()
