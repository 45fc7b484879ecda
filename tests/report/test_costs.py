"""The part of a report about costs: its tables and sentences by hand."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import pai_bench as pb
from pai_bench.cli.entry import main
from pai_bench.report import costs, pytest_benchmark, tables
from pai_bench.results import BesideDense, SmallerNetwork, Store
from tests.report.records import ENVIRONMENT, cost, smaller_network


def criterion(name: str) -> dict[str, Any]:
    return {"criterion": {"name": name, "schedule": "linear:steps=2", "revision": 1, "options": []}}


def test_a_table_of_several_criteria() -> None:
    """The median step is 0.2 s; of each mode of batch norm, the median bare pass, and the largest peak known."""
    own = {"batch_norm": "train", "floor_seconds": 0.4, "floor_peak_bytes": None, "step_seconds": 0.2}
    rows = [
        cost(step_seconds=0.1),
        cost(criterion("grasp"), seconds=0.8, **own),
        cost(criterion("force"), seconds=1.0, prune_rounds=3, prune_cold=False, **(own | {"step_seconds": 0.5})),
        cost(criterion("er"), seconds=2.0, rounds=1, **(own | {"floor_seconds": 1.0, "floor_peak_bytes": 5 * 2**20})),
        cost(criterion("erk"), seconds=3.0, **(own | {"floor_peak_bytes": 4 * 2**20})),
    ]
    found = [" | ".join(row) for row in costs.table(rows)[1:]]
    cold = "600 ms | once, cold | 3 | not measured"
    assert found == [
        "(bare pass) | – | 200 ms |  | 1 | 1 | 2 MiB |  |  |  |  | ",
        "(bare pass) | train | 400 ms |  | 1 | 2 | 5 MiB |  |  |  |  | ",
        f"snip | – | 300 ms | 10 ms (5) | 1.5 | 1.5 | 3 MiB | one-shot | {cold}",
        f"grasp | train | 800 ms | 10 ms (5) | 2 | 4 | 3 MiB | linear:steps=2 | {cold}",
        "force | train | 1 s | 10 ms (5) | 2.5 | 5 | 3 MiB | linear:steps=2 | 600 ms | 0 ms (3) | 3 | not measured",
        f"er | train | 2 s | (1) | 2 | 10 | 3 MiB | linear:steps=2 | {cold}",
        f"erk | train | 3 s | 10 ms (5) | 7.5 | 15 | 3 MiB | linear:steps=2 | {cold}",
    ]


def test_a_table_of_smaller_networks() -> None:
    """A row for each work: a dense network that takes 6 ms, 12 ms and 30 ms, and a smaller one that takes 2 ms less."""
    one, many, step = (
        BesideDense(rounds=5, cold=cold, seconds=ms / 1000 - 0.002, iqr=0.001, dense_seconds=ms / 1000, dense_iqr=0.003)
        for ms, cold in ((6, False), (12, False), (30, True))
    )
    left = {"node_sparsity": 0.25, "weight_sparsity": 0.5, "flop_sparsity": 0.999}
    smaller = SmallerNetwork(**left, forward_1=one, forward_128=many, training_step=step)
    rows = [cost(criterion("snap") | {"sparsity_of": "nodes"}, smaller=smaller), cost(criterion("snip"))]
    assert [" | ".join(row) for row in costs.smaller_table(rows)] == [
        "criterion | nodes left | weights left | FLOPs left | work | dense | ± IQR | smaller | ± IQR (n) | "
        "dense ÷ smaller",
        "snap | 75 | 50 | 0.1 | forward pass, 1 example | 6 ms | 3 ms | 4 ms | 1 ms (5) | 1.5",
        "snap | 75 | 50 | 0.1 | forward pass, 128 examples | 12 ms | 3 ms | 10 ms | 1 ms (5) | 1.2",
        "snap | 75 | 50 | 0.1 | training step | 30 ms |  | 28 ms | once, cold | 1.07",
    ]
    assert costs.smaller_table(rows[1:]) == []
    assert "score batch 10, sparsity of nodes 0.9, 2 threads" in costs.describe(rows[:1])


def test_the_section_of_smaller_networks(drawings: list[Any]) -> None:
    parts = costs.section([cost(criterion("snap"), smaller=smaller_network())], Path(), lambda title: Path("x.svg"))
    assert parts[-2] == costs.SMALLER_CAPTION
    assert parts[-1].count("\n| snap |") == 3
    assert drawings


def test_one_measurement_has_no_spread() -> None:
    _, *rows = costs.smaller_table([cost(criterion("snap"), smaller=smaller_network(rounds=1))])
    assert [row[6:9] for row in rows] == [["", "1 s", "(1)"]] * 3


def test_tables_of_several_sparsities_have_different_titles(drawings: list[Any]) -> None:
    rows = [cost({"sparsity": 0.5}), cost({"sparsity": 0.8}), cost({"sparsity": 0.8, "sparsity_of": "nodes"})]
    parts = costs.section(rows, Path(), lambda title: Path("x.svg"))
    headings = [part for part in parts if part.startswith("### ")]
    assert headings == [f"### net on d, a cpu, sparsity {own}" for own in ("0.5", "0.8", "of nodes 0.8")]
    assert costs.headings([rows[:1], rows[:1]]) == ["net on d, a cpu"] * 2
    assert drawings


def test_the_section(drawings: list[Any]) -> None:
    gpu: dict[str, Any] = {
        "device": "cuda",
        "environment": dataclasses.replace(ENVIRONMENT, device="an | X"),
        "seconds": 0.1,
    }
    batches = {"score_batches": 2, "protocol": {"batch_size": 64}}
    rows = [
        cost(criterion("er")),
        cost(seconds=0.2),
        cost(batches, step_seconds=0.3, weights=12345, **gpu),
        cost(**gpu),
    ]
    paths = iter(range(9))
    parts = costs.section(rows, Path(), lambda title: Path(f"{next(paths)} {title}.svg"))
    assert parts[:2] == ["## What scoring costs", costs.CAPTION]
    here = "scores and bare passes in fp32, weights contiguous; a training step on a batch of"
    assert [part for part in parts[2:] if not part.startswith("|")] == [
        "### net on d, a cpu",
        f"1,000 prunable weights, score batch 10, sparsity 0.9, 2 threads; {here} 4 takes 100 ms.",
        "![net on d, a cpu: scoring and pruning in training steps](0 cost net on d, a cpu.svg)",
        r"### net on d, an \| X",
        f"1,000 prunable weights, score batch 10, sparsity 0.9, 2 threads; {here} 4 takes 100 ms.",
        r"![net on d, an \| X: scoring and pruning in training steps](1 cost net on d, an | X.svg)",
        r"### net on d, an \| X",
        f"12,345 prunable weights, score batch 2 x 10, sparsity 0.9, 2 threads; {here} 64 takes 300 ms.",
        r"![net on d, an \| X: scoring and pruning in training steps](2 cost net on d, an | X.svg)",
        "### net on d, machine by machine",
        "![net on d, machine by machine](3 cost net on d, machine by machine.svg)",
    ]
    listed = [part for part in parts if part.startswith("|")]
    assert [part.count("\n| snip |") for part in listed] == [1, 1, 1, 1]
    assert listed[0].index("| snip |") < listed[0].index("| er |")  # the cheapest first
    assert listed[3].splitlines()[0] == (
        r"| criterion | score, a cpu | ÷ bare pass, a cpu | pruning, a cpu | score, an \| X | ÷ bare pass, an \| X | "
        r"pruning, an \| X |"
    )
    assert len(drawings) == 4
    assert drawings[3].axes[0].get_title() == "net on d, machine by machine"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (2**20 // 2, "0.5 MiB"), (999 * 2**20, "999 MiB"), (1023 * 2**20, "0.999 GiB"), (2**30, "1 GiB"),
        (3 * 2**30, "3 GiB"), (None, "not measured"), (int(999.5 * 2**20), "0.976 GiB"), (1000 * 2**20, "0.977 GiB"),
    ],
)  # fmt: skip
def test_sizes_have_no_exponent(count: int | None, text: str) -> None:
    assert tables.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.9994, "999 ms"),
        (0.9995, "1 s"),
        (0.9996, "1 s"),
        (1, "1 s"),
        (99.6, "99.6 s"),
        (100, "1:40 min"),
        (3599.6, "1:00:00 h"),
    ],
)
def test_durations_change_their_unit_where_their_digits_end(seconds: float, text: str) -> None:
    assert tables.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00123, "0.00123"), (1.5, "1.5"), (10, "10"), (999.4, "999"), (999.6, "1,000"), (1234, "1,230"),
        (-98765.4, "-98,800"), (1e15, "1e+15"), (9e15, "9e+15"), (float("nan"), "nan"),
    ],
)  # fmt: skip
def test_three_digits_that_count(value: float, text: str) -> None:
    assert tables.three_digits(value) == text


def test_large_costs_have_no_exponent_in_tables_and_figures(drawings: list[Any]) -> None:
    rows = [cost(seconds=123.4, floor_seconds=0.1, prune_seconds=234.5), cost(floor_seconds=0.1)]
    floor, first, _ = costs.table(rows)[1:]
    assert (floor[5], first[4], first[5], first[10]) == ("1", "1,230", "1,230", "2,340")
    costs.section(rows[:1], Path(), lambda title: Path("x.svg"))
    assert [text.get_text() for text in drawings[0].axes[0].texts] == ["1,230", "2,340"]


def test_benchmarks_by_group_and_name_on_a_machine_of_which_little_is_known() -> None:
    stats = {"median": 2.0, "iqr": 0.5, "min": 1.0, "rounds": 3}
    rows = [{"name": name, "group": group, "stats": stats} for group, name in (("z", "b"), ("z", "a"), (None, "c"))]
    Path("b.json").write_text(
        json.dumps({"benchmarks": rows, "machine_info": {"processor": "x86"}, "commit_info": {"id": "abc"}})
    )
    assert pytest_benchmark.section(Path("b.json")) == [
        "## Benchmarks",
        "Measured by pytest-benchmark (x86, Python ?; commit abc): median, interquartile range and shortest round.",
        "| group | benchmark | median | IQR | shortest | rounds | also measured |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| z | a | 2 s | 500 ms | 1 s | 3 |  |\n"
        "| z | b | 2 s | 500 ms | 1 s | 3 |  |\n"
        "| – | c | 2 s | 500 ms | 1 s | 3 |  |",
    ]
    Path("b.json").write_text(json.dumps({"benchmarks": []}))
    assert "(unknown processor, Python ?)" in pytest_benchmark.section(Path("b.json"))[1]


def test_units_by_hand() -> None:
    head, floor, row = costs.table([cost()])
    assert dict(zip(head[:7], row[:7], strict=True)) == {
        "criterion": "snip",
        "batch norm": "–",
        "score": "300 ms",
        "± IQR (n)": "10 ms (5)",
        "÷ bare pass": "1.5",
        "÷ step": "3",
        "peak memory": "3 MiB",
    }
    assert row[7:] == ["one-shot", "600 ms", "once, cold", "6", "not measured"]
    assert floor[:7] == ["(bare pass)", "–", "200 ms", "", "1", "2", "2 MiB"]


def test_seconds_on_a_device_stand_beside_the_others() -> None:
    inside: dict[str, Any] = {"device_seconds": 0.25, "floor_device_seconds": 0.15, "prune_device_seconds": 0.5}
    head, floor, row = costs.table([cost(device="cuda", **inside)])
    known = [i for i, name in enumerate(head) if name == "on the device"]
    assert [row[i] for i in known] == ["250 ms", "500 ms"]
    assert [floor[i] for i in known] == ["150 ms", ""]
    assert len(head) == len(floor) == len(row) == len(costs.table([cost()])[0]) + 2


def test_what_cannot_be_compared_stands_in_another_table() -> None:
    others = [
        cost(device="cuda", environment=dataclasses.replace(ENVIRONMENT, device="NVIDIA X")),
        cost({"model": "other"}),
        cost({"score_batch": 11}),
        cost({"score_batches": 2}),
        cost({"sparsity": 0.5}),
        cost({"protocol": {"batch_size": 5}}),
        cost(environment=dataclasses.replace(ENVIRONMENT, threads=1)),
        cost(precision="tf32"),
        cost(memory_format="channels-last"),
    ]
    assert [len(group) for group in costs.groups([cost(), *others])] == [1] * 10
    same = [cost(), cost({"criterion": {"name": "er", "schedule": "one-shot"}}), cost({"scope": "layerwise"})]
    assert [len(group) for group in costs.groups(same)] == [3]
    assert [costs.label(one) for one in same] == ["snip", "er", "snip, layerwise"]
    assert len({one.identity for one in (*others[:-2], *same)}) == 10


def test_machines_side_by_side() -> None:
    gpu: dict[str, Any] = {
        "device": "cuda",
        "environment": dataclasses.replace(ENVIRONMENT, device="NVIDIA X"),
        "prune_seconds": 0.01,
    }
    er = {"criterion": {"name": "er", "schedule": "one-shot", "revision": 1, "options": []}}
    found = [cost(), cost(seconds=0.004, floor_seconds=0.002, **gpu), cost(er, seconds=0.001, **gpu)]
    (group,) = costs.on_several_machines([*found, cost({"model": "other"})])
    assert costs.machines_table(group) == [
        ["criterion", "score, NVIDIA X", "÷ bare pass, NVIDIA X", "pruning, NVIDIA X",
         "score, a cpu", "÷ bare pass, a cpu", "pruning, a cpu"],
        ["er", "1 ms", "0.005", "10 ms", "", "", ""],
        ["snip", "4 ms", "2", "10 ms", "300 ms", "1.5", "600 ms"],
    ]  # fmt: skip
    assert costs.seconds_of(group) == {"NVIDIA X": {"er": 0.001, "snip": 0.004}, "a cpu": {"snip": 0.3}}
    store = Store("r", create=True)
    for one in found:
        store.write(one)
    assert main(["report", "r"]) == 0
    page = Path("r/report.md").read_text()
    assert "### net on d, machine by machine" in page
    assert "report-cost-net-on-d-machine-by-machine.svg" in page
    other = cost(environment=dataclasses.replace(ENVIRONMENT, threads=1))
    assert sorted(costs.machine_names([cost(), other]).values()) == [
        "a cpu (torch 2, 1 threads)",
        "a cpu (torch 2, 2 threads)",
    ]


def test_a_folder_with_costs_alone_has_a_report() -> None:
    Store("r", create=True).write(cost())
    assert main(["report", "r"]) == 0
    assert Path("r/report.md").read_text().startswith("# Pruning at initialisation: what it costs")
    with pytest.raises(pb.UserError, match="has no trials, only measure"):
        pb.read_results("r")
