"""Two results folders side by side."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pai_bench.cli.entry import main
from pai_bench.report import folder_diff
from pai_bench.results import Record
from tests.report.records import altered, record, stored
from tests.report.test_pairs import full


def shifted(records: list[Record], model: str, points: float) -> list[Record]:
    """The same trials, those of one network better by some points."""
    return [
        altered(r, test_accuracy=(r.evaluation.test_accuracy or 0) + points / 100) if r.trial["model"] == model else r
        for r in records
    ]


def test_two_folders_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    records = full()
    found = folder_diff.changes(records, records)
    assert len(found) == 2 * 7
    assert all(one.identical and not one.significant and one.train_ratio == 1 for one in found)
    found = folder_diff.changes(records, shifted(records, "net", 20))
    assert {one.model for one in found if one.significant} == {"net"}
    assert all(one.difference == pytest.approx(20) for one in found if one.significant)
    assert not any(one.significant for one in folder_diff.changes(records, shifted(records, "net", 0.1)))
    lost = [*records[1:], record("snip", 0.99, 7, 0.5)]
    stored("a", records)
    stored("b", shifted(lost, "other", -20))
    assert main(["compare", "a", "b", "-o", "c.md"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "55 trials in both, 1 only in A, 1 only in B" in out
    text = Path("c.md").read_text()
    assert text.count("| changed |") == 7
    assert "* A: CPU; a cpu" in text


def test_sides_with_different_spreads_are_compared_by_the_test_of_welch() -> None:
    before, after = [50.0, 51.0, 52.0], [60.0, 70.0, 80.0, 90.0]
    p = folder_diff.p_value(before, after, 0.2, collapsed=False)
    assert p == pytest.approx(stats.ttest_ind(before, after, equal_var=False).pvalue)


def test_a_change_of_status_is_said() -> None:
    before = [record("snip", 0.9, seed, 0.9) for seed in range(2)]
    after = [before[0], record("snip", 0.9, 1, None)]
    (change,) = folder_diff.changes(before, after)
    assert change.status == "1 done to failed"
    assert [dataclasses.replace(change, p=p).significant for p in (0.05, 0.051)] == [True, False]
    assert "1 done to failed" in folder_diff.table([change])[1][-1]


def test_accuracies_without_spread_show_no_change() -> None:
    """Equal in all seeds on both sides: nothing says how much they would vary. With a spread, the same is a change."""
    before, after = ([record("snip", 0.9, seed, a) for seed in range(5)] for a in (0.9, 0.5))
    (change,) = folder_diff.changes(before, after)
    assert change.difference == pytest.approx(-40)
    assert math.isnan(change.p)
    assert not change.significant
    assert "1 cell could not be tested" in folder_diff.verdict([change], before, after)
    assert folder_diff.changes(before, before)[0].p == 1
    moved = [record("snip", 0.9, seed, 0.5 + 0.01 * seed) for seed in range(5)]
    assert folder_diff.changes(before, moved)[0].significant


@pytest.mark.parametrize(("seeds", "told"), [(2, False), (3, False), (5, False), (6, True)])
def test_seeds_at_chance_say_little(seeds: int, told: bool) -> None:
    before = [record("snip", 0.9, seed, 0.95 + 0.004 * seed) for seed in range(seeds)]
    after = [record("snip", 0.9, seed, 0.1) for seed in range(seeds)]
    (change,) = folder_diff.changes(before, after)
    assert change.significant is told
    assert told or math.isnan(change.p)
    if told:
        assert change.p == 2 * 0.5**6


def test_rounding_is_no_change_at_chance_either() -> None:
    before = np.linspace(10, 90, 6)
    for fallen in (True, False):
        assert folder_diff.p_value(before, np.nextafter(before, 200), 0.2, collapsed=fallen) > 0.99


def test_accuracies_of_zero_on_both_sides_are_no_change() -> None:
    """Where rounding is nothing, too."""
    nothing = np.zeros(3)
    assert folder_diff.p_value(nothing, nothing, 0.0, collapsed=False) == 1


def test_what_the_signed_ranks_cannot_show_is_said() -> None:
    """Two cells take seven seeds."""
    before = [record("snip", s, seed, 0.95 + 0.004 * seed) for s in (0.9, 0.95) for seed in range(6)]
    after = [record("snip", s, seed, 0.1) for s in (0.9, 0.95) for seed in range(6)]
    found = folder_diff.changes(before, after)
    assert not any(one.significant for one in found)
    assert (
        "In 2 cells seeds are at chance or disconnected, and the signed-rank test decides: after correction it takes 7 "
        in folder_diff.verdict(found, before, after)
    )
    assert "signed-rank test decides" not in folder_diff.verdict(found[:1], before, after)


def test_a_spread_of_less_than_an_image_is_raised_to_one() -> None:
    """Deviations of 0.58 images, where the difference of two counts has one."""
    before, after = (
        [record("snip", 0.9, seed, n / 450) for seed, n in enumerate(counts)]
        for counts in ((405, 405, 406), (406, 407, 407))
    )
    (change,) = folder_diff.changes(before, after)
    floor = math.sqrt(0.5)
    expected = stats.ttest_ind_from_stats(1216 / 3, floor, 3, 1220 / 3, floor, 3, equal_var=False).pvalue
    assert change.p == pytest.approx(expected)
    assert not change.significant


def test_one_seed_cannot_be_told_from_chance() -> None:
    (change,) = folder_diff.changes([record("snip", 0.9, 0, 0.9)], [record("snip", 0.9, 0, 0.1)])
    assert math.isnan(change.p)
    assert not change.significant


@pytest.mark.parametrize(
    "arguments", [["compare", "a", "gone"], ["report", "gone"], ["report", "a", "--format", "csv"]]
)
def test_folders_without_trials(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("a/trials").mkdir(parents=True)
    Path("a/trials/x.json").write_text("{")
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("pai-bench: ")
