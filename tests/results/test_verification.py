"""What is found wrong in a results folder, and what repairing does."""

import dataclasses
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from pai_bench.results import Layer, Record, Store, TrialMetrics, checkpoints, verification
from pai_bench.results.bits import SAMPLE_SIZE, mask_file, pack
from pai_bench.results.checkpoints import CheckpointFolder
from pai_bench.results.claims import Claims
from pai_bench.results.stored_masks import stored_bits
from pai_bench.results.verification import repair, verify
from pai_bench.support.errors import UserError
from tests.report.records import altered, cost, drawn, fields_of, record, stored
from tests.results.owners_by_hand import ended, write


@pytest.fixture
def store() -> Store:
    """Two trials, one of them with a mask in its record, an evaluation and a cost."""
    made = stored("r", [record(None, 0.0, 0, 0.9), drawn("snip", 0.5, 0, 0.9)])
    made.write(TrialMetrics(identity=pruned(made).identity, metrics={}))
    made.write(cost())
    return made


def pruned(store: Store) -> Record:
    return next(one for one in store if one.trial["criterion"])


def large(kept: int | None = None, size: int = SAMPLE_SIZE + 8) -> Record:
    """A record that holds a sample of its mask, unless that has fewer places."""
    mask = np.arange(size) % 2 == 0
    whole = {"a.weight": mask.reshape(2, -1)}
    layer = Layer(
        name="a.weight", size=mask.size, kept=int(mask.sum()) if kept is None else kept, shape=(2, mask.size // 2)
    )
    return altered(drawn("snip", 0.5, 1, 0.9), mask=pack(whole), whole_mask=mask_file(whole), layers=(layer,))


def make_old(path: Path) -> None:
    os.utime(path, (time.time() - 4000,) * 2)


def whys(store: Store) -> dict[str, str]:
    return {problem.path.name: problem.why for problem in verify(store).problems}


def test_a_whole_folder(store: Store) -> None:
    store.write(large())
    calls: list[tuple[int, int]] = []
    found = verify(store, lambda done, total: calls.append((done, total)))
    assert found.whole == {"trials": 3, "masks": 1, "evaluations": 1, "costs": 1}
    assert (found.problems, found.without_checksum, found.set_aside, found.others) == ([], 0, 0, [])
    assert calls == [(number, 6) for number in range(1, 7)]


def test_the_largest_mask_that_a_record_holds_and_the_smallest_beside_one(store: Store) -> None:
    for size, beside in ((SAMPLE_SIZE, False), (SAMPLE_SIZE + 2, True)):
        store.write(one := large(size=size))
        expected = np.arange(size).reshape(2, -1) % 2 == 0
        assert (one.pruning.whole_mask is not None) == store.mask_of(one.identity).is_file() == beside
        for held, of in ((one, None), (store.get(one.identity), store)):
            found = stored_bits(held, of)
            assert found is not None
            assert np.array_equal(found["a.weight"], expected)
        assert (stored_bits(store.get(one.identity), None) is None) == beside
        assert (verify(store).problems, verify(store).whole["masks"]) == ([], int(beside))
        store.write(wrong := large(kept=5, size=size))
        (why,) = whys(store).values()
        assert why == "its mask is damaged (it keeps other numbers of connections than the record says)"
        assert wrong.identity == one.identity


def test_a_file_of_earlier_versions_is_whole_without_a_checksum(store: Store) -> None:
    path = store.path_of(Record, pruned(store).identity)
    path.write_text(json.dumps(fields_of(path.read_text())))
    found = verify(store)
    assert (found.problems, found.without_checksum) == ([], 1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        (None, "its content is not that of its checksum"),
    ],
)
def test_a_damaged_file_is_set_aside_and_its_trial_is_missing(text: str | None, why: str, store: Store) -> None:
    one = pruned(store)
    path = store.path_of(Record, one.identity)
    path.write_text(path.read_text().replace('"status": "done"', '"status": "failed"') if text is None else text)
    found = verify(store)
    assert [problem.path for problem in found.problems] == [path]
    assert why in found.problems[0].why
    assert repair(store, found.problems) == {path: path.with_suffix(".damaged")}
    assert not path.exists()
    again = verify(store)
    assert (again.set_aside, again.problems) == (1, [])
    make_old(store.path_of(TrialMetrics, one.identity))
    assert [problem.why for problem in verify(store).problems] == ["the evaluation of no trial here"]
    path.write_text("{")
    path.with_suffix(".damaged1").symlink_to("nowhere")
    assert repair(store, verify(store).problems)[path] == path.with_suffix(".damaged2")


def test_what_only_another_version_or_user_can_read_stays(store: Store) -> None:
    path = store.path_of(Record, pruned(store).identity)
    path.write_text('{"schema": 99}')
    (problem,) = verify(store).problems
    assert "schema 99 is newer" in problem.why
    assert repair(store, [problem]) == {}
    path.unlink()
    path.mkdir()
    (problem,) = verify(store).problems
    assert "it is a folder, not a file" in problem.why


def test_what_does_not_belong_there(store: Store) -> None:
    old, new = (store.trials / f".x.{name}.tmp" for name in ("old", "new"))
    for path in (old, new, store.trials / "notes.txt", store.trials / "gone.mask.safetensors"):
        path.touch()
    for path in (old, store.trials / "gone.mask.safetensors"):
        make_old(path)
    (store.trials / "new.mask.safetensors").touch()  # before its record
    store.mask_of(pruned(store).identity).write_bytes(b"x")
    found = verify(store)
    assert {problem.path.name: problem.why for problem in found.problems} == {
        old.name: "a temporary file of a killed process",
        "gone.mask.safetensors": "the mask of no trial here",
        store.mask_of(pruned(store).identity).name: "its trial has the whole mask in its record",
    }
    assert found.others == [store.trials / "notes.txt"]
    assert repair(store, found.problems)[old] is None
    assert verify(store).problems == []
    assert new.exists()
    assert not old.exists()


def test_a_mask_beside_its_record(store: Store) -> None:
    store.write(one := large())
    path = store.mask_of(one.identity)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert path.name in whys(store)
    path.write_bytes(b"x")
    assert "its mask is damaged" in whys(store)[path.name]
    path.unlink()  # as of records that were written before whole masks were stored
    assert whys(store) == {}
    store.write(other := large(kept=5))
    assert whys(store) == {
        store.mask_of(
            other.identity
        ).name: "its mask is damaged (it keeps other numbers of connections than the record says)"
    }


def test_a_mask_in_its_record(store: Store) -> None:
    one = pruned(store)
    store.write(altered(one, mask="AAAA"))
    assert "its mask is damaged (no mask" in whys(store)[f"{one.identity}.json"]


def test_what_cannot_be_set_aside_is_left(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_given: object) -> None:
        raise PermissionError(13, "Permission denied")

    store.path_of(Record, pruned(store).identity).write_text("{")
    monkeypatch.setattr(Path, "replace", refused)
    assert repair(store, verify(store).problems) == {}


def test_what_another_process_is_writing_or_has_mended_is_left_alone(store: Store) -> None:
    (store.trials / ".x.dangling.tmp").symlink_to("nowhere")
    assert verify(store).problems == []
    path = store.path_of(Record, pruned(store).identity)
    good = path.read_bytes()
    path.write_text("{")
    problems = verify(store).problems
    path.write_bytes(good)  # the trial has run again
    assert repair(store, problems) == {}
    gone = store.trials / "gone.mask.safetensors"
    gone.touch()
    make_old(gone)
    problems = verify(store).problems
    store.path_of(Record, "gone").write_text("{")
    assert gone not in repair(store, problems)


def test_files_that_vanish_meanwhile_are_no_problem(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [*verification.files(store), store.trials / "gone.json", store.trials / ".gone.0.tmp"]
    monkeypatch.setattr(verification, "files", lambda _store: listed)
    assert verify(store).problems == []


def test_a_record_without_shapes_is_whole(store: Store) -> None:
    one = pruned(store)
    layers = tuple(dataclasses.replace(layer, shape=()) for layer in one.pruning.layers)
    store.write(altered(one, layers=layers))
    assert verify(store).problems == []
    store.write(altered(one, layers=(dataclasses.replace(layers[0], kept=1), *layers[1:])))
    assert "it keeps other numbers of connections" in whys(store)[f"{one.identity}.json"]


def test_claims_of_a_process_that_has_ended_are_removed_and_no_others(store: Store) -> None:
    folder, one = store.path / "claims", pruned(store)
    with Claims(folder) as own:
        assert own.claim(one.identity)
        assert verify(store).problems == []
        owner = write(folder, ended(), "t")
        problems = verify(store).problems
        assert {problem.path.name: (problem.why, problem.cure) for problem in problems} == {
            f"{owner.id}.owner.json": ("the file of a process that has ended", "remove"),
            "t.0": ("a claim of a process that has ended", "remove"),
        }
        assert repair(store, problems) == dict.fromkeys(problem.path for problem in problems)
        assert verify(store).problems == []
        assert own.holds(one.identity)


def test_claims_that_cannot_be_read_are_named(store: Store) -> None:
    (store.path / "claims").touch()
    with pytest.raises(UserError, match=r"r/claims cannot be read \(Not a directory\)"):
        verify(store)


def checkpoint(store: Store, *trials: str) -> Path:
    """A checkpoint of some trials, without tensors."""
    values = json.dumps({"trials": trials, "state": {"step": 3, "steps": 9}})
    metadata = {"values": values, "checksum": checkpoints.checksum({}, values)}
    head = json.dumps({"__metadata__": metadata}).encode()
    folder = CheckpointFolder(store.path)
    folder.write(trials, len(head).to_bytes(8, "little") + head)
    return folder.path_of(trials)


def test_checkpoints(store: Store) -> None:
    """Those of trials that are stored have no use any more; a young one is about to be removed by who stored them."""
    names = sorted(one.identity for one in store)
    whole, young, old = checkpoint(store, "a", names[0]), checkpoint(store, names[0]), checkpoint(store, names[1])
    renamed = checkpoint(store, "b").rename(whole.with_name("c.safetensors"))
    damaged = checkpoint(store, "d")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (store.path / "checkpoints" / "note.txt").touch()
    (store.path / "checkpoints" / "e.damaged").touch()
    make_old(old)
    (found,) = [verify(store)]
    assert found.whole["checkpoints"] == 2
    assert (found.set_aside, [path.name for path in found.others]) == (1, ["note.txt"])
    assert {problem.path: (problem.why.partition(" (")[0], problem.cure) for problem in found.problems} == {
        old: ("a checkpoint of trials that are stored", "remove"),
        renamed: ("a damaged checkpoint", "set aside"),
        damaged: ("a damaged checkpoint", "set aside"),
    }
    assert repair(store, found.problems) == {
        old: None,
        renamed: renamed.with_suffix(".damaged"),
        damaged: damaged.with_suffix(".damaged"),
    }
    assert [one.trials for one in CheckpointFolder(store.path)] == [("a", names[0]), (names[0],)]
    assert young.exists()
    assert verify(store).problems == []
