"""Measurements that can be right or wrong: memory, medians, ratios; and how costs are stored and shown."""

import time
from pathlib import Path

import pytest
import torch

import pai_bench as pb
from pai_bench.cli import main
from pai_bench.report import costs
from pai_bench.store import Cost, Store
from pai_bench.timing import Timing, measured, repeat

CPU = torch.device("cpu")


def test_peak_memory_is_that_of_what_was_alive_at_once() -> None:
    held = torch.ones(10_000_000)
    with measured(CPU) as one:
        for _ in range(3):
            held = held * 2  # 40 MB beside the 40 MB that were there
    assert one.peak_bytes is not None
    assert 35e6 < one.peak_bytes < 60e6
    assert one.seconds > 0


def test_medians_and_quartiles_by_hand() -> None:
    timing = Timing((4.0, 1.0, 2.0, 3.0, 10.0), (1.5, 0.5, 2.5))
    assert timing.median == 3.0
    assert timing.iqr == 2.0  # quartiles 2 and 4
    assert timing.ratio == 2.0
    assert Timing((1.0,)).iqr == 0.0
    assert Timing((1.0,)).ratio is None


def test_work_and_floor_take_turns_after_a_warm_up() -> None:
    calls: list[str] = []
    timing = repeat(lambda: calls.append("work"), CPU, floor=lambda: calls.append("floor"), rounds=3)
    assert calls == ["floor", "work"] * 4
    assert len(timing.seconds) == len(timing.floors) == 3


def test_what_takes_longer_than_its_budget_is_measured_once() -> None:
    calls: list[float] = []

    def work() -> None:
        calls.append(time.perf_counter())
        time.sleep(0.02)

    timing = repeat(work, CPU, rounds=5, budget=0.03)
    assert len(calls) == 1
    assert timing.median >= 0.02


ARGUMENTS = ["time", "--criteria", "snip,er", "--models", "lenet-300-100", "--rounds", "2", "--seconds", "2"]


def test_the_verb_prints_stores_and_reports(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ARGUMENTS, "--schedule", "linear:steps=3", "--device", "cpu", "--score-batch", "20"]) == 0
    out = capsys.readouterr().out
    assert "266,200 prunable weights, score batch 20" in out
    for word in ("snip", "er", "(bare pass)", "÷ training step", "peak memory", "report: results/report.md"):
        assert word in out
    stored = {cost.criterion: cost for cost in Store("results").read_costs()}
    assert stored.keys() == {"snip", "er"}
    snip = stored["snip"]
    assert (snip.weights, snip.cuts, snip.score_batch, snip.step_batch, snip.rounds) == (266_200, 3, 20, 32, 2)
    assert min(snip.seconds, snip.floor_seconds, snip.prune_seconds, snip.step_seconds) > 0
    assert snip.prune_seconds > snip.seconds
    assert snip.environment["versions"]["torch"] == torch.__version__.partition("+")[0]
    page = Path("results/report.md").read_text()
    assert "## What scoring costs" in page
    assert "pai-bench time --criteria snip,er" in page
    (figure,) = Path("results/figures").glob("*.svg")
    assert figure.name in page
    # again: the same places, and a sweep's report keeps the section
    assert main([*ARGUMENTS, "--schedule", "linear:steps=3", "--device", "cpu", "--score-batch", "20"]) == 0
    assert len(Store("results").read_costs()) == 2
    sweep = ["run", "--models", "lenet-300-100", "--seeds", "1", "--epochs", "0", "--sparsities", "0.5"]
    assert main([*sweep, "--criteria", "er"]) == 0
    page = Path("results/report.md").read_text()
    assert "## lenet-300-100 on digits" in page
    assert "## What scoring costs" in page


ENVIRONMENT = {"device": "CPU", "processor": "a cpu", "versions": {"torch": "2"}, "system": "Linux", "threads": 2}


def cost(**changes: object) -> Cost:
    """A cost with round numbers."""
    values: dict[str, object] = {
        "data": "d", "model": "net", "weights": 1000, "criterion": "snip", "schedule": "one-shot", "cuts": 1,
        "sparsity": 0.9, "score_batch": 10, "batch_norm": None, "rounds": 5, "seconds": 0.3, "iqr": 0.01,
        "peak_bytes": 3 * 2**20, "floor_seconds": 0.2, "floor_peak_bytes": 2 * 2**20, "prune_seconds": 0.6,
        "prune_iqr": 0.02, "prune_rounds": 5, "prune_peak_bytes": None, "step_seconds": 0.1, "step_batch": 4,
        "device": "cpu", "environment": ENVIRONMENT, "provenance": {"commit": "abc"},
    }  # fmt: skip
    return Cost(**values | changes)  # type: ignore[arg-type]


def test_units_by_hand() -> None:
    head, floor, row = costs.table([cost()])
    assert dict(zip(head[:7], row[:7], strict=True)) == {
        "criterion": "snip",
        "batch norm": "–",
        "score": "300 ms",
        "± IQR": "10 ms",
        "÷ bare pass": "1.5",
        "÷ training step": "3",
        "peak memory": "3 MiB",
    }
    assert row[7:] == ["1", "600 ms", "6", "not measured"]
    assert floor[:7] == ["(bare pass)", "–", "200 ms", "", "1", "2", "2 MiB"]


def test_other_networks_and_devices_are_other_tables() -> None:
    gpu = cost(device="cuda", environment=ENVIRONMENT | {"device": "NVIDIA X"})
    assert list(costs.groups([cost(), gpu, cost(model="other")])) == [
        "net on d, a cpu",
        "net on d, NVIDIA X",
        "other on d, a cpu",
    ]
    assert len({c.identity for c in (cost(), gpu, cost(score_batch=11), cost(batch_norm="train"))}) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "rounds 0 must be at least 1"),
        (["--criteria", "snipp"], "unknown criterion 'snipp'"),
        (["--sparsity", "95"], "sparsity 95 is outside"),
        (["--models", "vggg"], "unknown model"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["time", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_file_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    store = Store("r", create=True)
    store.write_cost(cost())
    (store.costs / "damaged.json").write_text("{")
    assert store.read_costs() == [cost()]
    assert "damaged.json cannot be read" in caplog.text


def test_a_folder_with_costs_alone_has_a_report() -> None:
    Store("r", create=True).write_cost(cost())
    assert main(["report", "r"]) == 0
    assert Path("r/report.md").read_text().startswith("# Pruning at initialisation: what it costs")
    with pytest.raises(pb.UserError, match="has no results"):
        Store("r/costs")
