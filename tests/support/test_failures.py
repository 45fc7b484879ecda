"""Criteria that fail: where, in the message; how, in the record and at the level debug."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import pai_bench as pb
from pai_bench.cli.entry import main
from pai_bench.results import Record
from pai_bench.scoring.lookup import load_class
from pai_bench.support import failures
from pai_bench.support.errors import FROZEN, unknown
from pai_bench.support.failures import described, location, traceback_of

FILE = """\
from dataclasses import dataclass
from pai_bench.scoring import Criterion

def helper(w):
    return w.transposed()

@dataclass(frozen=True)
class Helped(Criterion):
    def score(self, model, batch):
        return model.saliencies(batch, lambda w, g, loss: helper(w))

@dataclass(frozen=True)
class Library(Criterion):
    def score(self, model, batch):
        return {name: g.reshape(7, -1, 11, 13) for name, g in model.gradients(batch).items()}
"""

RUN = ["--models", "lenet-300-100", "--sparsities", "0.5", "--seeds", "1", "--epochs", "0", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _folder_and_logging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    Path("my criteria").mkdir()
    Path("my criteria/mine.py").write_text(FILE)
    load_class.cache_clear()
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


def failed(name: str) -> Record:
    """The record of a run of a criterion that fails."""
    assert main(["run", "--criteria", f"./my criteria/mine.py:{name}", *RUN]) == 1
    (path,) = Path("results/trials").glob(f"*{name}*.json")
    return Record.from_json(path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "line", "function"), [("Helped", 5, "helper"), ("Library", 15, "<dictcomp>")])
def test_message_and_record_say_where(name: str, line: int, function: str) -> None:
    record = failed(name)
    assert record.error is not None
    assert f"(mine.py, line {line}, in " in record.error
    assert record.traceback is not None
    assert record.traceback.startswith("Traceback (most recent call last):\n")
    assert f'File "mine.py", line {line}, in ' in record.traceback
    assert FILE.splitlines()[line - 1].strip() in record.traceback
    assert "/" not in record.traceback.replace(FILE, "")  # no path of the machine
    assert f"(mine.py, line {line}, in " in Path("results/report.md").read_text()


def test_records_of_what_has_not_failed_have_no_traceback() -> None:
    assert main(["run", "--criteria", "random", *RUN]) == 0
    for path in Path("results/trials").glob("*.json"):
        assert "traceback" not in json.loads(path.read_text())


@pytest.mark.parametrize(
    ("verb", "code"),
    [
        (["run", *RUN, "--criteria"], 1),
        (["collapse", "--models", "lenet-300-100", "--seeds", "1", "--points", "2", "--criteria"], 1),
        (["prune", "--model", "lenet-300-100", "--sparsity", "0.5", "--criterion"], 2),
        (["check"], 1),
    ],
)
def test_every_verb_says_where_and_shows_the_traceback_at_debug(
    verb: list[str], code: int, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert main([*verb, "./my criteria/mine.py:Helped", "--log-level", "debug"]) == code
    said = capfd.readouterr()  # `run` scores in another process
    assert "(mine.py, line 5, in helper)" in " ".join((said.out + said.err).replace("│", " ").split())
    assert 'mine.py", line 5, in helper' in caplog.text + said.err
    assert {record.name.partition(".")[0] for record in caplog.records} <= {"pai_bench"}  # no chatter of matplotlib


def test_places_are_of_code_that_is_not_a_librarys() -> None:
    with pytest.raises(ValueError, match="Expecting") as raised:
        json.loads("{")
    assert location(raised.value).startswith(" (test_failures.py, line ")
    assert described(raised.value).startswith("JSONDecodeError: ")
    with pytest.raises(pb.UserError) as ours:
        pb.get_criterion("nothing")
    assert location(ours.value) == ""
    assert traceback_of(RuntimeError("never raised")) is None


def test_unknown_names_with_the_nearest_or_some_of_all() -> None:
    assert (
        str(unknown("thing", "snipp", ["snip", "snap", "grasp"])) == "unknown thing 'snipp': did you mean snip or snap?"
    )
    assert str(unknown("thing", "x", [])) == "unknown thing 'x': known are none"
    names = [f"{i:04}" for i in range(1041)]
    shown = ", ".join(names[:40])
    assert str(unknown("thing", "x", names[:40])) == f"unknown thing 'x': known are {shown}"
    assert str(unknown("thing", "x", reversed(names))) == f"unknown thing 'x': known are {shown} and 1,001 more"


def test_a_class_that_is_not_frozen_is_told_how_to_be() -> None:
    error = TypeError("cannot inherit non-frozen dataclass from a frozen one")
    assert described(error) == f"TypeError: {error}; {FROZEN}"
    assert described(TypeError("another")) == "TypeError: another"
    assert (
        described(ValueError("non-frozen dataclass\n  in two lines")) == "ValueError: non-frozen dataclass in two lines"
    )


def test_tracebacks_name_files_without_their_folders_and_what_came_before() -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise RuntimeError("then \ud800 /home/somebody/file.py") from error
    except RuntimeError as error:
        found = traceback_of(error)
    assert found is not None
    assert found.count('File "test_failures.py"') == 2
    assert "KeyError: 'first'" in found
    assert found.endswith("RuntimeError: then ? file.py\n")


def test_the_place_of_a_crash_is_the_innermost_line_of_ones_own() -> None:
    torch_file, ours = torch.nn.modules.linear.__file__, failures.__file__
    text = (
        "Fatal Python error: Aborted\n\nStack (most recent call first):\n"
        f'  File "{torch_file}", line 3 in forward\n  File "/a b/mine.py", line 7 in forward\n'
        f'  File "{ours}", line 9 in run\n  File "/other.py", line 1 in main\n  File "<frozen runpy>", line 88 in x\n'
    )
    assert failures.crash_location(text) == " at mine.py, line 7, in forward"
    assert failures.crash_location(text.replace("/a b/mine.py", torch_file).replace("/other.py", ours)) == (
        " at linear.py, line 3, in forward"
    )
    assert failures.crash_location("Fatal Python error: Aborted\n") == ""


def test_three_near_names_at_most() -> None:
    assert str(unknown("thing", "snip", ["snip5", "snip2", "snip4", "snip3"])).count(" or ") == 2
