"""Stages that end in every way: each is named, the others go on, and a later run does what is missing."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import ledger
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.archive import Archive
from benchmarks.gpu.ledger import Entry, Ledger
from benchmarks.gpu.runner import Options, run
from benchmarks.gpu.stage import Context, Finding, OutOfTimeError, Piece, SkippedError, attempt
from benchmarks.gpu.summary import summary
from pai_bench.results import BenchmarkResult

BEGIN = """
import os, signal, time
from pathlib import Path
from benchmarks.gpu.stage import Context, Finding, OutOfTimeError, Piece, SkippedError

def pieces(context):
    def note(name):
        with Path("done.txt").open("a") as file:
            file.write(name + " ")
        return Finding({"seconds": 1.0}, {"seconds": 2.0}, bar="seconds")
"""

STAGES = {
    "good": "    return [Piece('g', 'one', lambda: note('one')), Piece('g', 'two', lambda: note('two'))]",
    "broken": "    return [Piece('g', 'a', lambda: Finding({'x': 3.0}, {'x': 2.0})), Piece('g', 'b', lambda: 1 / 0)]",
    "hangs": "    return [Piece('g', 'first', lambda: note('first')), Piece('g', 'hang', lambda: time.sleep(600))]",
    "dies": "    return [Piece('g', 'kill', lambda: os.kill(os.getpid(), signal.SIGKILL)),"
    " Piece('g', 'after', lambda: note('after'))]",
    "skips": "    def skip():\n        raise SkippedError('missing: not in this version')\n"
    "    return [Piece('g', 'a', skip)]",
    "lacks": "    import a_package_that_is_not_installed",
}


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Modules that other processes can import."""
    for name, body in STAGES.items():
        (tmp_path / f"stage_{name}.py").write_text(f"{BEGIN}{body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    return {name: f"stage_{name}" for name in STAGES}


def states(out: Path, stage: str) -> dict[str, str]:
    """What became of each piece of a stage."""
    return {entry.name: entry.status for entry in Ledger(Archive(out / f"{stage}.tar")).entries.values()}


def results(out: Path, stage: str) -> list[BenchmarkResult]:
    """The results in an archive."""
    texts = Archive(out / f"{stage}.tar").texts
    return [BenchmarkResult.from_json(text) for name, text in texts.items() if name.startswith("benchmarks/")]


def options(stages: Mapping[str, str], *names: str, **changes: Any) -> Options:
    """A run of some stages on the CPU."""
    keys: dict[str, Any] = {"out": Path("out"), "minutes": 2.0, "device": "cpu", "provenance": {"commit": "abc"}}
    return Options(stages={name: stages[name] for name in names}, **keys | changes)


@pytest.mark.slow
def test_a_stage_that_fails_is_named_and_the_others_go_on(
    stages: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(options(stages, "lacks", "broken", "skips", "good")) == 1
    text = Path("out/summary.txt").read_text()
    assert text.splitlines() == [
        "lacks: nothing was done",
        "  failed: ModuleNotFoundError: No module named 'a_package_that_is_not_installed'",
        "broken: 0 passed, 2 failed",
        "  failed: g: a: x is 3, above 2",
        "  failed: g: b: ZeroDivisionError: division by zero",
        "skips: 0 passed, 0 failed, 1 skipped",
        "  skipped (missing: not in this version): g: a",
        "good: 2 passed, 0 failed",
    ]
    assert capsys.readouterr().out.endswith(text)  # these are the last lines
    assert sorted(path.name for path in Path("out").iterdir()) == [
        *("broken.tar", "good.tar", "lacks.tar", "log.txt", "skips.tar", "summary.txt")
    ]
    assert "Traceback" in Path("out/log.txt").read_text()
    one, two = results(Path("out"), "good")
    assert (one.stage, one.group, one.name, one.status) == ("good", "g", "one", "passed")
    assert (two.values, two.limits, two.device, two.provenance.commit) == (
        *({"seconds": 1.0}, {"seconds": 2.0}, "cpu", "abc"),
    )
    assert [one.reason for one in results(Path("out"), "broken")] == [
        *("x is 3, above 2", "ZeroDivisionError: division by zero")
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("hangs", "status"), [(1.0, "failed"), (60.0, "missing")])
def test_a_stage_that_hangs_is_ended_and_named(
    stages: dict[str, str], hangs: float, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "HANGS", hangs)
    start = time.monotonic()
    assert run(options(stages, "hangs", minutes=0.2)) == int(status == "failed")
    assert time.monotonic() - start < 60
    assert states(Path("out"), "hangs") == {"first": "passed", "hang": status}
    text = Path("out/summary.txt").read_text()
    assert "g: hang" in text
    assert "stopped: the time was over, after " in text


@pytest.mark.slow
def test_a_stage_whose_process_dies_goes_on_in_another(stages: dict[str, str]) -> None:
    assert run(options(stages, "dies")) == 1
    assert states(Path("out"), "dies") == {"kill": "failed", "after": "passed"}
    assert "failed: g: kill: its process ended with signal SIGKILL, after" in Path("out/summary.txt").read_text()
    assert Path("done.txt").read_text() == "after "


@pytest.mark.slow
def test_a_later_run_does_what_is_missing(stages: dict[str, str]) -> None:
    assert run(options(stages, "good")) == 0
    archive = Archive(Path("out/good.tar"))
    Ledger(archive).set(
        ("g", "two", 1), status="missing", without=next(name for name in archive.texts if "two" in name)
    )
    assert run(options(stages, "good", out=Path("later"), resume=Path("out"))) == 0
    assert Path("done.txt").read_text() == "one two two "
    assert states(Path("later"), "good") == {"one": "passed", "two": "passed"}
    assert len(results(Path("later"), "good")) == 2
    assert states(Path("out"), "good")["two"] == "missing"  # what was given is left as it was


def test_no_time_is_no_failure(stages: dict[str, str]) -> None:
    assert run(options(stages, "good", minutes=0.01)) == 0
    assert Path("out/summary.txt").read_text() == "good: nothing was done\n"


def context(tmp_path: Path, pieces: list[Piece], seconds: float = 100.0) -> Context:
    """What a stage with these pieces is given."""
    import torch

    made = Ledger(Archive(tmp_path / "s.tar"))
    made.plan([piece.entry for piece in pieces], "CPU")
    return Context("s", torch.device("cpu"), True, time.monotonic() + seconds, made, {})


def raising(error: Exception) -> Any:
    """A piece's work that raises an error."""

    def work() -> Finding:
        raise error

    return work


def test_the_ends_of_a_piece(tmp_path: Path) -> None:
    pieces = [
        Piece("g", "measured", lambda: Finding({"x": 1.0})),
        Piece("g", "passed", lambda: Finding({"x": 1.0}, {"x": 1.0})),
        Piece("g", "not a number", lambda: Finding({"x": float("nan")}, {"x": 1.0})),
        Piece("g", "not there", lambda: Finding({}, {"x": 1.0})),
        Piece("g", "said", lambda: Finding({"x": 1.0}, {"x": 1.0}, failed="y")),
        Piece("g", "cuda", lambda: Finding(), cuda=True),
        Piece("g", "skipped", raising(SkippedError("missing: not in this version"))),
        Piece("g", "no time", raising(OutOfTimeError())),
        Piece("g", "long", lambda: Finding(), needs=1e6),
        Piece("g", "own record", lambda: None),
    ]
    given = context(tmp_path, pieces)
    for piece in pieces:
        attempt(given, piece)
    found = {entry.name: (entry.status, entry.reason) for entry in given.ledger.entries.values()}
    assert found == {
        "measured": ("measured", None),
        "passed": ("passed", None),
        "not a number": ("failed", "x is nan, above 1"),
        "not there": ("failed", "x is None"),
        "said": ("failed", "y"),
        "cuda": ("skipped", "needs CUDA"),
        "skipped": ("skipped", "missing: not in this version"),
        "no time": ("missing", "not enough time"),
        "long": ("missing", "not enough time"),
        "own record": ("measured", None),
    }
    text, good = summary(tmp_path, ["s"])
    assert not good
    assert text.splitlines() == [
        "s: 1 passed, 3 failed, 2 measured, 2 skipped, 2 missing",
        "  failed: g: not a number: x is nan, above 1",
        "  failed: g: not there: x is None",
        "  failed: g: said: y",
        "  skipped (needs CUDA): g: cuda",
        "  skipped (missing: not in this version): g: skipped",
        "  missing (not enough time): g: no time | long",
    ]
    assert sum(name.startswith("benchmarks/") for name in given.ledger.archive.texts) == 7


def test_an_earlier_failure_of_a_piece_with_records_of_its_own_is_gone(tmp_path: Path) -> None:
    works: list[Any] = [raising(ValueError("no")), lambda: None]
    piece = Piece("g", "n", lambda: works.pop(0)())
    given = context(tmp_path, [piece])
    attempt(given, piece)
    assert sum(name.startswith("benchmarks/") for name in given.ledger.archive.texts) == 1
    attempt(given, piece)
    assert list(given.ledger.archive.texts) == ["stage.json"]


def test_what_another_device_or_version_has_done_is_done_again(tmp_path: Path) -> None:
    first = Ledger(Archive(tmp_path / "s.tar"))
    done = [Entry("g", "a", status="passed"), Entry("g", "b", version=1, status="passed")]
    first.plan(done, "NVIDIA H100")
    first.state["budget"] = 0.1
    first.write()
    again = Ledger(Archive(tmp_path / "s.tar"))
    again.plan([Entry("g", "a"), Entry("g", "b", version=2)], "NVIDIA H100")
    assert [entry.status for entry in again.entries.values()] == ["passed", "missing"]
    assert again.state == {"budget": 0.1}
    again.plan([Entry("g", "a")], "NVIDIA H200")
    assert [entry.status for entry in again.entries.values()] == ["missing"]
    assert json.loads(again.archive.texts["stage.json"])["state"] == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x", "--stages", "corect"], "unknown stage 'corect'"),
        (["--out", "x", "--minutes", "0"], "minutes 0 must be positive"),
        (["--out", "x", "--data", "nowhere"], "data folder nowhere does not exist"),
        ([], "--out"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_what_another_machine_took_is_dropped(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "x.tar")
    Ledger(archive).plan([], "one GPU")
    archive.add({"benchmarks/a.json": "{}", "costs/b.json": "{}", "trials/c.json": "{}"})
    Ledger(archive).plan([], "one GPU")
    assert {"benchmarks/a.json", "costs/b.json", "trials/c.json"} < set(Archive(archive.path).texts)
    Ledger(archive).plan([], "another GPU")
    assert set(Archive(archive.path).texts) == {"stage.json", "trials/c.json"}


@pytest.mark.slow
def test_what_has_gone_on_since_is_kept(stages: dict[str, str]) -> None:
    assert run(options(stages, "good", out=Path("earlier"))) == 0
    assert run(options(stages, "good")) == 0
    Archive(Path("out/good.tar")).add({"trials/mine.json": "{}"})
    assert run(options(stages, "good", resume=Path("earlier"))) == 0
    assert "trials/mine.json" in Archive(Path("out/good.tar")).texts
