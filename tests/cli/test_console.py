"""What the command line writes to a terminal, and to an output that is gone."""

import io
import os
import re
from pathlib import Path

import pytest
from rich.console import Console

from pai_bench.cli.console import Output, make_console, print_report, print_table
from tests.report.records import record, stored


def test_the_progress_of_a_report_gives_its_line_to_where_it_stands(tmp_path: Path) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=200, color_system=None, legacy_windows=False)
    path = print_report(console, stored(f"{tmp_path}/r", [record("snip", 0.5, 0, 0.9)]), tmp_path / "report.md")
    shown = file.getvalue()
    assert "━" in shown
    assert shown.endswith(f"\x1b[2Kreport: {path}\n")  # written over the line that was erased


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
