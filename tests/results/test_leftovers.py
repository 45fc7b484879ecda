"""What killed processes leave among the claims, and that nothing of living ones is removed."""

import dataclasses
import os
import time
from pathlib import Path

import pytest

from pai_bench.results import claim_files, owners
from pai_bench.results.claims import Claims
from pai_bench.results.leftovers import find_leftovers, remove_leftovers
from pai_bench.support.process_identity import ProcessIdentity, this_process
from tests.results.owners_by_hand import Process, ended, write

FOLDER = Path("claims")

ELSEWHERE = dataclasses.replace(this_process(), boot="another")


def removed(*stored: str) -> set[str]:
    """The names of the files that are removed while some trials are stored; they are those that were found."""
    found = find_leftovers(FOLDER, stored.__contains__, time.time()).reasons(FOLDER).keys()
    assert remove_leftovers(FOLDER, stored.__contains__) == found
    assert not any(path.exists() for path in found)
    return {path.name for path in found}


def make_old(*paths: Path) -> None:
    for path in paths:
        os.utime(path, (time.time() - 4000,) * 2)


def test_a_killed_process_leaves_nothing() -> None:
    with Process(FOLDER) as process, Claims(FOLDER) as own:
        assert [process.call("claim", trial) for trial in "ab"] == ["True", "True"]
        assert removed("a") == set()
        process.kill()
        assert {"a.0", "b.0"} < removed("a")
        assert [path.name for path in FOLDER.iterdir()] == [f"{own.owner.id}.owner.json"]
        assert own.claim("b")


@pytest.mark.parametrize("process", [this_process(), ELSEWHERE], ids=["here", "elsewhere"])
def test_what_a_process_that_may_live_has_stays(process: ProcessIdentity) -> None:
    owner = write(FOLDER, process, "a", "b")
    assert removed("a") == set()  # it is about to release one, or runs it again
    path = owners.path_of(FOLDER, owner.id)
    make_old(FOLDER / "a.0", FOLDER / "b.0")
    assert removed("a") == set()  # a trial may take hours
    make_old(path)
    assert removed() == {path.name, "a.0", "b.0"}


def test_a_trial_that_was_taken_over_stays() -> None:
    dead = write(FOLDER, ended(), "a")
    with Claims(FOLDER) as own:
        assert own.claim("a")
        assert removed("a") == {f"{dead.id}.owner.json"}
        assert own.holds("a")


def test_a_claim_that_is_taken_over_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    write(FOLDER, ended(), "a")
    with Claims(FOLDER) as own:
        take = claim_files.take

        def slow_take(folder: Path, identity: str, row: list[str], owner: str) -> bool:
            monkeypatch.undo()
            assert own.claim("a")
            return take(folder, identity, row, owner)

        monkeypatch.setattr(claim_files, "take", slow_take)
        assert FOLDER / "a.0" not in remove_leftovers(FOLDER, lambda _trial: True)
        assert own.holds("a")


def test_claims_of_nobody_are_left_when_their_trial_is_stored_or_they_are_old() -> None:
    for trial in "abc":
        path = owners.path_of(FOLDER, write(FOLDER, this_process(), trial).id)
        path.unlink()
    make_old(FOLDER / "b.0")
    assert removed("a") == {"a.0", "b.0"}


def test_parts_of_rows_and_temporary_files_are_left() -> None:
    write(FOLDER, ended(), "a")
    write(FOLDER, ended(), "a")
    (FOLDER / "a.0").unlink()
    old, new, other = FOLDER / ".a.1.tmp", FOLDER / ".b.1.tmp", FOLDER / "notes.txt"
    for path in (old, new, other):
        path.touch()
    make_old(old, other)
    assert {"a.1", old.name} < removed()
    assert {path.name for path in FOLDER.iterdir()} == {new.name, other.name}


def test_without_a_folder_nothing_is_done() -> None:
    assert removed() == set()
    FOLDER.touch()
    assert remove_leftovers(FOLDER, lambda _trial: True) == set()
