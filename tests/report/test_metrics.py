"""Metrics of a table of results: values by hand, and intervals that end where a metric ends."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pai_bench.report import metrics
from pai_bench.report.summary import comparisons
from pai_bench.results import as_frame
from tests.report.records import drawn, record


def test_intervals_of_accuracies_end_at_one() -> None:
    records = [record("snip", 0.9, seed, accuracy) for seed, accuracy in enumerate((0.97, 0.99, 1.0))]
    (row,) = metrics.frame(comparisons(as_frame(records))).to_dict("records")
    assert row["test_accuracy_high"] == row["best_accuracy_high"] == 1
    assert 0.9 < row["test_accuracy_low"] < 0.97


@pytest.mark.parametrize(
    ("name", "column", "values", "low", "high"),
    [
        ("achieved_sparsity", "achieved_sparsity", (0.0, 0.5, 1.0), 0, 1),
        ("effective_sparsity", "effective_sparsity", (0.0, 0.5, 1.0), 0, 1),
        ("flops_share", "flops_kept", (0.0, 50.0, 100.0), 0, 1),
        ("score_seconds", "score_seconds", (0.1, 0.1, 5.0), 0, math.inf),
        ("test_accuracy", "test_accuracy", (0.0, 0.5, 1.0), 0, 1),
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


def test_differences_from_the_dense_network_end_at_one() -> None:
    dense = [record(None, 0.0, seed, accuracy) for seed, accuracy in enumerate((1.0, 0.5, 0.0))]
    pruned = [record("snip", 0.9, seed, accuracy) for seed, accuracy in enumerate((0.0, 0.5, 1.0))]
    row = metrics.frame(comparisons(as_frame([*dense, *pruned]))).to_dict("records")[-1]
    assert (row["below_dense_low"], row["below_dense"], row["below_dense_high"]) == (-1, 0, 1)


def test_columns_and_ratios_of_them() -> None:
    rows = pd.DataFrame({"part": [1.0, None], "whole": [4.0, 2.0]})
    np.testing.assert_array_equal(metrics.column("part")(rows, rows), [1, np.nan])
    np.testing.assert_array_equal(metrics.ratio("part", "whole")(rows, rows), [0.25, np.nan])


def test_metrics_by_hand() -> None:
    records = [drawn(None, 0.0, s, 0.9 + 0.01 * s) for s in range(3)] + [drawn("snip", 0.8, s, 0.8) for s in range(3)]
    (row,) = metrics.frame(list(comparisons(as_frame(records)))).query("criterion == 'snip'").to_dict("records")
    assert row["test_accuracy"] == pytest.approx(0.8)
    assert row["below_dense"] == pytest.approx(0.11)  # 10, 11, 12 points below the dense network of the same seed
    assert row["below_dense_sd"] == pytest.approx(0.01)
    assert row["below_dense_high"] - row["below_dense"] == pytest.approx(0.04302652729911275 / math.sqrt(3))
    # 2 x 80 and 2 x 15 operations, each times the share of its layer that is kept
    kept = [sum(2 * layer.kept for layer in r.pruning.layers) / 190 for r in records[3:]]
    assert row["flops_share"] == pytest.approx(sum(kept) / 3)
    assert row["parameters_kept"] == pytest.approx(
        sum(layer.kept for r in records[3:] for layer in r.pruning.layers) / 3
    )
    assert row["best_accuracy"] == pytest.approx(0.8)


def test_norms_that_are_infinite_for_a_seed_are_so_in_the_mean() -> None:
    """Leaving them out would make networks look less robust than they are."""
    records = []
    for seed, found in enumerate((1.0, 0.75, 0.25)):
        one = record("snip", 0.9, seed, 0.8)
        norms = {"": 1.5 if found > 0.5 else None, ".mean": 2.0 if found == 1 else None, ".found": found}
        taken = {f"minimal-l2{key}": value for key, value in norms.items()} | {"gap.loss": [1.0, None, 2.0][seed]}
        records.append(dataclasses.replace(one, evaluation=dataclasses.replace(one.evaluation, metrics=taken)))
    (values,) = metrics.frame(comparisons(as_frame(records))).to_dict("records")
    assert (values["minimal-l2"], values["minimal-l2.mean"], values["minimal-l2.found"]) == (math.inf, math.inf, 2 / 3)
    assert math.isnan(values["minimal-l2_sd"])
    assert values["gap.loss"] == 1.5
    (values,) = metrics.frame(comparisons(as_frame(records[:2]))).to_dict("records")
    assert (values["minimal-l2"], values["minimal-l2.mean"]) == (1.5, math.inf)


def test_metrics_of_trained_networks_stand_beside_the_others() -> None:
    """Attacks have a table of their own, and are in the tables for programs."""
    found: dict[str, float | str] = {
        "gap.loss": -0.25,
        "loss": 0.125,
        "minimal-l2": 1.5,
        "accuracy": 0.75,
        "verdict-linf:eps=0.1": 0.5,
        "verdict-linf:eps=0.1.notes": "transfer",
    }
    records = []
    for seed in range(3):
        one = record("snip", 0.9, seed, 0.8)
        gap: dict[str, float | str] = {"gap.accuracy": 0.01 * seed}
        records.append(dataclasses.replace(one, evaluation=dataclasses.replace(one.evaluation, metrics=found | gap)))
    (comparison,) = comparisons(as_frame(records))
    head, row = metrics.table(comparison)
    cells = dict(zip(head, row, strict=True))
    assert cells["gap.accuracy"].startswith("0.01 ± 0.01 (")
    assert "verdict-linf:eps=0.1" not in cells
    assert cells["loss"].startswith("0.125 ± 0 (")
    assert not {"minimal-l2", "method", "status"} & cells.keys()
    (values,) = metrics.frame([comparison]).to_dict("records")
    assert (values["loss"], values["minimal-l2"], values["accuracy"]) == (0.125, 1.5, 0.75)
    assert values["test_accuracy"] == pytest.approx(0.8)
    assert (values["gap.loss"], values["verdict-linf:eps=0.1"]) == (-0.25, 0.5)
    assert not [name for name in values if "notes" in str(name)]


def test_json_says_what_each_column_is() -> None:
    """In the order of the columns, and with what JSON has no number for."""
    dense = record(None, 0.0, 0, 0.9)
    one = record("snip", 0.9, 0, 0.8)
    norms: dict[str, float | str | None] = {"minimal-l2": None, "minimal-l2.found": 0.25}
    made = [dense, dataclasses.replace(one, evaluation=dataclasses.replace(one.evaluation, metrics=norms))]
    found = list(comparisons(as_frame(made)))
    content = json.loads(metrics.as_json(found))
    assert list(content["columns"]) == list(metrics.frame(found).columns)
    assert all(text.strip() for text in content["columns"].values())
    assert content["columns"]["test_accuracy"] == MEANING
    row = content["rows"][1]
    assert list(row) == list(content["columns"])
    assert (row["criterion"], row["sparsity"], row["test_accuracy"], row["test_accuracy_sd"]) == (
        "snip",
        0.9,
        0.8,
        None,
    )
    assert (row["minimal-l2"], row["seeds"]) == ("inf", 1)


MEANING = "accuracy on the test set after the last epoch, in [0, 1]; mean over seeds"


def test_what_columns_are_is_in_the_documentation() -> None:
    text = Path(__file__).parents[2].joinpath("docs", "reports.md").read_text(encoding="utf-8")
    for name, meaning in metrics.MEANINGS.items():
        assert f"| `{name}` | {meaning} |" in text
