"""The first report: numbers that are those of the records, marks, and what it says of failures."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from pai_bench.report import page, provenance, tables
from pai_bench.report.figures.style import looks
from pai_bench.report.page import write_report
from pai_bench.report.statistics import estimate
from pai_bench.report.summary import Cell, comparisons, share
from pai_bench.results import Record, Store, as_frame
from pai_bench.support.errors import UserError
from pai_bench.training.protocol import get_protocol
from tests.made import Choice
from tests.report.records import LOOKS, altered, record, stored


def example() -> list[Record]:
    """Three seeds of dense, snip and random at one or two sparsities, one failure, one empty layer."""
    accuracies = {
        (None, 0.0): (0.97, 0.98, 0.99),
        ("snip", 0.9): (0.90, 0.92, 0.97),
        ("snip", 0.95): (0.80, None, 0.82),
        ("random", 0.9): (0.5, 0.5, 0.5),
    }
    return [
        record(name, sparsity, seed, accuracy, kept=0 if name == "random" and seed == 1 else 10)
        for (name, sparsity), row in accuracies.items()
        for seed, accuracy in enumerate(row)
    ]


def test_a_cell_by_hand() -> None:
    # mean 0.93; deviations -0.03, -0.01, 0.04: variance (9 + 1 + 16) / 2 * 1e-4 = 13e-4
    cell = Cell((0.90, 0.92, 0.97))
    assert cell.percent.mean == pytest.approx(93)
    assert cell.percent.deviation == pytest.approx(100 * math.sqrt(13e-4))
    assert str(cell) == "93.00 ± 3.61"
    assert str(Cell((0.5,))) == "50.00"
    assert str(Cell((), failed=2)) == "failed"
    assert str(Cell((0.5,), failed=1, with_dead_layers=1)) == "50.00 † (1 failed)"
    assert str(Cell(())) == "–"


def test_one_mean_is_rounded_in_one_way() -> None:
    accuracies = (0.9873, 0.9656)
    assert str(Cell(accuracies)).startswith(f"{estimate([100 * one for one in accuracies]).mean:.2f} ")


@pytest.mark.parametrize(
    ("sparsity", "text"),
    [(0, "0"), (1e-13, "0"), (0.9, "0.900"), (0.99, "0.9900"), (0.98761, "0.9876"), (0.9996, "0.999600"), (1, "1")],
)
def test_a_sparsity_has_three_digits_of_its_density(sparsity: float, text: str) -> None:
    assert share(sparsity) == text
    assert share(sparsity * (1 - 1.2e-16)) == text


def test_the_accuracy_table() -> None:
    (comparison,) = comparisons(as_frame(example()))
    assert tables.accuracy(comparison) == [
        ["criterion", "dense", "sparsity 0.9", "sparsity 0.95", "score"],
        ["snip", "98.00 ± 1.00", "93.00 ± 3.61", "81.00 ± 1.41 (1 failed)", "250 ms"],
        ["random", "98.00 ± 1.00", "50.00 ± 0.00 †", "–", "250 ms"],
    ]
    assert tables.disconnections(comparison) == ["† net, random at 0.9: dead b.weight (1 of 3 seeds)"]
    assert comparison.seeds == 3


def test_protocols_do_not_mix_and_uses_of_one_criterion_are_told_apart() -> None:
    longer = record("snip", 0.9, 0, 0.99, protocol=get_protocol("short", epochs=99))
    iterative = record("snip", 0.9, 0, 0.95, schedule="linear:steps=3")
    first, second = comparisons(as_frame([*example(), longer, iterative]))
    assert "99 epochs" in second.protocol
    assert first.methods == ("snip, linear:steps=3", "snip, one-shot", "random")
    assert first.cells["snip, linear:steps=3", 0.9].accuracies == (0.95,)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0012345, "1.23 ms"), (0.25, "250 ms"), (12.34, "12.3 s"), (100, "1:40 min"), (3723, "1:02:03 h"), (None, "")],
)
def test_durations(seconds: float, text: str) -> None:
    assert tables.duration(seconds) == text


def test_markdown_escapes_bars() -> None:
    assert tables.markdown([["a", "b"], ["x|y", "1"]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"


def test_the_report(tmp_path: Path) -> None:
    store = Store(tmp_path / "r", create=True)
    for r in example():
        store.write(r)
    path = write_report(store, tmp_path / "page.md")
    text = path.read_text()
    for expected in (
        "12 trials (11 done, 1 failed)",
        "## net on digits",
        "| snip | 98.00 ± 1.00 | 93.00 ± 3.61 | 81.00 ± 1.41 (1 failed) | 250 ms |",
        "![Test accuracy against sparsity, net on digits](figures/page-net-on-digits.svg)",
        "† net, random at 0.9: dead b.weight (1 of 3 seeds)",
        "| a.weight | 30 | 50 |",
        "## Failed trials",
        "RuntimeError: oh \\| no",
        "`pai-bench run` (12 trials)",
        "checksum 00ff",
        "abc, with changes that were not committed",
        "a cpu, 2 threads",
    ):
        assert expected in text, expected
    assert (tmp_path / "figures/page-net-on-digits.svg").is_file()


@pytest.mark.parametrize(
    "records",
    [
        [record("snip", 0.9, 0, None)],
        [record(None, 0.0, 0, 0.9)],
        [record("snip", 0.9, 0, 0.9)],
        [record(None, 0.0, 0, None), record("snip", 0.0, 0, 0.5, kept=0)],
    ],
    ids=["only a failure", "only dense", "only one trial", "dense failed"],
)
def test_reports_of_little(records: list[Record], tmp_path: Path) -> None:
    store = Store(tmp_path / "r", create=True)
    for r in records:
        store.write(dataclasses.replace(r))
    assert "## net on digits" in write_report(store, tmp_path / "r.md").read_text()


def test_other_score_batches_and_revisions_are_other_methods() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"score_sampling": "random"},
        {"criterion": Choice(name="snip", revision=2)},
    ]
    (comparison,) = comparisons(as_frame([record("snip", 0.9, 0, 0.5, trial=change) for change in changes]))
    assert comparison.methods == (
        "snip, balanced, revision 1",
        "snip, balanced, revision 2",
        "snip, random, revision 1",
    )
    assert all(len(cell.accuracies) == 1 for cell in comparison.cells.values())


def test_mixed_modes_of_batch_norm_are_said(tmp_path: Path) -> None:
    store = Store(tmp_path / "r", create=True)
    for name, mode in (("snip", "eval"), ("grasp", "train"), ("random", None)):
        store.write(record(name, 0.9, 0, 0.5, batch_norm=mode))
    text = write_report(store, tmp_path / "r.md").read_text()
    assert "batch norm while scoring is not in one mode: grasp train, snip eval." in text


def test_odd_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    store = Store(tmp_path / "r", create=True)
    store.write(record("$\\frac$ | x", 0.9, 0, 0.0, trial={"model": "m" * 300 + "$\\frac$"}))
    assert "m" * 300 in write_report(store, tmp_path / "r.md").read_text()


def test_a_report_that_cannot_be_written_is_refused_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(*_arguments: Any, **_options: Any) -> str:
        raise AssertionError("too late")

    monkeypatch.setattr(page, "page", made)
    (tmp_path / "file").touch()
    store = stored(f"{tmp_path}/r", [record("snip", 0.5, 0, 0.9)])
    with pytest.raises(UserError, match="the report cannot be written to"):
        write_report(store, tmp_path / "file" / "report.md")


def test_a_report_does_not_go_among_the_results(tmp_path: Path) -> None:
    store = Store(tmp_path / "r", create=True)
    store.write(record("snip", 0.9, 0, 0.5))
    path = next(store.trials.glob("*.json"))
    before = path.read_bytes()
    with pytest.raises(UserError, match="where the results are"):
        write_report(store, path)
    assert path.read_bytes() == before


def test_methods_of_a_figure_can_be_told_apart() -> None:
    assert looks(["snip", "random"]) == {name: LOOKS[name] for name in ("snip", "random")}
    assert looks(["random", "mine"])["mine"] == looks(["mine", "snip", "erk"])["mine"]  # the same in every figure
    assert looks(["snip, layerwise", "snip"])["snip"] == LOOKS["snip"]
    options = looks(["grasp", "snip:bn=train", "snip:bn=train + shuffle", "./mine.py:Mine", "./mine.py:Other"])
    assert options["snip:bn=train"] == looks(["snip:bn=train", "snip + shuffle"])["snip:bn=train"] == LOOKS["snip"]
    assert options["snip:bn=train + shuffle"][0] == LOOKS["snip"][0]
    assert options["./mine.py:Mine"] == looks(["./mine.py:Mine"])["./mine.py:Mine"] != options["./mine.py:Other"]
    assert looks(["snip:bn=train", "snip"])["snip"] == LOOKS["snip"]
    assert len(set(LOOKS.values())) == len(LOOKS)
    variants = [
        "",
        " + invert",
        " + reinit",
        " + shuffle",
        " + global-shuffle",
        " + quota:erk",
        " + quota:er",
        " + quota:x",
    ]
    many = looks([name + variant for name in ("snip", "er", "force") for variant in variants])
    assert len(set(many.values())) == 24
    assert {many[f"snip{variant}"][0] for variant in variants} == {many["snip"][0]}
    assert len(set(looks([f"criterion {i}" for i in range(20)]).values())) == 20


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, None),
        ({"workers": 1, "lanes": 1}, None),
        ({"workers": 2}, "one of 2 worker processes"),
        ({"lanes": 2}, "trained in one program with 1 other"),
        ({"lanes": 4, "together": "branches"}, "trained in one program with 3 others, as branches"),
        ({"workers": 3, "compiled": True}, "one of 3 worker processes, compiled"),
    ],
)
def test_what_ran_beside_a_trial(keys: dict[str, Any], words: str | None) -> None:
    one = record("snip", 0.9, 0, 0.5)
    one = altered(one, provenance=keys)
    assert provenance.describe_concurrency(one) == words


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"commit": None}, None),
        ({"commit": "abc", "dirty": False}, "abc"),
        ({"commit": "abc", "dirty": True}, "abc, with changes that were not committed"),
    ],
)
def test_the_commit_of_a_trial(keys: dict[str, Any], words: str | None) -> None:
    one = record("snip", 0.9, 0, 0.5)
    assert provenance.describe_commit(altered(one, provenance=keys)) == words
