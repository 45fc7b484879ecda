"""What the command line writes to a terminal, and to an output that is gone."""

import io
import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pai_bench.cli import console as module
from pai_bench.cli.console import Output, make_console, print_failure, print_report, print_table, progress_bar
from tests.cli.bars import noted_bars
from tests.report.records import record, stored


def test_the_progress_of_a_report_gives_its_line_to_where_it_stands(tmp_path: Path) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=200, color_system=None, legacy_windows=False)
    path = print_report(console, stored(f"{tmp_path}/r", [record("snip", 0.5, 0, 0.9)]), tmp_path / "report.md")
    shown = file.getvalue()
    assert "━" in shown
    assert shown.endswith(f"\x1b[2Kreport: {path}\n")  # written over the line that was erased


def test_the_progress_of_a_report_counts_its_sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars = noted_bars(monkeypatch, module)
    records = [record("snip", 0.5, 0, 0.9, trial={"model": model}) for model in ("net", "other")]
    console = Console(file=io.StringIO(), width=80)
    assert print_report(console, stored(f"{tmp_path}/r", records), tmp_path) == tmp_path / "report.md"
    assert [(task.completed, task.total) for task in bars[0].tasks] == [(2, 2)]


def test_the_label_of_a_progress_bar_is_shown_as_it_is() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, color_system=None, legacy_windows=False)
    with progress_bar(console, "{task.description}") as progress:
        progress.add_task("[b]snip[/b] on net", total=1)
    assert "[b]snip[/b] on net" in file.getvalue()


def test_no_progress_is_written_to_a_file() -> None:
    """Not even an empty line."""
    with progress_bar(Console(file=(file := io.StringIO())), "{task.description}") as progress:
        progress.advance(progress.add_task("snip on net", total=1))
    assert file.getvalue() == ""


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, ["┏━━━┳━━━━┓", "┃ a ┃ bb ┃", "┡━━━╇━━━━┩", "│ x │  1 │", "│ y │ 22 │", "└───┴────┘"]),
        ({"numbers": slice(0)}, ["┏━━━┳━━━━┓", "┃ a ┃ bb ┃", "┡━━━╇━━━━┩", "│ x │ 1  │", "│ y │ 22 │", "└───┴────┘"]),
        ({"edge": False, "title": "t"}, ["t", " a ┃ bb", "━━━╇━━━━", " x │  1", " y │ 22"]),
    ],
)
def test_a_table_as_it_is_printed(options: dict[str, Any], shown: list[str]) -> None:
    """Numbers, which all columns but the first hold as a rule, stand at the right."""
    file = io.StringIO()
    print_table(Console(file=file, width=80), [["a", "bb"], ["x", "1"], ["y", "22"]], **options)
    assert [line.rstrip() for line in file.getvalue().splitlines()] == shown


def test_rows_that_failed_are_red() -> None:
    options: list[tuple[dict[str, Any], list[str]]] = [({}, []), ({"failed": lambda row: row[0] == "x"}, ["x"])]
    for given, red in options:
        file = io.StringIO()
        console = Console(file=file, force_terminal=True, width=80, color_system="standard", legacy_windows=False)
        print_table(console, [["a"], ["x"], ["y"]], **given)
        lines = [line for line in file.getvalue().splitlines() if "\x1b[31m" in line]
        assert [re.sub(r"\x1b\[[0-9;]*m|\W", "", line) for line in lines] == red


def test_a_failure_is_one_line_and_all_of_it_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    file = io.StringIO()
    print_failure(Console(file=file, width=80), "snip", "net", ValueError("no score"))
    assert file.getvalue() == "snip failed on net: ValueError: no score\n"
    assert [record.message for record in caplog.records] == ["snip failed on net"]
    assert "ValueError: no score" in caplog.text


def test_an_output_that_is_gone_takes_no_file_with_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        output = Output(full)
        output.write("one")
        before = set(os.listdir("/proc/self/fd"))
        output.flush()
        assert "(No space left on device)" in caplog.text
        assert set(os.listdir("/proc/self/fd")) == before
        assert output.write("two") == 3
        output.flush()
    assert len(caplog.messages) == 1


def test_text_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Names that look like marks of `rich`, or like its pictures, or that it would colour."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    line = "12 of [red]net:fire:[/red] in /tmp/x, True"
    make_console().print(line)
    assert capsys.readouterr().out == line + "\n"
    print_table(make_console(), [["[b]name", "value"], ["[i]a[/i]", ":fire:"]], title=line)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)  # but for what makes the title italic
    assert {"[b]name", "[i]a[/i]", ":fire:", "[red]net:fire:[/red]"} <= set(shown.split())
