"""The verb `status`: what it prints of processes that run, have stopped or ended, and its exit codes."""

import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pai_bench.cli import status
from pai_bench.cli.entry import main
from pai_bench.results import Store, archive, owners
from pai_bench.results.claims import Claims
from pai_bench.results.owners import Running
from pai_bench.support.process_identity import this_process
from tests.report.records import drawn, stored
from tests.results.owners_by_hand import ended, write
from tests.results.test_verification import checkpoint

FOLDER = Path("results/claims")

BEGIN, LATER, HOUR_LATER = (f"2030-01-31T{time}+00:00" for time in ("00:00:00", "00:00:01", "01:02:03"))


@pytest.fixture(autouse=True)
def _frequent_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "LOOK", 0.02)


@pytest.fixture
def _short_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "WATCH", 1.0)


@pytest.fixture
def results() -> Store:
    return stored("results", [drawn("snip", 0.5, seed, 0.9) for seed in (0, 1)])


@pytest.fixture
def running(results: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Claims]:
    """A process that runs two trials."""
    monkeypatch.setattr(owners, "now", lambda: BEGIN)
    with Claims(results.path / "claims", command="pai-bench run snip-table-1", beat=0.05) as own:
        for trial in ("digits-snip", "digits-grasp"):
            assert own.claim(trial)
        own.progress("digits-snip", 3, 20)
        own.totals(2, 1500)
        yield own


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What is printed, but for the frames of tables, in which columns are as wide as they have to be."""
    out = capsys.readouterr().out.splitlines()
    return [
        " | ".join(map(str.strip, line.strip("│┃").replace("┃", "│").split("│")))
        for line in out
        if line[0] not in "┏┡└"
    ]


def test_checkpoints_and_how_far_they_are(results: Store, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint(results, "digits-snip")
    checkpoint(results, "digits-er", *(f"trial-{number}" for number in range(1200)))
    assert main(["status"]) == 0
    assert lines(capsys) == [
        "results: 2 trials are stored",
        "checkpoint | step",
        "digits-er and 1,200 beside it | 3 of 9",
        "digits-snip | 3 of 9",
        "nothing runs here",
    ]


def test_processes_and_their_trials(running: Claims, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    name = f"{running.owner.host}:{os.getpid()}"
    assert main(["status"]) == 0
    assert time.monotonic() < began + status.WATCH  # it has seen a beat
    assert lines(capsys) == [
        "results: 2 trials are stored",
        "process | command | state | trials done | for",
        f"{name} | pai-bench run snip-table-1 | running | 2 of 1,500 | 0:00:00",
        "trial | epoch | process | for",
        f"digits-snip | 3 of 20 | {name} | 0:00:00",
        f"digits-grasp |  | {name} | 0:00:00",
    ]


@pytest.mark.usefixtures("_short_watch")
def test_processes_that_have_stopped_or_ended(running: Claims, capsys: pytest.CaptureFixture[str]) -> None:
    times = {"since": LATER, "written": HOUR_LATER}
    trial = Running(identity="t", epoch=1000, epochs=2000, since=HOUR_LATER)
    elsewhere = dataclasses.replace(this_process(), host="node2", pid=7, boot="another")
    owner = write(
        FOLDER, elsewhere, "t", **times, running=(trial,), command="pai-bench run " + "x," * 40 + " --seeds 5"
    )
    write(FOLDER, ended(), "u", **times, running=(dataclasses.replace(trial, identity="u"),), total=9)
    path = owners.path_of(FOLDER, owner.id)
    os.utime(path, (time.time() - 100,) * 2)
    before = {path: path.read_bytes() for path in FOLDER.iterdir() if running.owner.id not in path.name}
    assert main(["status", "results"]) == 1
    first, _, *rows = lines(capsys)
    name = f"{running.owner.host}:{os.getpid()}"
    assert first == "results: 2 trials are stored"
    assert rows[0].endswith("| running | 2 of 1,500 | 0:00:00")
    shown = "pai-bench run " + "x," * 21 + "x..."
    assert rows[1] in [f"node2:7 | {shown} | no sign of life for 0:01:4{n} |  | 1:02:02" for n in range(10)]
    assert rows[2] == f"{name} |  | dead: its process is gone | 0 of 9 | 1:02:02"
    assert rows[-1] == "t | 1,000 of 2,000 | node2:7 | 0:00:00"
    assert not [row for row in rows if row.startswith("u |")]  # nobody runs it
    assert before.items() <= {path: path.read_bytes() for path in FOLDER.iterdir() if path.suffix != ".tmp"}.items()


@pytest.mark.usefixtures("_short_watch")
def test_a_process_that_is_silent_on_this_machine(results: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with Claims(results.path / "claims", beat=1000):
        assert main(["status"]) == 1
    assert "| no sign of life for 0:00:01 |" in lines(capsys)[2]


def test_a_process_that_ends_meanwhile(
    results: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = write(FOLDER, this_process())
    monkeypatch.setattr(time, "sleep", lambda _seconds: owners.path_of(FOLDER, owner.id).unlink())
    assert main(["status"]) == 0
    assert lines(capsys) == ["results: 2 trials are stored", "nothing runs here"]


def test_nothing_runs(results: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    assert lines(capsys) == ["results: 2 trials are stored", "nothing runs here"]
    FOLDER.mkdir()
    next(results.trials.glob("*.json")).unlink()
    assert main(["status"]) == 0
    assert lines(capsys) == ["results: 1 trial is stored", "nothing runs here"]


def test_a_sweep_that_has_stored_nothing_yet(capsys: pytest.CaptureFixture[str]) -> None:
    Store("results", create=True)
    with Claims(FOLDER, beat=0.05):
        assert main(["status"]) == 0
    assert lines(capsys)[0] == "results: 0 trials are stored"


def test_a_file_of_records_and_what_is_no_results_folder(results: Store, capsys: pytest.CaptureFixture[str]) -> None:
    archive.pack(results.path, Path("records.jsonl.xz"))
    assert main(["status", "records.jsonl.xz"]) == 0
    assert capsys.readouterr().out == "records.jsonl.xz is a file of records: nothing runs there\n"
    assert main(["status", "nowhere"]) == 2
    assert "results folder nowhere does not exist" in capsys.readouterr().err
    FOLDER.touch()
    assert main(["status"]) == 2
    assert "results folder results cannot be read (Not a directory)" in capsys.readouterr().err


def test_a_damaged_file_is_one_line(running: Claims, capsys: pytest.CaptureFixture[str]) -> None:
    (FOLDER / "x\x1b[2K.owner.json").write_text("{")
    assert main(["status"]) == 1
    *_, line = lines(capsys)
    assert line == r"results/claims/x\x1b[2K.owner.json cannot be read: Input data was truncated"


@pytest.mark.usefixtures("_short_watch")
def test_characters_that_a_terminal_acts_on_are_escaped(results: Store, capsys: pytest.CaptureFixture[str]) -> None:
    bad = "\x1b[2K\n[red]"
    process = dataclasses.replace(this_process(), host=bad, boot="another")
    write(FOLDER, process, command=f"run{bad}", since="soon", running=(Running(identity=bad, since="soon"),))
    assert main(["status"]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.count(r"\x1b[2K\n[red]") == 4
