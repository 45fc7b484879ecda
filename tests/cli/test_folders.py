"""The verbs `verify` and `merge`: what they print, and their exit codes."""

from pathlib import Path

import pytest

from pai_bench.cli.entry import main
from pai_bench.results import Record, Store, archive
from tests.report.records import altered, drawn, stored


@pytest.fixture
def results() -> Store:
    return stored("results", [drawn("snip", 0.5, seed, 0.9) for seed in (0, 1)])


def test_a_whole_folder(results: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify"]) == 0
    *_, row, _, last = capsys.readouterr().out.splitlines()
    assert (row, last) == ("│ trials │     2 │", "all 2 files are whole")


def test_a_damaged_file_is_named_and_repaired(results: Store, capsys: pytest.CaptureFixture[str]) -> None:
    path = sorted(results.trials.glob("*.json"))[0]
    path.write_text("{")
    (results.trials / "notes.txt").touch()
    assert main(["verify", "results"]) == 1
    *_, others, problem, last = capsys.readouterr().out.splitlines()
    assert others == "no files of results, which nothing reads: results/trials/notes.txt"
    assert problem.startswith(f"{path}: Expecting property name")
    assert last == "1 file is whole, and 1 is not; --repair sets damaged files aside, and their trials run again"
    assert path.exists()
    assert main(["verify", "results", "--repair"]) == 0
    assert f": set aside as {path.stem}.damaged" in capsys.readouterr().out
    assert main(["verify"]) == 0
    assert "damaged files that were set aside, and that nothing reads: 1" in capsys.readouterr().out


def test_what_repair_cannot_mend(results: Store, capsys: pytest.CaptureFixture[str]) -> None:
    sorted(results.trials.glob("*.json"))[0].write_text('{"schema": 99}')
    assert main(["verify", "--repair"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 file is whole, and 1 is not"


def test_folders_are_merged(results: Store, capsys: pytest.CaptureFixture[str]) -> None:
    stored("other", [drawn("snip", 0.8, 0, 0.9)])
    assert main(["merge", "results", "other", "-o", "both"]) == 0
    assert capsys.readouterr().out == "both: 3 trials\n"
    assert main(["merge", "results", "other", "-o", "both"]) == 0
    assert capsys.readouterr().out == "both: nothing new\n"
    sorted(results.trials.glob("*.json"))[0].write_text("{")
    assert main(["merge", "results", "-o", "new"]) == 1
    assert ".json is left out: Expecting property name" in capsys.readouterr().out


def test_results_that_differ_are_one_line(results: Store, capsys: pytest.CaptureFixture[str]) -> None:
    stored("other", [altered(one, train_seconds=9.0) for one in results])
    assert main(["merge", "results", "other", "-o", "both"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "differs from results/trials/" in line
    assert "and nothing was written" in line
    assert not Path("both").exists()
    assert main(["verify", "nowhere"]) == 2
    assert "results folder nowhere does not exist" in capsys.readouterr().err
    assert results.path_of(Record, next(iter(results)).identity).exists()


def test_a_file_of_records_is_verified_and_not_repaired(results: Store, capsys: pytest.CaptureFixture[str]) -> None:
    archive.pack(results.path, Path("records.jsonl.xz"))
    assert main(["verify", "records.jsonl.xz"]) == 0
    assert main(["verify", "records.jsonl.xz", "--repair"]) == 2
    assert "records.jsonl.xz is a file of records, of which nothing can be set aside" in capsys.readouterr().err


def test_characters_that_a_terminal_acts_on_are_escaped(results: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (results.trials / "x\nall 3 files are whole\x1b[2K.json").write_text("{")
    assert main(["verify"]) == 1
    out = capsys.readouterr().out
    assert "x\\nall 3 files are whole\\x1b[2K.json: Expecting property name" in out
    assert "\x1b" not in out
