"""The log file of a sweep: what it holds, when there is one, and what happens where it cannot be written."""

import logging
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import pai_bench as pb
from pai_bench.cli.entry import main
from pai_bench.execution import Listener, run_catalogs
from pai_bench.execution import run_log as module
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.trial import Trial
from pai_bench.results import Record, Store
from pai_bench.scoring import MaskedModel
from tests.experiment.test_runner import Fails, sweep

LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (\d+) ([A-Z]+) (.*)")
NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[\w.-]+-(\d+)\.log")


def logs(folder: str = "r") -> list[Path]:
    """The log files of a results folder, the oldest first."""
    return sorted(Path(folder).glob("logs/*"))


def lines(path: Path) -> list[tuple[str, str]]:
    """Level and text of what a log holds; a traceback is part of the text."""
    found: list[tuple[str, str]] = []
    times = []
    for text in path.read_text(encoding="utf-8").splitlines():
        if match := LINE.fullmatch(text):
            times.append(match[1])
            found.append((match[3], match[4]))
        else:
            found[-1] = found[-1][0], f"{found[-1][1]}\n{text}"
    assert times == sorted(times)
    return found


@dataclass(frozen=True)
class Warns(pb.Criterion):
    """A criterion that logs."""

    def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
        logging.getLogger("pai_bench.mine").warning("a warning of\ntwo lines")
        logging.getLogger("pai_bench.mine").info("an info \udcff")
        return model.weights()


def test_a_log_holds_the_course_of_a_sweep(caplog: pytest.LogCaptureFixture) -> None:
    frame = pb.run(sweep(criteria=[Warns(), Fails()], seeds=1, lanes=1, workers=1), out="r")
    (path,) = logs()
    match = NAME.fullmatch(path.name)
    assert match is not None
    assert int(match[1]) == os.getpid()
    command, versions, plan, *course, end = lines(path)
    assert command == ("INFO", "command: (from Python)")
    assert re.match(r"versions: python 3\.\d+\.\d+, pai-bench .*, torch ", versions[1])
    assert plan == ("INFO", "r: 3 of 3 trials to run on cpu, one trial at a time, threads: 1")
    assert end == ("INFO", "the sweep is over")
    dense, warns, fails = frame.identity
    texts = [re.sub(r"after \d+\.\d s", "after", text) for _, text in course]
    assert texts[:3] == [f"begin {dense}", f"done {dense} after", f"begin {warns}"]
    assert ("WARNING", "a warning of\ntwo lines") in course
    assert ("INFO", "an info \\udcff") in course
    assert texts[-3:-1] == [f"done {warns} after", f"begin {fails}"]
    assert texts[-1].startswith(f"failed {fails} after\nTraceback (most recent call last):\n")
    assert texts[-1].endswith("RuntimeError: no score today\nwhile Fails scored Sequential")
    assert {record.levelname for record in caplog.records} == {"WARNING"}  # as without a log
    assert caplog.messages.count("a warning of\ntwo lines") == texts.count("a warning of\ntwo lines")


def test_there_is_a_log_only_if_there_is_something_to_run() -> None:
    pb.run(sweep(seeds=1, epochs=0), out="r")
    pb.run(sweep(seeds=1, epochs=0), out="r")
    assert len(logs()) == 1
    pairs = [(resolve(sweep(seeds=seeds, epochs=0)), out) for seeds, out in ((1, "r"), (1, "a"), (2, "a"), (1, "b"))]
    run_catalogs(pairs)
    assert len(logs()) == 1
    (one,), (other,) = logs("a"), logs("b")
    assert one.read_text() == other.read_text()
    plans = [text.partition(" trials")[0] for _, text in lines(one) if "to run on" in text]
    assert plans == ["a: 3 of 3", "a: 3 of 6", "b: 3 of 3"]


def test_what_is_logged_before_it_is_known_what_is_to_run() -> None:
    pb.run(sweep(seeds=1, epochs=0), out="r")
    next(Path("r/trials").glob("*.json")).write_text("{")
    pb.run(sweep(seeds=1, epochs=0), out="r")
    (level, text), command, *_ = lines(logs()[1])
    assert (level, "set aside as" in text) == ("WARNING", True)
    assert command[1].startswith("command: ")


def test_debug_messages_are_in_the_log_if_they_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    frame = pb.run(sweep(seeds=1, epochs=0), out="r")
    assert ("DEBUG", f"trial {frame.identity[0]}") in lines(logs()[0])


class Ends(Listener):
    """Ends a sweep by an error when its first trial is stored."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_finish(self, trial: Trial, record: Record, seconds: float) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KeyboardInterrupt(), "the sweep was interrupted"),
        (pb.UserError("no more"), "the sweep has ended: no more"),
        (ZeroDivisionError("in it"), "the sweep has ended by an error:\nTraceback (most recent call last):\n"),
    ],
)
def test_a_log_says_how_a_sweep_has_ended(error: BaseException, text: str) -> None:
    with pytest.raises(type(error)):
        pb.run(sweep(seeds=1, epochs=0), out="r", listener=Ends(error))
    *_, (level, ending) = lines(logs()[0])
    assert (level, ending[: len(text)]) == ("INFO", text)
    assert str(Path(module.__file__).parent) not in ending  # no path of the machine


def test_a_log_that_cannot_be_written_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    Path("r").mkdir()
    Path("r/logs").touch()
    assert (pb.run(sweep(seeds=1, epochs=0), out="r").status == "done").all()
    assert caplog.messages == [caplog.messages[0]]
    said = r"the log r/logs/\S+\.log cannot be written \(File exists\); the sweep continues without it"
    assert re.fullmatch(said, caplog.messages[0])


def test_a_log_that_can_no_longer_be_written_is_one_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = os.write, list[bytes]()

    def full(file: int, content: bytes) -> int:
        written.append(content)
        if len(written) > 5:
            raise OSError(28, "No space left on device")
        return write(file, content)

    monkeypatch.setattr(os, "write", full)
    assert (pb.run(sweep(seeds=1, epochs=0), out="r").status == "done").all()
    assert len(lines(logs()[0])) == 5
    assert len(written) == 6
    assert [("No space left on device" in text) for text in caplog.messages] == [True]


def test_the_newest_logs_are_kept() -> None:
    folder = Path("r/logs")
    folder.mkdir(parents=True)
    for number in range(30):
        path = folder / f"202601{number + 1:02d}T000000.000000Z-host-1.log"
        path.touch()
        if number != 3:  # which another process writes to
            os.utime(path, (0, 0))
    (folder / "notes.txt").touch()
    pb.run(sweep(seeds=1, epochs=0), out="r")
    kept = [path.name[:8] for path in logs()]
    assert kept[:-2] == ["20260104", *(f"202601{day}" for day in range(12, 31))]
    assert kept[-1] == "notes.tx"
    assert len(list(folder.glob("*.log"))) == module.KEPT + 1


COMMAND = ["--models", "lenet-300-100", "--data", "digits", "--sparsities", "0.5", "--seeds", "1", "--epochs", "0"]
COMMAND += ["--device", "cpu", "--lanes", "1"]

MINE = """
import logging, os, signal
from dataclasses import dataclass
import pai_bench as pb

@dataclass(frozen=True)
class Mine(pb.Criterion):
    def score(self, model, batch):
        logging.getLogger("mine").warning("of %s", "mine")
        {more}
        return model.weights()
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_messages_of_workers_are_in_the_log_and_shown_once(workers: str) -> None:
    Path("mine.py").write_text(MINE.format(more=""))
    command = [sys.executable, "-m", "pai_bench", "run", "--criteria", "./mine.py:Mine", *COMMAND, "--workers", workers]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = lines(logs("results")[0])
    assert told[0][1].startswith("command: pai-bench run --criteria ./mine.py:Mine")
    assert told.count(("WARNING", "of mine")) == done.stderr.count("WARNING: of mine\n") > 0
    assert "INFO" not in done.stdout + done.stderr
    processes = {line.split()[1] for line in logs("results")[0].read_text().splitlines()}
    assert len(processes) == 2  # this one, and the worker that has scored


@pytest.mark.slow
def test_a_process_that_is_killed_loses_no_line() -> None:
    Path("mine.py").write_text(MINE.format(more="os.kill(os.getpid(), signal.SIGKILL)"))
    code = "import mine, pai_bench as pb\n"
    code += "keys = dict(models=['lenet-300-100'], criteria=[mine.Mine()], sparsities=[0.5], seeds=1, epochs=0)\n"
    code += "pb.run(pb.Sweep(**keys, device='cpu', workers=1), out='r')"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == -signal.SIGKILL
    assert lines(logs()[0])[-1][1].startswith("begin digits-lenet-300-100-Mine-0.5-s0-")


def test_readers_of_a_results_folder_ignore_its_logs(capsys: pytest.CaptureFixture[str]) -> None:
    for out, seeds in (("r", "1"), ("s", "1,2")):
        assert main(["run", "--criteria", "random", *COMMAND, "--seeds", seeds, "--out", out]) == 0
        assert len(logs(out)) == 1
    assert main(["verify", "r"]) == 0
    assert main(["merge", "r", "s", "-o", "both"]) == 0
    assert not logs("both")
    assert main(["compare", "r", "s"]) == 0
    assert main(["report", "r", "--records"]) == 0
    assert len(list(Store("r/records.jsonl.xz"))) == 2
    assert not [line for line in capsys.readouterr().out.splitlines() if "logs" in line]


def test_lines_are_not_forced_to_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which would take longer than a small trial."""
    forced: list[int] = []
    monkeypatch.setattr(os, "fsync", forced.append)
    frame = pb.run(sweep(seeds=1, epochs=0), out="r")
    assert len(forced) == len(frame)  # records are
