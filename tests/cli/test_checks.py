"""The verb `check`: what it shows while it runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from pai_bench.analyses.conformance import Result
from pai_bench.cli import checks
from pai_bench.cli.entry import main


def test_a_check_is_named_while_the_next_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    shown: list[Any] = []

    @contextmanager
    def status(text: str) -> Iterator[SimpleNamespace]:
        said.append(text)
        yield SimpleNamespace(update=said.append)

    def run_checks(_criterion: object) -> Iterator[Result]:
        for network in ("mlp", "cnn"):
            yield Result("contract", network, True, "", 0.1, "")

    monkeypatch.setattr("pai_bench.analyses.conformance.run_checks", run_checks)
    monkeypatch.setattr(checks, "make_console", lambda: SimpleNamespace(status=status, print=shown.append))
    assert main(["check", "snip"]) == 0
    assert said == ["checking snip", "checking snip: contract on mlp", "checking snip: contract on cnn"]
    table, line = shown
    assert {column.justify for column in table.columns} == {"left"}  # words alone
    assert line == "snip: 2 checks passed"
