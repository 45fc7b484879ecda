"""What the command line writes to a terminal, and to an output that is gone."""

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from pai_bench.cli.console import Output, print_report
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
