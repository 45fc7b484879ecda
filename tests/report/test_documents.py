"""Tables in other formats, likeness of masks, benchmarks, and what documents say of results that are not as usual."""

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pai_bench.cli.entry import main
from pai_bench.report import metrics, pytest_benchmark
from pai_bench.report.figures.accuracy import ends as figure_ends
from pai_bench.report.page import write_report
from pai_bench.report.similarity import similarity
from pai_bench.report.summary import comparisons
from pai_bench.results import Layer, as_frame, bits
from pai_bench.results.bits import pack, unpack
from pai_bench.support.errors import UserError
from pai_bench.training.protocol import get_protocol
from tests.made import Choice
from tests.report.records import altered, drawn, fields_of, record, stored
from tests.report.test_pairs import full

pytestmark = pytest.mark.usefixtures("drawings")  # what figures show is tested elsewhere


def test_intervals_of_accuracies_end_at_100() -> None:
    records = [record("snip", 0.9, seed, accuracy) for seed, accuracy in enumerate((0.97, 0.99, 1.0))]
    (row,) = metrics.frame(comparisons(as_frame(records))).to_dict("records")
    assert row["accuracy_high"] == row["best_accuracy_high"] == 100
    assert 90 < row["accuracy_low"] < 97


@pytest.mark.parametrize(
    ("name", "column", "values", "low", "high"),
    [
        ("direct_sparsity", "achieved_sparsity", (0.0, 0.5, 1.0), 0, 1),
        ("effective_sparsity", "effective_sparsity", (0.0, 0.5, 1.0), 0, 1),
        ("flops_kept", "flops_kept", (0.0, 50.0, 100.0), 0, 100),
        ("score_seconds", "score_seconds", (0.1, 0.1, 5.0), 0, math.inf),
        ("accuracy", "test_accuracy", (0.0, 0.5, 1.0), 0, 100),
    ],
)
def test_intervals_end_where_a_metric_ends(
    name: str, column: str, values: tuple[float, ...], low: float, high: float
) -> None:
    frame = as_frame([record("snip", 0.9, seed, 0.5) for seed in range(3)])
    frame[column], frame["flops"] = values, 100.0
    (row,) = metrics.frame(comparisons(frame)).to_dict("records")
    assert row[f"{name}_low"] == low
    assert row[f"{name}_high"] == high or (high == math.inf and row[f"{name}_high"] > max(values))


def test_differences_from_the_dense_network_end_at_100_points() -> None:
    dense = [record(None, 0.0, seed, accuracy) for seed, accuracy in enumerate((1.0, 0.5, 0.0))]
    pruned = [record("snip", 0.9, seed, accuracy) for seed, accuracy in enumerate((0.0, 0.5, 1.0))]
    row = metrics.frame(comparisons(as_frame([*dense, *pruned]))).to_dict("records")[-1]
    assert (row["drop_low"], row["drop"], row["drop_high"]) == (-100, 0, 100)


def test_columns_and_ratios_of_them() -> None:
    rows = pd.DataFrame({"part": [1.0, None], "whole": [4.0, 2.0]})
    for values, first in ((metrics.column("part"), 1), (metrics.column("part", 100), 100)):
        np.testing.assert_array_equal(values(rows, rows), [first, np.nan])
    np.testing.assert_array_equal(metrics.ratio("part", "whole")(rows, rows), [25, np.nan])


def test_metrics_by_hand() -> None:
    records = [drawn(None, 0.0, s, 0.9 + 0.01 * s) for s in range(3)] + [drawn("snip", 0.8, s, 0.8) for s in range(3)]
    (row,) = metrics.frame(list(comparisons(as_frame(records)))).query("criterion == 'snip'").to_dict("records")
    assert row["accuracy"] == pytest.approx(80)
    assert row["drop"] == pytest.approx(11)  # 10, 11, 12 points below the dense network of the same seed
    assert row["drop_sd"] == pytest.approx(1)
    assert row["drop_high"] - row["drop"] == pytest.approx(4.302652729911275 / math.sqrt(3))
    # 2 x 80 and 2 x 15 operations, each times the share of its layer that is kept
    kept = [sum(2 * layer.kept for layer in r.pruning.layers) / 190 for r in records[3:]]
    assert row["flops_kept"] == pytest.approx(100 * sum(kept) / 3)
    assert row["parameters_kept"] == pytest.approx(
        sum(layer.kept for r in records[3:] for layer in r.pruning.layers) / 3
    )
    assert row["best_accuracy"] == pytest.approx(80)


def test_likeness_by_hand() -> None:
    records = [drawn(name, 0.5, 0, 0.9) for name in ("snip", "random")]
    (comparison,) = comparisons(as_frame(records))
    found = similarity(comparison, 0.5, {one.identity: one for one in records})
    assert found is not None
    one, other = (set(unpack(r.pruning.mask or "", 95).nonzero()[0].tolist()) for r in records)
    assert found.jaccard[0, 1] == pytest.approx(len(one & other) / len(one | other))
    assert found.jaccard[0, 0] == 1
    both = either = 0.0
    for a, b in zip(*(r.pruning.layers for r in records), strict=True):
        p, q = a.kept / a.size, b.kept / b.size
        both += a.size * p * q
        either += a.size * (p + q - p * q)
    assert found.chance[0, 1] == pytest.approx(both / either)
    assert similarity(comparison, 0.5, {r.identity: altered(r, mask=None) for r in records}) is None


def test_masks_with_other_parameters_are_compared_on_those_that_both_have() -> None:
    one, other = (drawn(name, 0.5, 0, 0.9) for name in ("snip", "random"))
    bits = unpack(other.pruning.mask or "", 95)
    more = (other.pruning.layers[0], Layer(name="a.bias", size=5, kept=5, shape=(5,)), other.pruning.layers[1])
    masks = {"a": bits[:80], "bias": np.ones(5, bool), "b": bits[80:]}
    wider = altered(other, layers=more, mask=pack(masks))
    found = [
        similarity(comparisons(as_frame(both))[0], 0.5, {r.identity: r for r in both})
        for both in ([one, other], [one, wider])
    ]
    assert found[0] is not None
    assert found[1] is not None
    np.testing.assert_array_equal(found[0].jaccard, found[1].jaccard)
    np.testing.assert_array_equal(found[0].chance, found[1].chance)


def test_samples_of_masks_are_compared_if_they_are_of_the_same_parameters(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bits, "SAMPLE_SIZE", 90)
    one, other = (drawn(name, 0.5, 0, 0.9) for name in ("snip", "random"))
    more = (*other.pruning.layers, Layer(name="c", size=2, kept=2, shape=(2,)))
    wider = altered(other, layers=more, mask=pack({"all": np.ones(97, bool)}))
    for records, compared in (([one, other], True), ([one, wider], False)):
        found = similarity(comparisons(as_frame(records))[0], 0.5, {r.identity: r for r in records})
        assert (found is not None) is compared
    assert caplog.messages == [
        "masks are not compared: only some places of each mask are stored, and they are of different parameters"
    ]


BENCHMARK = {
    "machine_info": {"cpu": {"brand_raw": "a cpu"}, "system": "Linux", "python_version": "3.12"},
    "commit_info": {"id": "abcdef", "dirty": True},
    "benchmarks": [
        {
            "group": "score",
            "name": "test_snip[cpu]",
            "stats": {"median": 0.25, "iqr": 0.01, "min": 0.2, "rounds": 5},
            "extra_info": {"ratio": 1.09, "device": "CPU", "fast": True},
        }
    ],
}


def test_benchmarks_become_a_part_of_the_report() -> None:
    stored("r", full(seeds=1))
    Path("b.json").write_text(json.dumps(BENCHMARK))
    assert main(["report", "r", "--timings", "b.json", "-o", "x.md"]) == 0
    text = Path("x.md").read_text()
    assert "| score | test_snip[cpu] | 250 ms | 10 ms | 200 ms | 5 | ratio 1.09 |" in text
    assert "a cpu, Linux, Python 3.12; commit abcdef with changes" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "timings b.json cannot be read (No such file or directory)"),
        ("{}", "b.json is not a file of pytest-benchmark (KeyError: 'benchmarks')"),
        ("[]", "b.json is not a file of pytest-benchmark"),
        ('{"benchmarks": [{"name": "x", "stats": {"rounds": 1}}]}', "b.json is not a file of pytest-benchmark"),
        (
            '{"benchmarks": [{"name": "x", "stats": {"median": 1, "iqr": 1, "min": 1, "rounds": "many"}}]}',
            "b.json is not a file of pytest-benchmark (ValueError: a time is no number)",
        ),
    ],
)
def test_bad_timings_are_named(text: str | None, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    stored("r", full(seeds=1))
    if text is not None:
        Path("b.json").write_text(text)
    assert main(["report", "r", "--timings", "b.json"]) == 2
    assert said in capsys.readouterr().err


def test_timings_have_64_mebibytes_at_most() -> None:
    with Path("b.json").open("wb") as file:
        file.truncate(2**26)  # NUL characters
    with pytest.raises(UserError, match="JSONDecodeError"):
        pytest_benchmark.section(Path("b.json"))
    with Path("b.json").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match="it has more than 67,108,864 bytes"):
        pytest_benchmark.section(Path("b.json"))


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


@pytest.mark.parametrize("mask", ["AAAA", "!!", "eJwDAAAAAAE="])
def test_a_damaged_mask_is_no_reason_to_fail(mask: str, caplog: pytest.LogCaptureFixture) -> None:
    stored("r", [drawn(name, 0.5, 0, 0.9, mask=mask) for name in ("snip", "random")])
    assert main(["report", "r", "-o", "x.md"]) == 0
    assert "masks are not compared: " in caplog.text
    assert "likeness" not in Path("x.md").read_text()


def test_networks_of_one_name_with_other_layers() -> None:
    other = (Layer(name="c.weight", size=9, kept=3, shape=(3, 3)),)
    stored("r", [drawn("snip", 0.5, 0, 0.9), drawn("snip", 0.5, 1, 0.9, layers=other), drawn("random", 0.5, 0, 0.9)])
    assert main(["report", "r", "-o", "x.md"]) == 0


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
        for name, least in (("accuracy", 0), ("best_accuracy", 0), ("drop", -100), ("effective_sparsity", 0)):
            most = 1 if name == "effective_sparsity" else 100
            assert least <= float(row[f"{name}_low"]) <= float(row[f"{name}_high"]) <= most
    (comparison,) = comparisons(as_frame(records))
    for cell in (comparison.dense, *comparison.cells.values()):
        low, high = figure_ends(cell)
        assert 0 <= low <= high <= 100
