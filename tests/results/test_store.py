"""The results folder: whole files, damaged ones named, the table of results."""

import dataclasses
import json
import logging
import os
import shutil
import time
from pathlib import Path

import pytest

import pai_bench as pb
from pai_bench.results import Collapse, Cost, EpochRecord, Evaluation, Layer, Pruning, Record, Store, Training
from pai_bench.results.stored import with_checksum
from tests.made import Choice
from tests.made import trial as made_trial
from tests.report.records import DATA, ENVIRONMENT, PROVENANCE, altered, fields_of
from tests.report.test_damage import collapse

COLUMNS = [
    *("data", "model", "criterion", "variant", "sparsity", "seed", "status", "test_accuracy", "test_loss"),
    *("achieved_sparsity", "effective_sparsity", "connected", "dead_layers", "score_seconds", "score_peak_bytes"),
    *("train_seconds", "images_per_second", "epochs", "device", "error"),
]


def record(seed: int = 0) -> Record:
    """A record as a trial leaves it."""
    trial = made_trial(model="lenet", seed=seed, criterion=Choice(name="snip"), sparsity=0.9)
    return Record(
        identity=trial.identity,
        trial=trial.configuration(),
        status="done",
        pruning=Pruning(dead_layers=("fc.weight",), layers=(Layer(name="fc.weight", size=10, kept=0),)),
        training=Training(curve=(EpochRecord(epoch=1, train_loss=None, test_loss=0.3, test_accuracy=0.5),)),
        evaluation=Evaluation(test_accuracy=0.5),
        environment=ENVIRONMENT,
        provenance=dataclasses.replace(PROVENANCE, data=dataclasses.replace(DATA, train=10, test=5)),
    )


def test_a_large_loss_is_a_result(tmp_path: Path) -> None:
    store = Store(tmp_path / "r", create=True)
    large = altered(record(), test_loss=3e38)
    store.write(large)
    assert store.read(large.identity) == large


def test_what_a_record_of_an_earlier_version_lacks_is_null(tmp_path: Path) -> None:
    store = Store(tmp_path / "r", create=True)
    store.write(record())
    path = next(store.trials.glob("*.json"))
    raw = fields_of(path.read_text())
    del raw["chance_loss"], raw["chance_accuracy"]
    raw["layers"][0] |= {"size": 40, "shape": [4, 10]}
    path.write_text(json.dumps(raw))
    (row,) = pb.read_results(store.path).to_dict("records")
    assert row["chance_loss"] is row["chance_accuracy"] is None
    assert (row["classes"], row["test_examples"]) == (4, 5)  # the last layer has as many outputs as there are classes


def test_write_and_read_give_the_same_record(tmp_path: Path) -> None:
    store = Store(tmp_path / "r", create=True)
    store.write(record())
    assert store.read(record().identity) == record()
    assert list(store) == [record()]
    assert [path.name for path in store.trials.iterdir()] == [f"{record().identity}.json"]
    assert store.read("another") is None


def test_columns_of_the_results(tmp_path: Path) -> None:
    store = Store(tmp_path / "r", create=True)
    store.write(record())
    frame = pb.read_results(tmp_path / "r")
    assert list(frame.columns[: len(COLUMNS)]) == COLUMNS
    row = frame.iloc[0]
    assert (row.data, row.criterion, row.sparsity, row.test_accuracy) == ("digits", "snip", 0.9, 0.5)
    assert row.variant == "none"
    assert row.effective_sparsity is None


def damaged(**changes: object) -> str:
    """The text of a record with some fields changed."""
    return json.dumps(fields_of(record().to_json()) | changes)


@pytest.mark.parametrize(
    "damage",
    [
        *("", "{", "[]", "{}", '{"schema": 1, "trial": {}}', record().to_json()[:200], "\udcff"),
        damaged(schema="one"),
        damaged(identity="another"),
        damaged(status="fine"),
        damaged(test_accuracy="high"),
        damaged(test_accuracy=None),
        damaged(provenance={}),
        damaged(environment={}),
        damaged(trial={**record().trial, "criterion": "snip"}),
        damaged(trial={**record().trial, "protocol": {"warmth": 3}}),
        damaged(layers=[{"name": "a"}]),
    ],
)
def test_a_damaged_file_is_named_and_set_aside(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path / "r", create=True)
    path = store.trials / f"{record().identity}.json"
    content = damage.encode(errors="surrogateescape")
    with caplog.at_level(logging.WARNING):
        for name in (".damaged", ".damaged1"):  # a second damage does not replace the first
            path.write_bytes(content)
            assert list(store) == []
            assert path.exists()  # a reader changes nothing
            assert store.read(record().identity) is None
            assert not path.exists()
            assert path.with_suffix(name).read_bytes() == content
    assert str(path) in caplog.text


def test_a_record_of_a_later_schema_is_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path / "r", create=True)
    path = store.trials / f"{record().identity}.json"
    path.write_text(damaged(schema=99))
    with pytest.raises(pb.UserError, match="schema 99 is newer than this version reads"):
        store.read(record().identity)
    assert list(store) == []
    assert path.read_text() == damaged(schema=99)


def test_a_folder_that_is_gone_while_running(tmp_path: Path) -> None:
    store = Store(tmp_path / "r", create=True)
    shutil.rmtree(tmp_path / "r")
    with pytest.raises(pb.UserError, match="can no longer be written"):
        store.write(record())


def test_a_field_of_a_later_version_does_no_harm(tmp_path: Path) -> None:
    store = Store(tmp_path / "r", create=True)
    store.write(record())
    path = store.trials / f"{record().identity}.json"
    later = fields_of(path.read_text()) | {"new": 1}
    for text in (later, with_checksum(later)):
        path.write_text(json.dumps(text))
        assert store.read(record().identity) == record()


def test_an_interrupted_write_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "r", create=True)
    store.write(record())

    def interrupted(_self: Record) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(Record, "to_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.write(dataclasses.replace(record(), status="failed"))
    assert list(store) == [record()]


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name in ("file", "file/below"):
        with pytest.raises(pb.UserError, match="cannot be written"):
            Store(tmp_path / name, create=True)
    with pytest.raises(pb.UserError, match="has no results"):
        Store(tmp_path / "empty")
    with pytest.raises(pb.UserError, match="does not exist"):
        pb.read_results(tmp_path / "missing")


def test_what_killed_runs_have_begun_to_write_is_removed_after_an_hour(tmp_path: Path) -> None:
    store = Store(tmp_path / "r", create=True)
    ages = {".old.tmp": 3700, ".young.tmp": 3500, "old.tmp": 3700, ".old.json": 3700}
    now = time.time()
    for name, age in ages.items():
        (store.trials / name).touch()
        os.utime(store.trials / name, (now - age, now - age))
    Store(tmp_path / "r", create=True)
    assert {path.name for path in store.trials.iterdir()} == ages.keys() - {".old.tmp"}


def test_no_report_is_written_where_the_results_are(tmp_path: Path) -> None:
    store = Store(tmp_path / "r", create=True)
    for name in ("trials/x.md", "costs/deep/x.md", "collapse/x.md", "benchmarks/x.md"):
        with pytest.raises(pb.UserError, match=r"cannot be written to .*, where the results are"):
            store.check_report_path(store.path / name)
    store.check_report_path(store.path / "x.md")
    store.check_report_path(tmp_path / "trials" / "x.md")


def test_a_record_under_another_name_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path / "r", create=True)
    store.write(record())
    (path,) = store.trials.glob("*.json")
    path.rename(store.trials / "other.json")
    assert list(store) == []
    assert set(store.left_out) == {"trials/other.json"}
    assert "trials/other.json cannot be read" in caplog.text
    with pytest.raises(pb.UserError, match=r"the record of trial other in .*r cannot be read"):
        store.get("other")
    assert (store.trials / "other.json").exists()
    assert store.read("other") is None
    assert (store.trials / "other.damaged").exists()


def test_a_folder_with_measurements_alone_has_no_trials(tmp_path: Path) -> None:
    (tmp_path / "r" / "costs").mkdir(parents=True)
    (tmp_path / "r" / "costs" / "x.json").write_text("{}")
    with pytest.raises(pb.UserError, match="has no trials, only measurements"):
        pb.read_results(tmp_path / "r")
    store = Store(tmp_path / "r")
    assert store.read_all(Cost) == []
    assert set(store.left_out) == {"costs/x.json"}


def test_a_trial_takes_its_whole_mask_along(tmp_path: Path) -> None:
    """A record stored under the name of an earlier version, with a mask beside it."""
    store = Store(tmp_path / "r", create=True)
    one, former = record(0), record(1)
    store.write(altered(former, whole_mask=b"mask"))
    assert store.mask_of(former.identity).read_bytes() == b"mask"
    found = store.adopt(former.identity, one.identity, one.trial)
    assert found is not None
    assert (found.identity, found.trial["seed"], found.evaluation.test_accuracy) == (one.identity, 0, 0.5)
    assert store.mask_of(one.identity).read_bytes() == b"mask"
    assert {path.name for path in store.trials.iterdir()} == {
        f"{one.identity}.json",
        store.mask_of(one.identity).name,
    }
    assert store.read(one.identity) == found
    assert store.adopt(former.identity, record(2).identity, record(2).trial) is None


@pytest.mark.parametrize("read_before", [True, False])
def test_a_trial_that_another_process_adopts_meanwhile_keeps_its_whole_mask(
    tmp_path: Path, read_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = (Store(tmp_path / "r", create=True) for _ in range(2))
    one, former = record(0), record(1)
    store.write(altered(former, whole_mask=b"mask"))
    known = store.read(former.identity) if read_before else None
    there = other.adopt(former.identity, one.identity, one.trial)
    read = store.read
    monkeypatch.setattr(store, "read", lambda name: known if name == former.identity else read(name))
    found = store.adopt(former.identity, one.identity, one.trial)
    assert found is not None
    assert found == there
    assert store.mask_of(one.identity).read_bytes() == b"mask"


def test_a_search_takes_the_place_of_a_former_one_if_it_is_still_there(tmp_path: Path) -> None:
    store = Store(tmp_path / "r", create=True)
    former = collapse()
    latter = dataclasses.replace(former, trial={**former.trial, "seed": 7})
    store.write(former)
    for _ in range(2):  # another process may have been faster
        store.write(latter, former=former)
        assert [one.trial["seed"] for one in store.read_all(Collapse)] == [7]
    store.write(latter, former=latter)
    assert len(store.read_all(Collapse)) == 1


def test_a_folder_that_cannot_be_made_is_named_with_the_reason_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(pb.UserError) as refused:
        Store(tmp_path / "file" / "results", create=True)
    said = f"results folder {tmp_path}/file/results cannot be written (Not a directory); give another with --out"
    assert str(refused.value) == said


def test_a_mask_that_cannot_be_read_is_named_and_nothing_is_renamed(tmp_path: Path) -> None:
    store = Store(tmp_path / "r", create=True)
    one, former = record(0), record(1)
    store.write(former)
    store.mask_of(former.identity).mkdir()
    with pytest.raises(pb.UserError, match=r"mask.safetensors cannot be read \(it is a folder, not a file\)"):
        store.adopt(former.identity, one.identity, one.trial)
    assert store.read(former.identity) == former
    assert store.read(one.identity) is None


def test_a_file_that_vanishes_before_it_is_copied_is_named(tmp_path: Path) -> None:
    store, one = Store(tmp_path / "r", create=True), record(0)
    with pytest.raises(pb.UserError, match=r"gone.json cannot be read \(No such file or directory\)"):
        store.copy(tmp_path / "gone.json", store.path_of(type(one), one.identity))
    assert store.read(one.identity) is None


def test_the_file_of_a_whole_mask_may_have_a_bit_for_each_weight_and_its_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pai_bench.results.folder.LONGEST", 1000)
    store = Store(tmp_path / "r", create=True)
    layers = tuple(Layer(name=name, size=8001, kept=1) for name in "ab")
    one = altered(record(0), layers=layers)
    assert store.whole_mask(one) is None
    for size in (0, 1000 + 2 * 1001):
        store.mask_of(one.identity).write_bytes(bytes(size))
        assert len(store.whole_mask(one) or b"") == size
    store.mask_of(one.identity).write_bytes(bytes(3003))
    with pytest.raises(ValueError, match="it has more than 3,002 bytes"):
        store.whole_mask(one)


@pytest.mark.parametrize(
    ("shape", "size", "fits"),
    [((), 1, True), ((), 2, False), ((2, 3), 6, True), ((1, 3), 3, True), ((2, 3), 5, False), ((-2, -3), 6, False)],
)
def test_a_layer_has_the_size_of_its_shape(shape: tuple[int, ...], size: int, fits: bool) -> None:
    assert Layer(name="a", size=size, kept=0, shape=shape).fits_shape() == fits
