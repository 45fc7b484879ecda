"""Results of benchmarks: tables by hand, figures, and reports with nothing else in them."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pai_bench.cli.entry import main
from pai_bench.report import benchmarks
from pai_bench.results import BenchmarkResult, Provenance, Store
from pai_bench.support.identity import digest
from tests.report.records import ENVIRONMENT


def result(name: str = "snip", **changes: Any) -> BenchmarkResult:
    """A check that has passed."""
    values: dict[str, Any] = {
        "stage": "correct", "group": "scores", "version": 1, "status": "passed", "reason": None,
        "values": {"mlp": 1e-6, "largest": 2e-5}, "limits": {"mlp": 1e-4, "largest": 1e-4}, "bar": "largest",
        "seconds": 0.5, "device": "cpu", "environment": ENVIRONMENT, "provenance": Provenance(commit="abc"),
    }  # fmt: skip
    return BenchmarkResult(name=name, **values | changes)


def test_a_table_by_hand() -> None:
    failed = result("grasp", status="failed", reason="largest is 0.2", values={"largest": 0.2})
    looser = result("er", limits={"mlp": 1e-4, "largest": 1.0})
    assert benchmarks.table([result(), failed]) == [
        ["", "result", "mlp (≤ 0.0001)", "largest (≤ 0.0001)", "note"],
        ["snip", "passed", "1e-06", "2e-05", ""],
        ["grasp", "failed", "", "0.2", "largest is 0.2"],
    ]
    assert benchmarks.table([result(), looser]) == [
        ["", "result", "mlp (≤ 0.0001)", "largest"],
        ["snip", "passed", "1e-06", "2e-05 (≤ 0.0001)"],
        ["er", "passed", "1e-06", "2e-05 (≤ 1)"],
    ]


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("median seconds", 0.0123, "12.3 ms"), ("seconds", 2e-5, "20 µs"), ("peak bytes", 2**21, "2 MiB"),
        ("steps per second", 123456.7, "123,457"), ("count", 0, "0"), ("share", 0.25, "0.25"),
        ("way", "branches", "branches"),
    ],
)  # fmt: skip
def test_units(key: str, value: Any, text: str) -> None:
    assert benchmarks.written(key, value) == text


def test_names_without_a_number_come_first() -> None:
    names = ["10 networks", "0 networks", "networks", "2,5 networks"]
    assert sorted(names, key=benchmarks.natural) == ["networks", "0 networks", "2,5 networks", "10 networks"]


def test_groups_devices_and_order() -> None:
    other: dict[str, Any] = {"device": "cuda", "environment": dataclasses.replace(ENVIRONMENT, device="NVIDIA X")}
    found = [result("16 networks"), result("4 networks"), result(group="selection"), result(**other)]
    names = [[(one.group, one.device, one.name) for one in group] for group in benchmarks.groups(found)]
    assert names == [
        [("scores", "cuda", "snip")],
        [("scores", "cpu", "4 networks"), ("scores", "cpu", "16 networks")],
        [("selection", "cpu", "snip")],
    ]
    assert len({one.identity for one in found}) == 4
    assert result(version=2).identity != result().identity


def test_a_report_of_nothing_else() -> None:
    store = Store("r", create=True)
    store.write(result())
    store.write(result("grasp", status="failed", reason="largest 0.2 is above 0.0001"))
    store.write(result("tf32", status="skipped", reason="needs CUDA", values={}, limits={}))
    store.write(result("zero", values={"largest": 0}, group="selection"))
    assert len(store.read_all(BenchmarkResult)) == 4
    assert main(["report", "r"]) == 0
    page = Path("r/report.md").read_text()
    assert page.startswith("# Pruning at initialisation: checks and measurements")
    assert "| correct | a cpu | 2 | 1 | 1 | 0 |" in page
    assert "* correct: scores, a cpu, grasp: largest 0.2 is above 0.0001" in page
    assert "| tf32 | skipped |  |  | needs CUDA |" in page
    assert "* Benchmark environment: CPU; a cpu, 2 threads, Linux; torch 2 (4 rows)" in page
    figures = sorted(path.name for path in Path("r/figures").iterdir())
    assert figures == ["report-measured-correct-scores-a-cpu.svg", "report-measured-correct-selection-a-cpu.svg"]
    assert all(f"figures/{name}" in page for name in figures)
    assert main(["report", "r", "-o", "r/benchmarks/x.md"]) == 2  # not among the results


def test_a_figure_shows_values_and_limits() -> None:
    store = Store("r", create=True)
    store.write(result("small", values={"largest": 1e-9}))
    store.write(result("large", values={"largest": 3.0}, status="failed", reason="too large"))
    assert main(["report", "r"]) == 0
    figure = Path("r/figures/report-measured-correct-scores-a-cpu.svg").read_text()
    assert all(f">{text}<" in figure for text in ("small", "large", "1e-09", "3", "largest (logarithmic)"))


@pytest.mark.parametrize(
    "field", [{"environment": {}}, {"values": {"x": []}}, {"values": None}, {"status": "fine"}, {"seconds": -1.0},
              {"limits": {"x": "y"}}, {"provenance": []}, {"bar": 3}]
)  # fmt: skip
def test_a_damaged_result_is_left_out(field: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    store = Store("r", create=True)
    store.write(result())
    damaged = dataclasses.replace(result(), **field)
    (store.path / "benchmarks" / f"damaged-{digest(damaged.settings)}.json").write_text(damaged.to_json())
    assert store.read_all(BenchmarkResult) == [result()]
    assert "/damaged-" in caplog.text
    assert "a field" in caplog.text
    assert main(["report", "r"]) == 0
