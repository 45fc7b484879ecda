"""Trials of one network and data set that differ in initial weights, labels or test set are never thrown together."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pai_bench.report import folder_diff, metrics, rankings
from pai_bench.report.figures.style import canvas
from pai_bench.report.page import page, write_report
from pai_bench.report.summary import comparisons
from pai_bench.results import EpochRecord, Record, Store, as_frame
from tests.report.records import drawn, record

SETTINGS: tuple[dict[str, Any], ...] = (
    *({}, {"init": "tn"}, {"label_noise": 1.0}, {"validation": 0.2}, {"label_noise": "permute"}),
    *({"train_fraction": 0.5, **own} for own in ({}, {"subset": "balanced"}, {"length": "steps"})),
)


def mixed(lower: float = 0.0) -> list[Record]:
    """Some settings with their own accuracies; the usual one made worse by `lower`."""
    return [
        drawn(criterion, sparsity, seed, 0.9 - 0.1 * i + 0.01 * seed - (0 if setting else lower), trial=setting)
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
        "net on digits, training labels permuted",
        "net on digits, 50 % of the training set",
        "net on digits, 50 % of the training set, balanced by class",
        "net on digits, 50 % of the training set, trained for as many steps as with all of it",
    ]


def test_two_folders_are_compared_setting_by_setting() -> None:
    found = folder_diff.changes(mixed(), mixed(lower=0.2))
    assert {change.before.count for change in found} == {3}
    assert {change.data for change in found if change.significant} == {"digits"}
    assert len(found) == len(SETTINGS) * 3


def test_rows_of_a_table_for_programs_can_be_told_apart() -> None:
    rows = pd.read_csv(io.StringIO(metrics.as_csv(comparisons(as_frame(mixed())))))
    settings = ["init", "label_noise", "validation", "train_fraction", "subset", "length"]
    assert not rows.duplicated(["data", "model", "criterion", "sparsity", *settings]).any()


def test_ranks_take_the_usual_setting_and_never_false_labels() -> None:
    found = comparisons(as_frame(mixed()))
    for order in (found, found[::-1]):
        assert [block.title for block in rankings.blocks_of(order)] == ["net on digits"]
    assert rankings.blocks_of(found[2:3]) == []


@pytest.mark.parametrize(
    "noise", [{"label_noise": 1.0}, {"label_noise": 1.0, "label_law": "exact"}, {"label_noise": "permute"}], ids=str
)
def test_random_labels_are_told_by_the_training_loss(noise: dict[str, Any], tmp_path: Path) -> None:
    curves = {
        None: [(2.3, 2.0), (2.2, 1.0)],  # two seeds, two epochs
        "snip": [(2.5, 2.4), (2.4, 2.2)],
    }
    records = [
        drawn(name, 0.9 if name else 0.0, seed, 0.1, trial=noise, curve=epochs(losses))
        for name, seeds in curves.items()
        for seed, losses in enumerate(seeds)
    ]
    text = page(records, tmp_path / "report.md", [], [])
    told = "the mean training loss of the last epoch is dense 1.500 (2 seeds), snip 2.300 (2 seeds)."
    assert f"At sparsity 0.9, {told}" in text
    assert "snip has the highest mean accuracy" not in text
    assert "points of test accuracy" not in text
    assert "All training labels are random" in text
    assert not list((tmp_path / "figures").glob("report-pareto-*"))
    (figure,) = (tmp_path / "figures").glob("report-fit-*.svg")
    assert "training loss" in figure.read_text(encoding="utf-8")


def test_a_training_loss_that_was_not_finite_is_not_drawn(tmp_path: Path) -> None:
    records = [drawn("snip", 0.9, 0, 0.1, trial={"label_noise": 1.0}, curve=epochs((2.0, None)))]
    text = page(records, tmp_path / "report.md", [], [])
    assert "the mean training loss of the last epoch is snip unknown (0 of 1 seed)." in text
    assert not list((tmp_path / "figures").glob("report-fit-*"))


def test_networks_that_diverge_on_random_labels_are_told_of(tmp_path: Path) -> None:
    noise = {"label_noise": 1.0}
    records = [drawn("snip", 0.9, 0, 0.1, trial=noise, curve=epochs((2.0, 1.0)))]
    records += [record("snip", 0.9, seed, None, trial=noise) for seed in (1, 2)]
    records += [record(None, 0.0, seed, None, trial=noise) for seed in range(2)]
    text = page(records, tmp_path / "report.md", [], [])
    told = "dense unknown (0 of 2 seeds, 2 failed), snip 1.000 (1 of 3 seeds, 2 failed)."
    assert f"the mean training loss of the last epoch is {told}" in text


def epochs(losses: Sequence[float | None]) -> tuple[EpochRecord, ...]:
    return tuple(EpochRecord(epoch=i, train_loss=x, test_loss=1.0, test_accuracy=0.1) for i, x in enumerate(losses, 1))


@pytest.mark.slow
def test_a_part_held_out_is_no_other_data_set_of_the_same_name() -> None:
    records = mixed()
    data = {"label": "digits", "checksum": "another", "train": 10, "test": 5}
    held = [drawn("snip", 0.9, 0, 0.5, trial={"validation": 0.2}, provenance={"data": data})]
    store = Store("r", create=True)
    for one in (*(r for r in records if "validation" not in r.trial), *held):
        store.write(one)
    assert "different data sets" not in write_report(store, store.path / "report.md").read_text()


def test_a_title_without_spaces_is_broken_anywhere() -> None:
    with canvas(Path("x.svg")) as figure:
        axes = figure.subplots()
        axes.set_title("w" * 140)
    assert axes.title.get_window_extent().x1 <= figure.bbox.width
    assert axes.title.get_text().replace("\n", "") == "w" * 140


def test_long_titles_stay_within_their_figures() -> None:
    name = "a network, with a name, that is rather long, and goes on, for longer than a figure is wide, or even two"
    for text in (name, name.replace(",", ""), f"{name[:70]}\n{name}", "short"):
        with canvas(Path("x.svg")) as figure:
            axes = figure.subplots()
            axes.set_yticks([0], ["a long label to the left of it"])
            axes.set_title(text)
            axes.set_xlabel(text)
        for part in (axes.title, axes.xaxis.label):
            extent = part.get_window_extent()
            assert extent.x0 >= 0
            assert extent.x1 <= figure.bbox.width
            assert part.get_text().replace("\n", " ") == text.replace("\n", " ")
