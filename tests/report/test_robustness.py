"""The part of a report about robustness, of records with metrics of attacks."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from pai_bench.report import pairs, robustness
from pai_bench.report.page import write_report
from pai_bench.report.summary import Comparison, comparisons
from pai_bench.results import Measured, Record, TrialMetrics, as_frame
from tests.report.records import record, stored

SMALL, LARGE, MINIMAL = "verdict-linf:eps=0.1", "verdict-linf:eps=0.2", "minimal-l2"

POINTS = ((None, 0.0, 0.6), ("snip", 0.9, 0.5), ("random", 0.9, 0.4), ("snip", 0.98, 0.3))
"""Criterion, sparsity, and robust accuracy at the small eps; half of it at the large one."""


def verdict(name: str, robust: float, *, warned: bool = False, constant: bool = False) -> dict[str, Any]:
    """The columns of a verdict."""
    found = {"": robust, ".clean": 0.9, ".fgsm": robust, ".pgd": robust, ".constant": float(constant)}
    found |= {".warnings": float(warned), ".examples": 500.0, ".seconds": 12.0, ".warning_seconds": 3.0}
    notes = {".notes": "zero-gradients; transfer"} if warned else {}
    return {name + key: value for key, value in (found | notes).items()}


def minimal(median: float | None) -> dict[str, Any]:
    """The columns of the smallest changes."""
    values = {"": median, ".found": float(median is not None), ".examples": 500.0, ".seconds": 4.0}
    return {MINIMAL + key: value for key, value in values.items()}


def attacked(criterion: str | None, sparsity: float, seed: int, metrics: dict[str, Any]) -> Record:
    made = record(criterion, sparsity, seed, 0.9)
    return replace(made, evaluation=replace(made.evaluation, metrics=metrics))


def records(seeds: int = 6) -> list[Record]:
    """The points; snip is a little robuster with every other seed, and random is warned of."""
    found = []
    for seed in range(seeds):
        for criterion, sparsity, robust in POINTS:
            metrics = verdict(SMALL, robust + (seed % 3) / 500 * (criterion == "snip"), warned=criterion == "random")
            metrics |= verdict(LARGE, robust / 2) | minimal(1.5)
            found.append(attacked(criterion, sparsity, seed, metrics))
    return found


def compared(all_records: list[Record]) -> Comparison:
    (made,) = comparisons(as_frame(all_records))
    return made


def parts_of(comparison: Comparison) -> tuple[Any, ...]:
    return comparison, robustness.verdicts(comparison.rows), robustness.minima(comparison.rows)


def test_verdicts_and_minima_are_found_by_their_columns() -> None:
    metrics = verdict("verdict-l2:eps=0.5:effort=full:n=100", 0.5) | verdict(LARGE, 0.1) | verdict(SMALL, 0.2)
    rows = as_frame([attacked("snip", 0.9, 0, metrics)])
    assert [str(one) for one in robustness.verdicts(rows)] == ["Linf 0.1", "Linf 0.2", "L2 0.5 (effort full, n 100)"]
    assert robustness.minima(rows) == []
    assert robustness.verdicts(as_frame([record("snip", 0.9, 0, 0.9)])) == []


def test_the_table_tells_bounds_and_means() -> None:
    head, *body = robustness.table(*parts_of(compared(records())))
    assert head == ["criterion", "sparsity", "clean", "Linf 0.1", "Linf 0.2", "minimal-l2"]
    assert body[0] == ["dense", "0", "90.00 ± 0.00", "60.00 ± 0.00", "30.00 ± 0.00", "1.5"]
    by_name = {(row[0], row[1]): row for row in body}
    assert by_name["random", "0.9"][3] == "≤ 40.00 ± 0.00"
    assert by_name["snip", "0.98"][3] == "30.20 ± 0.18"


def test_what_attacks_took_and_their_warnings() -> None:
    head, small, large, smallest = robustness.attacks(*parts_of(compared(records())))
    assert head == ["metric", "networks", "effort", "examples", "seconds per network", "for warnings", "warnings"]
    assert small == ["verdict-linf:eps=0.1", "24", "quick", "500", "12 s", "3 s", "zero-gradients (6), transfer (6)"]
    assert large[-1] == ""
    assert smallest[:5] == ["minimal-l2", "24", "quick", "500", "4 s"]
    name = "verdict-l2:eps=1.0:effort=full:n=20"
    made = compared([attacked("snip", 0.9, 0, verdict(name, 0.1))])
    assert robustness.attacks(*parts_of(made))[1][2] == "full"


def test_an_infinite_median_and_a_constant_network() -> None:
    snip = attacked("snip", 0.9, 0, minimal(None) | verdict(SMALL, 0.1, constant=True))
    made = compared([attacked(None, 0.0, 0, minimal(None) | verdict(SMALL, 0.5)), snip])
    _, dense, pruned = robustness.table(*parts_of(made))
    assert dense[-1] == pruned[-1] == "∞"
    assert pruned[3] == "10.00 (constant)"
    assert robustness.attacks(*parts_of(made))[1][-1] == "1 constant network"


def test_paired_statistics_are_of_the_robust_accuracy() -> None:
    made = robustness.attacked(compared(records()), SMALL)
    assert made.cell("snip", 0.9).accuracies == pytest.approx([0.5 + (seed % 3) / 500 for seed in range(6)])
    assert made.resolution == pytest.approx(100 / 500)
    (pair,) = pairs.pairs(made)
    assert (pair.better, pair.worse, pair.significant) == ("snip", "random", True)
    assert pair.difference.estimate.mean == pytest.approx(10.2)


def test_networks_at_chance_are_not_compared() -> None:
    """A network that names all examples as one class is right on a tenth of them, whatever is done to these."""
    made = [attacked("snip", 0.9, seed, verdict(SMALL, 0.02)) for seed in range(7)]
    for seed in range(7):
        constant = record("random", 0.9, seed, 0.1)
        metrics = verdict(SMALL, 0.1 + seed / 500, constant=True)
        made.append(replace(constant, evaluation=replace(constant.evaluation, metrics=metrics)))
    one = robustness.attacked(compared(made), SMALL)
    assert one.cell("random", 0.9).accuracies  # which tables and figures show
    assert pairs.pairs(robustness.above_chance(one)) == []
    few = [*made[:9], *(attacked("random", 0.9, seed, verdict(SMALL, 0.01)) for seed in range(2, 7))]
    (pair,) = pairs.pairs(robustness.above_chance(robustness.attacked(compared(few), SMALL)))
    assert (pair.better, pair.difference.seeds, pair.collapsed) == ("snip", 5, "")


def test_nothing_is_tested_of_networks_that_were_trained_on_random_labels(tmp_path: Path) -> None:
    noises: tuple[tuple[float | Literal["permute"], bool], ...] = ((1.0, False), ("permute", False), (0.5, True))
    for noise, tested in noises:
        made = replace(compared(records()), label_noise=noise)
        text = "".join(robustness.parts(made, tmp_path, Path("a.svg"), Path("b.svg")))
        assert ("All pairs of criteria" in text) == tested


def test_zero_under_attack_is_no_network_at_chance() -> None:
    low = [attacked("snip", 0.9, seed, verdict(SMALL, 0.0)) for seed in range(3)]
    assert not robustness.attacked(compared(low), SMALL).cell("snip", 0.9).collapsed


def test_a_report_has_the_part_with_its_figures() -> None:
    store = stored("r", [replace(one, evaluation=replace(one.evaluation, metrics={})) for one in records()])
    for one in records():
        by_metric: dict[str, dict[str, float]] = {}
        for column, value in one.evaluation.metrics.items():
            if isinstance(value, float):
                name = next(name for name in (SMALL, LARGE, MINIMAL) if column.startswith(name))
                by_metric.setdefault(name, {})[column.removeprefix(name).removeprefix(".")] = value
        measured = {name: Measured(values=values, environment={}, provenance={}) for name, values in by_metric.items()}
        store.write(TrialMetrics(identity=one.identity, metrics=measured))
    text = write_report(store, Path("report.md")).read_text()
    assert "### Robustness" in text
    assert "| random | 0.9 | 90.00 ± 0.00 | ≤ 40.00 ± 0.00 |" in text
    assert "All pairs of criteria, robust accuracy, Linf 0.1" in text
    assert "#### Attacks" in text
    figures = " ".join(path.name for path in Path("figures").iterdir())
    assert "robust" in figures
    assert "security" in figures
