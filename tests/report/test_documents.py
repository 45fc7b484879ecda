"""What documents say of results that are not as usual."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from pai_bench.cli.entry import main
from pai_bench.report.figures.accuracy import ends as figure_ends
from pai_bench.report.page import write_report
from pai_bench.report.summary import comparisons
from pai_bench.results import as_frame
from pai_bench.training.protocol import get_protocol
from tests.made import Choice
from tests.report.records import altered, drawn, fields_of, record, stored
from tests.report.test_pairs import full

pytestmark = pytest.mark.usefixtures("drawings")  # what figures show is tested elsewhere


def test_what_the_authors_code_does_otherwise_is_said() -> None:
    text = write_report(
        stored("r", [drawn("snip", 0.5, 0, 0.9), drawn("random", 0.5, 0, 0.9)]), Path("r.md")
    ).read_text()
    assert "* snip: its authors' code draws its score batch at random; here it does not." in text
    trial = {"score_sampling": "random", "criterion": Choice(name="snip", options=(("score_init", "redrawn"),))}
    text = write_report(stored("s", [drawn("snip", 0.5, 0, 0.9, trial=trial)]), Path("s.md")).read_text()
    assert "at random; here" not in text
    assert "scores another draw" not in text
    assert "* snip: its authors' code counts biases in its budget; here it does not." in text


def test_what_cannot_be_read_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    store = stored("r", [record("snip", 0.9, seed, 0.9) for seed in range(3)])
    damaged, newer, other = sorted(store.trials.glob("*.json"))
    damaged.write_text(damaged.read_text()[:100])
    newer.write_text(json.dumps(json.loads(newer.read_text()) | {"schema": 99}))
    old = fields_of(other.read_text())
    for key in ("flops", "mask", "severed_shortcuts"):
        del old[key]
    old["layers"] = [{key: layer[key] for key in ("name", "size", "kept")} for layer in old["layers"]]
    other.write_text(json.dumps(old))
    assert main(["report", "r", "-o", "x.md"]) == 0
    text = Path("x.md").read_text()
    assert "1 trial (1 done)" in text
    assert f"* trials/{damaged.name} could not be read and is left out: " in text
    assert (
        f"* trials/{newer.name} could not be read and is left out: schema 99 is newer than this version reads" in text
    )
    assert main(["compare", "r", "r"]) == 0
    other.write_text("{}")
    assert main(["report", "r"]) == 2
    assert "no readable results" in capsys.readouterr().err


def test_names_are_shown_as_they_are() -> None:
    records = [drawn("snip", 0.5, 0, 0.9, trial={"model": "a*b*|<i>`c`"})]
    text = write_report(stored("r", records), Path("x.md")).read_text()
    assert "## a\\*b\\*\\|&lt;i>\\`c\\` on digits" in text
    assert "* Command: `pai-bench run` (1 trial)" in text


def test_sections_of_one_network_are_told_apart() -> None:
    records = [drawn("snip", 0.5, 0, 0.9, protocol=get_protocol("short", epochs=e)) for e in (3, 5)]
    assert [one.title for one in comparisons(as_frame(records))] == [
        "net on digits, 3 epochs",
        "net on digits, 5 epochs",
    ]


DAMAGE: list[dict[str, Any]] = [
    {"test_accuracy": 5.0},
    {"effective_sparsity": 1.5},
    {"score_seconds": "x"},
    {"train_seconds": float("inf")},
    {"device": 3},
    {"dead_layers": [1, "a"]},
    {"error": ["a"]},
    {"layers": [{"name": "a", "size": 0, "kept": 0}]},
    {"layers": [{"name": "a", "size": 3, "kept": 4}]},
    {"layers": [{"name": None, "size": 3, "kept": 1}]},
    {"connected": "no"},
    {"mask": 5},
    {"environment": {"versions": {"torch": "2"}, "device": "CPU", "processor": "x"}},
]


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
def test_a_damaged_record_is_left_out_of_every_document(damage: dict[str, Any]) -> None:
    store = stored("r", [drawn("snip", 0.5, seed, 0.9) for seed in range(2)])
    path = min(store.trials.glob("*.json"))
    path.write_text(json.dumps(fields_of(path.read_text()) | damage))
    assert main(["report", "r", "-o", "x.md"]) == 0
    assert f"trials/{path.name} could not be read" in Path("x.md").read_text()
    assert main(["report", "r", "--format", "csv"]) == 0
    assert main(["compare", "r", "r"]) == 0


@pytest.mark.parametrize("kind", ["trials", "costs", "collapse"])
@pytest.mark.parametrize("text", ["[" * 200_000, "[]", '{"trial": 3}', '{"schema": 99}'])
def test_files_that_are_no_results_are_left_out(kind: str, text: str) -> None:
    store = stored("r", full(seeds=1))
    folder = store.path / kind
    folder.mkdir(exist_ok=True)
    (folder / "odd.json").write_text(text)
    assert main(["report", "r", "-o", "x.md"]) == 0
    assert f"* {kind}/odd.json could not be read and is left out: " in Path("x.md").read_text()


def test_what_rests_on_fewer_seeds_says_so() -> None:
    records = [drawn("snip", 0.5, seed, 0.77) for seed in range(4)] + [drawn(None, 0.0, 0, 0.99)]
    text = write_report(stored("r", records), Path("x.md")).read_text()
    assert "| 22.00 (1 of 4 seeds) |" in text
    assert "the dense reference has 1 seed." in text


def test_titles_keep_their_parentheses() -> None:
    records = [
        drawn("snip", 0.5, 0, 0.9, protocol=get_protocol("short", lr_schedule="steps", milestones=milestones))
        for milestones in ((0.4, 0.75), (0.5, 0.75))
    ]
    titles = [one.title for one in comparisons(as_frame(records))]
    assert len(set(titles)) == 2
    assert all(title.count("(") == title.count(")") for title in titles)


def test_accuracies_without_training_are_not_compared() -> None:
    trial: dict[str, Any] = {"data": "mnist", "model": "lenet-300-100"}
    records = [drawn(c, 0.98, s, 0.1 + s / 50, trial=trial, epochs=0) for c in ("snip", "random") for s in range(3)]
    text = write_report(stored("r", records), Path("x.md")).read_text()
    assert "no network was trained" in text
    assert "In short" not in text
    assert "Beside published numbers" not in text
    assert "All pairs" not in text
    assert "against" not in text.partition("How these numbers")[0]  # no figure of accuracies


def test_untrained_networks_have_no_ranks() -> None:
    for epochs, said in ((0, False), (1, True)):
        records = [
            drawn(c, 0.5, seed, 0.8 + 0.01 * i * seed**2 + 0.01 * i, trial={"model": m}, epochs=epochs)
            for m in "abc"
            for i, c in enumerate(("snip", "random", "grasp"))
            for seed in range(3)
        ]
        text = write_report(stored(f"r{epochs}", records), Path("x.md")).read_text()
        assert ("## Ranks" in text) is said
        assert ("to be distinguished from chance" in text) is said


def test_effective_sparsity_is_told_of_what_was_pruned() -> None:
    dense, pruned = drawn(None, 0.0, 0, 0.9, effective_sparsity=0.0), drawn("snip", 0.5, 0, 0.8, effective_sparsity=0.0)
    (comparison,) = comparisons(as_frame([dense, pruned]))
    assert (str(comparison.dense), str(comparison.cells["snip", 0.5])) == ("90.00", "80.00 [0]")


def test_a_sparsity_that_is_not_the_one_asked_for_is_said() -> None:
    records = [drawn("snip:ties=keep", 0.5, seed, 0.9, achieved_sparsity=0.3) for seed in range(2)]
    text = write_report(stored("r", records), Path("x.md")).read_text()
    assert (
        "snip:ties=keep at 0.5 removed 0.3 of the weights: equal scores, or weights of one unit, go together." in text
    )
    exact = [drawn("snip", 0.995, seed, 0.9, achieved_sparsity=1.0) for seed in range(2)]  # 0.475 of 95 are none
    assert "of the weights: equal" not in write_report(stored("s", exact), Path("x.md")).read_text()


def test_a_score_batch_is_shared_only_where_all_have_one() -> None:
    records = [drawn("snip", 0.5, 0, 0.9, trial={"score_batch": size}) for size in (1, 10)]
    for some, said in ((records[:1], "initial weights, score batch and order"), (records, "initial weights and order")):
        assert said in write_report(stored(f"r{len(some)}", some), Path("x.md")).read_text()


def test_ranks_say_what_they_leave_out() -> None:
    records = [drawn(c, 0.5, 0, 0.9, trial={"model": m}) for m in ("a", "b", "c") for c in ("snip", "random", "grasp")]
    records.append(drawn("erk", 0.5, 0, 0.9, trial={"model": "a"}))
    assert "Not in all blocks, and left out: erk." in write_report(stored("r", records), Path("x.md")).read_text()


def test_caveats_about_where_results_come_from() -> None:
    one, other = drawn("snip", 0.5, 0, 0.9), drawn("snip", 0.5, 1, 0.9)
    records = [one, altered(other, provenance={"data": {"checksum": "other"}, "commit": "z"})]
    text = write_report(stored("r", records), Path("x.md")).read_text()
    assert "* Trials ran at 2 commits" in text
    assert "* digits is the name of 2 different data sets here." in text


@pytest.mark.parametrize("arguments", [["report", "r", "--format", "csv"], ["report", "r"], ["compare", "r", "r"]])
def test_no_document_goes_among_the_results(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    store = stored("r", full(seeds=1))
    path = min(store.trials.glob("*.json"))
    before = path.read_bytes()
    assert main([*arguments, "-o", str(path)]) == 2
    assert "where the results are" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_a_figure_of_an_earlier_report_is_not_shown_again() -> None:
    one = [drawn(name, 0.5, 0, 0.9) for name in ("snip", "random")]
    stored("r", one)
    assert main(["report", "r", "-o", "x.md"]) == 0
    assert "figures/x-likeness-net-on-digits.svg" in Path("x.md").read_text()
    stored("s", one[:1])
    assert main(["report", "s", "-o", "x.md"]) == 0
    assert "likeness" not in Path("x.md").read_text()


@pytest.mark.parametrize("seeds", [2, 3, 12])
def test_no_interval_of_accuracies_leaves_what_there_is(seeds: int) -> None:
    """In tables, sentences, tables for programs and figures, of accuracies at both ends."""
    ends: dict[str | None, tuple[float, float]] = {None: (1.0, 0.6), "snip": (0.99, 0.2), "random": (0.02, 0.75)}
    records = [
        drawn(name, 0.5 if name else 0.0, seed, values[seed % 2], trial={"data": "mine"})
        for name, values in ends.items()
        for seed in range(seeds)
    ]
    store = stored("r", records)
    text = write_report(store, Path("x.md")).read_text()
    spans = [(float(low), float(high)) for low, high in re.findall(r"(-?[\d.]+) to (-?[\d.]+)", text)]
    assert len(spans) >= 6
    assert all(-100 <= low <= high <= 100 for low, high in spans)
    assert any(100 in (abs(low), abs(high)) for low, high in spans) is (seeds < 12)
    assert main(["report", "r", "--format", "csv", "-o", "x.csv"]) == 0
    for row in csv.DictReader(io.StringIO(Path("x.csv").read_text())):
        for name in ("test_accuracy", "best_accuracy", "below_dense", "effective_sparsity"):
            least = -1 if name == "below_dense" else 0
            assert least <= float(row[f"{name}_low"]) <= float(row[f"{name}_high"]) <= 1
    (comparison,) = comparisons(as_frame(records))
    for cell in (comparison.dense, *comparison.cells.values()):
        low, high = figure_ends(cell)
        assert 0 <= low <= high <= 100
