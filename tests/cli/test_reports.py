"""The verbs `report` and `compare`: where documents may stand, and what is refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pai_bench.cli import reports
from pai_bench.cli.entry import main
from tests.report.records import record, stored


@pytest.fixture(autouse=True)
def _results() -> None:
    stored("r", [record("snip", 0.5, seed, 0.9) for seed in range(2)])
    stored("failed", [record("snip", 0.5, 0, None)])
    Path("empty/trials").mkdir(parents=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "r", "-o", "r/trials", "--format", "csv"], "where the results are"),
        (["report", "r", "--format", "csv", "--timings", "t.json"], "--timings goes with the markdown report"),
        (["report", "r", "--format", "csv", "--margin", "1"], "--margin goes with the markdown report"),
        (["report", "r", "--margin", "0"], "margin 0 is no positive number of points"),
        (["report", "r", "--margin", "nan"], "margin nan is no positive number of points"),
        (["compare", "r", "r", "-o", "c.csv"], "a comparison is written as markdown, to a .md file, not to c.csv"),
        (["compare", "r", "empty"], "results folder empty has no"),
    ],
)
def test_what_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path().rglob("*"))
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(("form", "suffix"), [("csv", "csv"), ("latex", "tex"), ("html", "html"), ("markdown", "md")])
def test_a_document_in_a_folder_is_called_report(form: str, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("there").mkdir()
    assert main(["report", "r", "-o", "there", "--format", form]) == 0
    assert Path(f"there/report.{suffix}").is_file()
    assert capsys.readouterr().out == f"report: there/report.{suffix}\n"


def test_options_of_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "r", "--figures", "png", "-o", "there/report.md"]) == 0
    assert ".png)" in Path("there/report.md").read_text()
    assert not Path("there/records.jsonl.xz").exists()
    assert capsys.readouterr().out == "report: there/report.md\n"


@pytest.mark.parametrize("output", ["file/report.csv", "there"])
def test_a_table_that_cannot_be_written_is_refused_before_it_is_made(
    output: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr(reports, "write_tables", made)
    Path("file").touch()
    Path("there/report.csv").mkdir(parents=True)
    assert main(["report", "r", "-o", output, "--format", "csv"]) == 2
    assert "the report cannot be written to" in capsys.readouterr().err


def test_a_comparison_that_cannot_be_written_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    assert main(["compare", "r", "r", "-o", "file/c.md"]) == 2
    assert capsys.readouterr().out == ""


def test_numbers_of_a_comparison_stand_at_the_right(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(reports, "make_console", lambda: SimpleNamespace(print=shown.append))
    assert main(["compare", "r", "r"]) == 0
    justified = {column.header: column.justify for column in shown[0].columns}
    words = ("data", "model", "criterion", "")
    assert justified == {name: "left" if name in words else "right" for name in justified}
    assert len(justified) == 12
