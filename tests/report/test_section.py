"""Sections of a report are the same whichever process writes them."""

import functools
import time
from pathlib import Path
from typing import Any

import pytest

from pai_bench.report import page
from pai_bench.report import section as home
from pai_bench.report.page import write_report
from pai_bench.report.section import Section, section
from pai_bench.store import Store
from tests.report.test_pairs import files, full


def test_several_processes_write_what_one_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    store = Store(tmp_path / "r", create=True)
    for one in full(("net", "other", "third", "fourth"), seeds=2):
        store.write(one)
    here = []

    @functools.wraps(section)  # the same name, so that another process finds the real one
    def waits(*job: Any) -> Section:
        here.append(job)
        made = section(*job)
        figures, end = job[2] / "figures", time.monotonic() + 100
        while len(list(figures.glob("*-on-digits.svg"))) <= 7 * len(here):  # those of others, too
            assert time.monotonic() < end, "no other process writes a section"
            time.sleep(0.01)
        return made

    monkeypatch.setattr(page, "processors", lambda: 1)
    write_report(store, tmp_path / "1" / "page.md")
    monkeypatch.setattr(page, "processors", lambda: 2)
    monkeypatch.setattr(home, "section", waits)
    monkeypatch.setattr(page, "section", waits)
    counts: list[tuple[int, int]] = []
    write_report(store, tmp_path / "2" / "page.md", told=lambda done, total: counts.append((done, total)))
    assert sorted(counts) == [(done, 4) for done in range(5)]
    assert 0 < len(here) < 4
    assert not caplog.records
    first, second = (files(tmp_path / name) for name in "12")
    assert first == second
    assert len(first) > 28
