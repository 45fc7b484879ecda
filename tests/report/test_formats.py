"""Reports in every format hold the same numbers, and texts from outside do no harm in any of them."""

import csv
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pai_bench.cli.entry import main
from pai_bench.report import metrics
from pai_bench.results import Record
from tests.report.records import drawn, record, stored
from tests.report.test_pairs import full


def test_formats_hold_the_same_numbers() -> None:
    stored("r", full())
    for form, suffix in (("csv", "csv"), ("json", "json"), ("latex", "tex"), ("html", "html")):
        assert main(["report", "r", "--format", form, "-o", f"x.{suffix}"]) == 0
    rows = list(csv.DictReader(io.StringIO(Path("x.csv").read_text())))
    assert len(rows) == 2 * (1 + 3 * 2)
    (snip,) = (r for r in rows if (r["criterion"], r["sparsity"], r["model"]) == ("snip", "0.8", "net"))
    (same,) = (r for r in json.loads(Path("x.json").read_text())["rows"] if written(r) == written(snip))
    assert same["test_accuracy"] == float(snip["test_accuracy"])
    text = f"{100 * same['test_accuracy']:.2f}"
    assert text in Path("x.tex").read_text()
    assert text in Path("x.html").read_text()
    assert Path("x.tex").read_text().count(r"\begin{tabular}") == 2
    assert Path("x.html").read_text().startswith('<!doctype html>\n<meta charset="utf-8">\n')
    assert Path("x.html").read_text().count("<table>") == Path("x.html").read_text().count("</table>") == 2


def written(row: Mapping[str, Any]) -> list[str]:
    """What says of which criterion, network and sparsity a row is."""
    return [str(row[name]) for name in ("criterion", "sparsity", "model")]


def test_latex_shows_text_as_it_is() -> None:
    assert metrics.latex("50 % & a_b ± 1") == r"50 \% \& a\_b $\pm$ 1"


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("x.csv", "data,"),
        ("x.json", "{"),
        ("x.TEX", "% net"),
        ("x.html", "<!"),
        ("x.htm", "<!"),
        ("x.md", "# "),
        ("x", "# "),
    ],
)
def test_the_suffix_says_the_format(name: str, begins: str) -> None:
    stored("r", full(seeds=1))
    assert main(["report", "r", "-o", name]) == 0
    assert Path(name).read_text().startswith(begins)


def test_a_folder_takes_the_usual_name() -> None:
    stored("r", full(seeds=1))
    Path("there.v2").mkdir()
    for form, name in (("csv", "report.csv"), ("markdown", "report.md")):
        assert main(["report", "r", "--format", form, "-o", "there.v2"]) == 0
        assert Path("there.v2", name).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["report", "r", "-o", "x.pdf"],
            "no report is written as .pdf (x.pdf); known are .md, .csv, .json, .tex, .html",
        ),
        (["report", "r", "-o", "x.csv", "--format", "html"], "x.csv has the suffix of csv, not of --format html"),
        (["report", "r", "-o", "x.csv", "--records"], "--records goes with the markdown report"),
        (["report", "r", "-o", "x.csv", "--timings", "t.json"], "--timings goes with the markdown report"),
        (["compare", "r", "r", "-o", "x.csv"], "a comparison is written as markdown, to a .md file, not to x.csv"),
        (["compare", "r", "r", "-o", "x.xlsx"], "no report is written as .xlsx"),
    ],
)
def test_other_suffixes_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    stored("r", full(seeds=1))
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(Path().glob("x.*"))


def test_failures_stand_in_tables_of_every_format() -> None:
    stored("r", [record("snip", 0.9, seed, None) for seed in range(3)])
    for form, said in (("csv", "snip,0.9,0,3"), ("latex", "snip & 0.9 & 0 & 3"), ("html", "<td>0</td><td>3</td>")):
        assert main(["report", "r", "--format", form, "-o", "x"]) == 0
        assert said in Path("x").read_text()


HOSTILE = "x\n\n# <script>](javascript:a) [r]: b `\\input{x}\u2028*y*|z"
"""What would be a heading, HTML, a link, code, emphasis and a column of a table in markdown, and an input of LaTeX."""


def hostile_records() -> list[Record]:
    """Records whose texts are `HOSTILE` wherever they may be."""
    environment = {"versions": {"torch": HOSTILE}, "system": HOSTILE, "processor": HOSTILE, "device": HOSTILE}
    origin = {"commit": HOSTILE, "dirty": False, "command": f"`` {HOSTILE}"}
    data = {"label": HOSTILE, "checksum": HOSTILE, "train": 10, "test": 10}
    keys: dict[str, Any] = {
        "environment": environment | {"threads": 2},
        "provenance": origin | {"data": data},
    }
    found: list[Record] = []
    for seed in range(3):
        for name in (None, "a\n# |`<i>\\input{b}", "=1+1"):
            trial = {"model": HOSTILE, "data": HOSTILE}
            found.append(drawn(name, 0.9 if name else 0.0, seed, 0.8 + 0.01 * seed, trial=trial, **keys))
    return found


def rendered(text: str) -> str:
    """What is left of markdown when code and what a backslash escapes are taken out."""
    text = re.sub(r"(?<!\\)(`+)(?!`).*?(?<!`)\1(?!`)", "", text)
    return re.sub(r"\\[^\w\s]", "", text)


@pytest.mark.parametrize("verb", [["report", "r"], ["compare", "r", "r"]])
def test_hostile_texts_do_no_harm_in_markdown(verb: list[str]) -> None:
    stored("r", hostile_records())
    assert main([*verb, "-o", "x.md"]) == 0
    text = Path("x.md").read_text()
    assert "javascript:a" in text
    live = rendered(text)
    assert "<script" not in live
    assert "](javascript" not in live
    assert "]:" not in live
    assert "`" not in live
    assert "*y*" not in live
    assert not [line for line in text.splitlines() if line.startswith(("# &lt;", "# <"))]
    columns = [line.count("|") for line in live.splitlines() if line.startswith("|")]
    assert columns
    for line, following in zip(live.splitlines(), live.splitlines()[1:], strict=False):
        if line.startswith("|") and following.startswith("|"):
            assert line.count("|") == following.count("|")


def test_hostile_texts_do_no_harm_in_tables() -> None:
    stored("r", hostile_records())
    for suffix in ("tex", "html", "csv"):
        assert main(["report", "r", "-o", f"x.{suffix}"]) == 0
    latex, page = Path("x.tex").read_text(), Path("x.html").read_text()
    assert "textbackslash{}input" in latex
    assert all(line.startswith("%") for line in latex.split("\n") if "\\input" in line)
    assert "\u2028" not in latex
    assert all(line.startswith(("%", "\\")) or line.endswith(r"\\") or not line for line in latex.split("\n"))
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    rows = list(csv.DictReader(io.StringIO(Path("x.csv").read_text())))
    assert "'=1+1" in {row["criterion"] for row in rows}


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\t=1", "\r=1"])
def test_cells_of_csv_begin_no_formula(text: str) -> None:
    assert metrics.no_formula(text) == f"'{text}"
    assert metrics.no_formula(-1.5) == -1.5
    assert metrics.no_formula("snip") == "snip"


def test_rows_of_latex_begin_with_no_argument_of_the_line_break() -> None:
    assert metrics.latex("[1in]") == "{}[1in]"
    assert metrics.latex("*") == "{}*"
    assert metrics.latex("a [b]") == "a [b]"
