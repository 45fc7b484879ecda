"""From arguments to a verb and an exit code: standard output, logs and interrupts."""

import io
import logging
import runpy
import sys

import pytest

from pai_bench.cli import entry
from pai_bench.cli.entry import main
from tests.report.records import record, stored


@pytest.mark.parametrize(("kind", "code"), [("schedules", 0), ("everything", 2)])
def test_the_package_is_a_command(kind: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """``python -m pai_bench``."""
    monkeypatch.setattr(sys, "argv", ["pai-bench", "list", kind])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("pai_bench", run_name="__main__")
    assert ended.value.code == code


def test_characters_that_an_output_does_not_know_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    stored("r", [record("snip", 0.5, seed, 0.9) for seed in range(2)])
    written = io.BytesIO()
    out = io.TextIOWrapper(written, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["compare", "r", "r"]) == 0
    out.flush()
    assert b" 90.00 ? 0.00 " in written.getvalue()  # a plus and minus sign


def test_a_log_of_everything_leaves_out_what_drawing_says(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("matplotlib", "PIL"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)
    assert main(["list", "schedules", "--log-level", "debug"]) == 0
    for name in ("matplotlib.font_manager", "PIL.PngImagePlugin"):
        assert logging.getLogger(name).getEffectiveLevel() == logging.WARNING


def test_a_log_of_everything_says_where_a_mistake_was_found(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert main(["run", "nothing.toml"]) == 2
    assert "UserError: no recipe file nothing.toml" in caplog.text


def test_an_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(entry.VERBS, "list", interrupted)
    assert main(["list", "schedules"]) == 130
    assert capsys.readouterr().err == "pai-bench: interrupted\n"
