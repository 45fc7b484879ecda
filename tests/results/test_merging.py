"""Several results folders in one: nothing lost, nothing overwritten."""

import json
from pathlib import Path

import pytest

from pai_bench.results import Cost, Record, Store, TrialMetrics, archive
from pai_bench.results.merging import merge
from pai_bench.results.verification import verify
from pai_bench.support.errors import UserError
from tests.report.records import altered, cost, drawn, fields_of, record, stored
from tests.results.test_fuzz_results import large


def test_all_of_several_folders_with_their_masks_and_evaluations() -> None:
    one, other = stored("a", [record(None, 0.0, 0, 0.9), large(1)]), stored("b", [drawn("snip", 0.5, 0, 0.9)])
    other.write(cost())
    other.write(TrialMetrics(identity=next(iter(other)).identity, metrics={}))
    calls: list[tuple[int, int]] = []
    counts = merge([one, other], Path("c"), lambda done, total: calls.append((done, total)))
    assert counts == {"trials": 3, "evaluations": 1, "costs": 1}
    assert calls == [(number, 5) for number in range(1, 6)]
    for source in (one, other):
        for path in source.path.rglob("*.*"):
            assert (Path("c") / path.relative_to(source.path)).read_bytes() == path.read_bytes()
    found = verify(Store("c"))
    assert (found.problems, found.whole["masks"]) == ([], 1)


def test_what_is_in_both_once_and_again_changes_nothing() -> None:
    same = drawn("snip", 0.5, 0, 0.9)
    stores = [stored("a", [same, drawn("snip", 0.5, 1, 0.9)]), stored("b", [same])]
    assert merge(stores, Path("c")) == {"trials": 2}
    times = {path: path.stat().st_mtime_ns for path in Path("c").rglob("*.json")}
    assert merge(stores, Path("c")) == {}
    assert {path: path.stat().st_mtime_ns for path in Path("c").rglob("*.json")} == times
    assert merge([stored("d", [drawn("snip", 0.5, 2, 0.9)])], Path("c")) == {"trials": 1}
    assert len(list(Store("c"))) == 3


@pytest.mark.parametrize("where", ["b", "c"])
def test_results_that_differ_are_named_and_nothing_is_written(where: str) -> None:
    one = drawn("snip", 0.5, 0, 0.9)
    stores = [stored("a", [one, drawn("snip", 0.5, 1, 0.9)])]
    differing = stored(where, [altered(one, train_seconds=99.0)])
    before = {path: path.read_bytes() for path in Path().rglob("*.json")}
    message = (
        rf"trials/{one.identity}\.json differs from .*, and nothing was written: remove the one that you do not want"
    )
    with pytest.raises(UserError, match=message):
        merge([*stores, differing] if where == "b" else stores, Path("c"))
    assert {path: path.read_bytes() for path in Path().rglob("*.json")} == before


def test_a_damaged_file_gives_way_to_a_whole_one_and_is_named() -> None:
    one = drawn("snip", 0.5, 0, 0.9)
    stores = [stored("a", [one, drawn("snip", 0.5, 1, 0.9)]), stored("b", [one])]
    stores[0].path_of(Record, one.identity).write_text("{")
    assert merge(stores, Path("c")) == {"trials": 2}
    assert [*stores[0].left_out] == [f"trials/{one.identity}.json"]
    assert Store("c").get(one.identity) == one


def test_files_of_records() -> None:
    store = stored("a", [drawn("snip", 0.5, 0, 0.9)])
    archive.pack(store.path, Path("records.jsonl.xz"))
    assert merge([Store("records.jsonl.xz"), stored("b", [record(None, 0.0, 0, 0.9)])], Path("c")) == {"trials": 2}
    assert len(Store("c").read_all(Cost)) == 0
    assert json.loads(next(Path("c/trials").glob("*snip*")).read_text())["mask"] is None
    with pytest.raises(UserError, match="merge makes a folder, not a file of records"):
        merge([store], Path("x.jsonl.xz"))


@pytest.mark.parametrize("text", ["{", '{"schema": 99}'])
def test_what_cannot_be_read_in_the_target_stays(text: str) -> None:
    one = drawn("snip", 0.5, 0, 0.9)
    source, target = stored("a", [one]), stored("c", [one])
    target.path_of(Record, one.identity).write_text(text)
    with pytest.raises(UserError, match=r"c/trials/.* cannot be read .*, and nothing was written"):
        merge([source], Path("c"))
    assert target.path_of(Record, one.identity).read_text() == text


def test_a_mask_is_taken_from_where_it_is_whole() -> None:
    one = large(1)
    stores = [stored(name, [one]) for name in "abc"]
    stores[0].mask_of(one.identity).unlink()
    stores[1].mask_of(one.identity).write_bytes(b"x")
    assert merge(stores, Path("d")) == {"trials": 1}
    assert stores[1].left_out.keys() == {f"trials/{one.identity}.mask.safetensors"}
    assert verify(Store("d")).whole["masks"] == 1
    Store("d").mask_of(one.identity).unlink()
    assert merge([stores[2]], Path("d")) == {}
    assert verify(Store("d")).whole["masks"] == 1


def test_an_evaluation_goes_with_its_trial() -> None:
    """One that was made of another training, or of none that can be read, is left out."""
    one = drawn("snip", 0.5, 0, 0.9)
    stores = [stored("a", [one]), stored("b", [altered(one, train_seconds=9.0)])]
    stores[0].write(TrialMetrics(identity=one.identity, metrics={}))
    stores[0].path_of(Record, one.identity).write_text("{")
    assert merge(stores, Path("c")) == {"trials": 1}
    assert stores[0].left_out[f"evaluations/{one.identity}.json"] == "its trial is not merged from this folder"
    assert verify(Store("c")).problems == []


def test_the_same_result_in_another_form_does_not_differ() -> None:
    store = stored("a", [drawn("snip", 0.5, 0, 0.9)])
    archive.pack(store.path, Path("records.jsonl.xz"))
    (path,) = store.trials.glob("*.json")
    assert merge([Store("records.jsonl.xz"), store], Path("c")) == {"trials": 1}
    assert (Path("c/trials") / path.name).read_bytes() == path.read_bytes()  # with the mask
    path.write_text(json.dumps(fields_of(path.read_text())))  # as of an earlier version
    assert merge([store], Path("c")) == {}
    (folder := Path("d")).mkdir()
    Path("records.jsonl.xz").rename(folder / archive.NAME)
    with pytest.raises(UserError, match="d holds a file of records, which would not be read beside results"):
        merge([store], folder)
