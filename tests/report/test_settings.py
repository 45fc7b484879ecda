"""Trials of one network and data set that differ in initial weights, labels or test set are never thrown together."""

import io

import pandas as pd

from pai_bench.plan import Choice
from pai_bench.report import literature, metrics, pairs, versus
from pai_bench.report.page import write_report
from pai_bench.report.summary import comparisons
from pai_bench.store import Record, Store, as_frame
from pai_bench.training.protocol import get_protocol
from tests.report.records import drawn

SETTINGS: tuple[dict[str, object], ...] = ({}, {"init": "tn"}, {"label_noise": 1.0}, {"validation": 0.2})


def mixed(lower: float = 0.0) -> list[Record]:
    """Four settings with their own accuracies; the usual one made worse by `lower`."""
    return [
        drawn(criterion, sparsity, seed, 0.9 - 0.2 * i + 0.01 * seed - (0 if setting else lower), trial=setting)
        for i, setting in enumerate(SETTINGS)
        for criterion, sparsity in ((None, 0.0), ("snip", 0.9), ("random", 0.9))
        for seed in range(3)
    ]


def test_each_setting_has_a_section_with_a_name_of_its_own() -> None:
    titles = [one.title for one in comparisons(as_frame(mixed()))]
    assert titles == [
        "net on digits",
        "net on digits, weights from tn",
        "net on digits, training labels random with probability 1",
        "net on digits, tested on 20 % of the training set",
    ]


def test_two_folders_are_compared_setting_by_setting() -> None:
    found = versus.changes(mixed(), mixed(lower=0.2))
    assert {change.before.count for change in found} == {3}
    assert {change.data for change in found if change.beyond} == {"digits"}
    assert len(found) == 4 * 3


def test_rows_of_a_table_for_programs_can_be_told_apart() -> None:
    rows = pd.read_csv(io.StringIO(metrics.as_csv(comparisons(as_frame(mixed())))))
    assert not rows.duplicated(["data", "model", "criterion", "sparsity", "init", "label_noise", "validation"]).any()


def test_ranks_take_the_usual_setting_and_never_false_labels() -> None:
    found = comparisons(as_frame(mixed()))
    for order in (found, found[::-1]):
        assert [block.title for block in pairs.blocks_of(order)] == ["net on digits"]
    assert pairs.blocks_of(found[2:3]) == []


def test_a_part_held_out_is_no_other_data_set_of_the_same_name() -> None:
    records = mixed()
    data = {"label": "digits", "checksum": "another", "train": 10, "test": 5}
    held = [drawn("snip", 0.9, 0, 0.5, trial={"validation": 0.2}, provenance={**records[0].provenance, "data": data})]
    store = Store("r", create=True)
    for one in (*(r for r in records if "validation" not in r.trial), *held):
        store.write(one)
    assert "different data sets" not in write_report(store, store.path / "report.md").read_text()


def table_3(law: str, **trial: object) -> list[Record]:
    """Trials of SNIP's table 3."""
    choice = Choice(name=f"snip:score-init={law}", options=(("score_init", law),))
    setting = {"data": "mnist", "model": "lenet-300-100", "criterion": choice, "init": "vs-x", **trial}
    return [drawn("snip", 0.9, seed, 0.98, protocol=get_protocol("snip-mnist"), trial=setting) for seed in range(2)]


def test_published_numbers_stand_beside_the_same_initialisations() -> None:
    for law in ("rn", "tn", "vs-x", "vs-h"):
        (comparison,) = comparisons(as_frame(table_3(law)))
        (found,) = literature.beside(comparison)
        assert f"score initialisation {law}; training initialisation vs-x" in found.theirs.note
    for records in (table_3("rn", init="own"), table_3("rn", label_noise=0.5), table_3("rn", validation=0.1)):
        assert literature.beside(comparisons(as_frame(records))[0]) == []
    plain = [drawn("snip", 0.9, 0, 0.98, trial={"data": "mnist", "model": "lenet-300-100"})]
    notes = [one.theirs.note for one in literature.beside(comparisons(as_frame(plain))[0])]
    assert notes == ["score batch 100"]


def test_another_law_is_another_draw() -> None:
    store = Store("r", create=True)
    for one in table_3("vs-h"):
        store.write(one)
    assert "scores another draw" not in write_report(store, store.path / "report.md").read_text()
