"""Sections of a report are the same whichever process writes them."""

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pai_bench.report import page
from pai_bench.report import section as home
from pai_bench.report.figures import style
from pai_bench.report.page import write_report
from pai_bench.report.section import Section, section, sizes
from pai_bench.results import Store
from tests.report.records import record
from tests.report.test_pairs import files, full


@pytest.mark.slow
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
    write_report(store, tmp_path / "2" / "page.md", on_progress=lambda done, total: counts.append((done, total)))
    assert sorted(counts) == [(done, 4) for done in range(5)]
    assert 0 < len(here) < 4
    assert not caplog.records
    first, second = (files(tmp_path / name) for name in "12")
    assert first == second
    assert len(first) > 28


@pytest.mark.parametrize(("networks", "available", "others"), [(3, 8, 0), (4, 8, 3), (4, 3, 2), (4, 1, 0)])
def test_many_sections_are_written_by_up_to_four_processes(
    networks: int, available: int, others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    @contextmanager
    def helpers(count: int, _module: str) -> Iterator[list[Any]]:
        asked.append(count)
        yield []

    monkeypatch.setattr(page, "processors", lambda: available)
    monkeypatch.setattr(page, "helpers", helpers)
    monkeypatch.setattr(page, "parallel_map", lambda _section, jobs, _processes, _on_done: jobs)
    records = [record("snip", 0.5, 0, 0.9, trial={"model": f"net {i}"}) for i in range(networks)]
    page.write_sections(records, [], Path(), page.Figures("r", "svg"), "direct", None, lambda _done, _total: None)
    assert asked == [others]


def test_pictures_of_an_earlier_report_stay_until_there_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, path = Store(tmp_path / "r", create=True), tmp_path / "page.md"
    for one in full(("net",), seeds=2):
        store.write(one)
    write_report(store, path)
    before = files(tmp_path)
    draw = style.lay_out
    drawn: list[object] = []

    def interrupted(figure: Any) -> None:
        drawn.append(figure)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        draw(figure)

    monkeypatch.setattr(style, "lay_out", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_report(store, path)
    assert files(tmp_path) == before
    stale = tmp_path / "figures" / "page-fit-net-on-digits.svg"
    stale.touch()
    monkeypatch.setattr(style, "lay_out", draw)
    write_report(store, path)
    assert not stale.exists()


def test_names_in_any_script_are_no_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    store = Store(tmp_path / "r", create=True)
    for one in full(("花",), seeds=2):
        store.write(one)
    write_report(store, tmp_path / "page.md")
    assert not [str(one.message) for one in recwarn]


def test_a_store_of_failures_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path / "r", create=True)
    for name in (None, "snip", "random"):
        store.write(record(name, 0.9 if name else 0.0, 0, None, layers=(), score_seconds=None))
    text = write_report(store, tmp_path / "page.md").read_text()
    assert "* Every pruned trial failed (2): nothing is compared." in text
    assert "Differences are in points" not in text
    assert "the dense reference failed: nothing says what pruning costs in accuracy." in text
    assert "![" not in text
    assert "Density of each layer" not in text


def test_sizes_are_said_of_each_choice_of_what_is_prunable() -> None:
    rows = [("usual", 100, 7), ("usual", 100, 7), ("only fc*", 60, 47)]
    frame = pd.DataFrame(rows, columns=["prunable", "parameters", "parameters_not_prunable"])
    assert sizes(frame[:2]) == " 100 weights can be pruned; 7 other parameters cannot."
    assert sizes(frame) == (
        " 60 weights can be pruned (only fc*); 47 other parameters cannot. "
        "100 weights can be pruned (usual); 7 other parameters cannot."
    )
    assert sizes(frame.assign(prunable="usual")) == ""  # of several networks
    unknown = frame[:2].assign(prunable=None)  # in records of earlier versions
    assert sizes(unknown) == " 100 weights can be pruned; 7 other parameters cannot."
