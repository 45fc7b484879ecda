"""Measurements that can be right or wrong: memory, medians, ratios; and how costs are stored and shown."""

import ctypes
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.cli.entry import main
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.report import costs
from pai_bench.results import Cost, Provenance, Store
from pai_bench.support import timing
from pai_bench.support.identity import digest
from pai_bench.support.timing import WARM_ROUNDS, Timing, interquartile_range, repeat
from tests.experiment.test_runner import blobs
from tests.report.records import ENVIRONMENT

CPU = torch.device("cpu")


ALIVE = """
import torch
from pai_bench.support.timing import measured

held = torch.ones(10_000_000)
with measured(torch.device("cpu"), memory=True) as one:
    for _ in range(3):
        held = held * 2  # 40 MB beside the 40 MB that were there
assert one.seconds > 0
print(one.peak_bytes)
"""


def test_peak_memory_is_that_of_what_was_alive_at_once() -> None:
    """In a process of its own: what earlier tests have freed would lie in this one, and be counted when used again."""
    found = subprocess.run([sys.executable, "-c", ALIVE], capture_output=True, text=True, check=True)
    assert 35e6 < int(found.stdout) < 60e6


def test_medians_and_quartiles_by_hand() -> None:
    found = Timing((4.0, 1.0, 2.0, 3.0, 10.0), (1.5, 0.5, 2.5))
    assert found.median == 3.0
    assert found.iqr == 2.0  # quartiles 2 and 4
    assert found.ratio == 2.0
    assert interquartile_range(found.floors) == 1.0  # quartiles 1 and 2
    assert Timing((1.0,)).iqr == 0.0
    assert Timing((1.0,)).ratio is None


def test_work_and_floor_take_turns_after_a_warm_up() -> None:
    calls: list[str] = []
    found = repeat(lambda: calls.append("work"), CPU, floor=lambda: calls.append("floor"), rounds=3)
    assert calls == ["floor", "work"] * (WARM_ROUNDS + 3)
    assert not found.cold
    assert len(found.seconds) == len(found.floors) == 3
    assert found.device_seconds is found.floor_device_seconds is None


class Clock:
    """A clock that only work moves, and the device that does it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, memory: bool = False) -> None:
        self.now, self.calls = 0.0, 0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        for name, value in {"synchronise": None, "reset_peak": 0, "peak_bytes": 0}.items():
            monkeypatch.setattr(timing, name, lambda _device, value=value: value)
        monkeypatch.setattr(timing, "record_event", lambda device: None if device.type == "cpu" else Mark(self.now))

    def works(self, *seconds: float) -> Callable[[], None]:
        """Work that takes so long, the last number again and again."""

        def work() -> None:
            self.now += seconds[min(self.calls, len(seconds) - 1)]
            self.calls += 1

        return work


class Mark:
    """A mark on a device that starts a quarter of a second late and is done when the host is."""

    def __init__(self, now: float) -> None:
        self.now = now

    def elapsed_time(self, other: "Mark") -> float:
        return 1000 * (other.now - self.now) / 2


@pytest.mark.parametrize(
    ("device", "seconds", "rounds", "budget", "calls", "timed"),
    [
        ("cpu", (0.01,), None, 30, 3 + 20, 20),  # three rounds, and twenty
        ("cpu", (0.15,), None, 30, 3 + 7, 7),  # three rounds, and a second
        ("cpu", (0.3,), None, 30, 2 + 5, 5),  # half a second, and five rounds
        ("cpu", (2.0,), None, 30, 2 + 5, 5),
        ("cpu", (0.01,), 4, 30, 3 + 4, 4),
        ("cpu", (5.0,), None, 30, 2 + 5, 5),  # the last begins after 30 seconds
        ("cpu", (8.0,), None, 30, 2 + 2, 2),  # and here, after 24
        ("cpu", (20.0,), None, 30, 1 + 1, 1),
        ("cpu", (31.0,), None, 30, 1, 1),  # cold
        ("cpu", (4.0, 0.15), None, 30, 2 + 7, 7),  # the first round may be slow
        ("cuda", (0.01,), None, 30, 50 + 20, 20),
        ("cuda", (0.15,), None, 30, 4 + 7, 7),
        ("cuda", (0.3,), None, 30, 3 + 5, 5),
        ("cuda", (31.0,), None, 30, 1 + 1, 1),  # warm in any case
        ("cuda", (10.0, 0.01), 2, 30, 3 + 2, 2),
    ],
)
def test_rounds_and_seconds_of_the_warm_up_and_of_what_is_measured(
    device: str,
    seconds: tuple[float, ...],
    rounds: int | None,
    budget: float,
    calls: int,
    timed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    found = repeat(clock.works(*seconds), torch.device(device), rounds=rounds, budget=budget)
    assert abs(clock.calls - calls) <= (calls > 20)  # sums of hundredths of a second
    assert len(found.seconds) == timed
    assert found.cold == (calls == 1)
    assert found.median == pytest.approx(seconds[-1])
    if device == "cpu":
        assert found.device_seconds is None
    else:
        assert found.device_seconds == pytest.approx(seconds[-1] / 2)


@pytest.mark.parametrize(("budget", "peak"), [(30.0, 5), (0.0, 100)])
def test_memory_is_that_of_the_second_round_where_there_is_one(
    budget: float, peak: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, peaks = Clock(monkeypatch), iter([100, 5, *[1000] * 50])
    monkeypatch.setattr(timing, "peak_bytes", lambda _device: next(peaks))
    assert repeat(clock.works(0.1), CPU, budget=budget).peak_bytes == peak


@pytest.mark.gpu
def test_seconds_on_a_gpu_are_a_part_of_all() -> None:
    device = torch.device("cuda")
    one, other = torch.rand(2, 2000, 2000, device=device)
    found = repeat(lambda: one @ other, device, floor=lambda: one + other)
    assert found.device_seconds is not None
    assert found.floor_device_seconds is not None
    assert 0 < found.floor_device_seconds < found.device_seconds <= found.median
    assert found.peak_bytes == one.nbytes


ARGUMENTS = ["time", "--criteria", "snip,er", "--models", "lenet-300-100", "--rounds", "2", "--seconds", "2"]


def test_the_verb_prints_stores_and_reports(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ARGUMENTS, "--schedule", "linear:steps=3", "--device", "cpu", "--score-batch", "20"]) == 0
    out = capsys.readouterr().out
    assert "266,200 prunable weights, score batch 20" in out
    for word in ("snip", "er", "(bare pass)", "÷ step", "peak memory", "report: results/report.md"):
        assert word in out
    stored = {cost.trial["criterion"]["name"]: cost for cost in Store("results").read_all(Cost)}
    assert stored.keys() == {"snip", "er"}
    snip = stored["snip"]
    assert (snip.weights, snip.cuts, snip.trial["score_batch"], snip.rounds) == (266_200, 3, 20, 2)
    assert min(snip.seconds, snip.floor_seconds, snip.prune_seconds, snip.step_seconds) > 0
    assert snip.prune_seconds > snip.seconds
    assert snip.environment.versions["torch"] == torch.__version__.partition("+")[0]
    page = Path("results/report.md").read_text()
    assert "## What scoring costs" in page
    assert "pai-bench time --criteria snip,er" in page
    (figure,) = Path("results/figures").glob("*.svg")
    assert figure.name in page
    # again: the same places, and a sweep's report keeps the section
    assert main([*ARGUMENTS, "--schedule", "linear:steps=3", "--device", "cpu", "--score-batch", "20"]) == 0
    assert len(Store("results").read_all(Cost)) == 2
    sweep = ["run", "--models", "lenet-300-100", "--seeds", "1", "--epochs", "0", "--sparsities", "0.5"]
    assert main([*sweep, "--criteria", "er"]) == 0
    page = Path("results/report.md").read_text()
    assert "## lenet-300-100 on digits" in page
    assert "## What scoring costs" in page


def test_smaller_networks_are_timed_at_several_sparsities(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["time", "--criteria", "snap", "--models", "lenet-300-100", "--rounds", "1", "--seconds", "2"]
    assert main([*arguments, "--sparsity", "0.5,0.8", "--sparsity-of", "nodes", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert out.count("smaller networks beside the dense one") == 2
    assert "sparsity of nodes 0.8" in out
    found = {cost.trial["sparsity"]: cost.smaller for cost in Store("results").read_all(Cost)}
    assert {sparsity: one and one.node_sparsity for sparsity, one in found.items()} == {
        sparsity: pytest.approx(sparsity) for sparsity in (0.5, 0.8)
    }
    assert "forward pass, 128 examples" in Path("results/report.md").read_text()


TRIAL = {
    "data": "d", "model": "net", "seed": 0, "sparsity": 0.9, "train_fraction": 1.0,
    "criterion": {"name": "snip", "schedule": "one-shot", "revision": 1, "options": []},
    "scope": "global", "score_batch": 10, "score_sampling": "balanced", "protocol": {"batch_size": 4},
}  # fmt: skip


def cost(trial: dict[str, Any] | None = None, **changes: Any) -> Cost:
    """A cost with round numbers."""
    values: dict[str, Any] = {
        "trial": TRIAL | (trial or {}), "weights": 1000, "cuts": 1, "batch_norm": None, "rounds": 5, "cold": False,
        "seconds": 0.3, "iqr": 0.01, "peak_bytes": 3 * 2**20, "floor_seconds": 0.2, "floor_peak_bytes": 2 * 2**20,
        "prune_rounds": 1, "prune_cold": True, "prune_seconds": 0.6, "prune_iqr": 0.0, "prune_peak_bytes": None,
        "step_seconds": 0.1, "device": "cpu", "environment": ENVIRONMENT, "provenance": Provenance(commit="abc"),
        "precision": "fp32", "memory_format": "contiguous",
    }  # fmt: skip
    return Cost(**values | changes)


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


def test_a_cost_that_was_stored_without_seconds_on_the_device_is_read() -> None:
    old = {k: v for k, v in dataclasses.asdict(cost()).items() if not k.endswith("device_seconds")}
    assert Cost.from_json(json.dumps(old)) == cost()
    assert Cost.from_json(json.dumps(old)).identity == cost(device_seconds=0.1).identity
    for missing in ("peak_bytes", "seconds"):
        with pytest.raises(ValueError, match="missing or malformed"):
            Cost.from_json(json.dumps({k: v for k, v in old.items() if k != missing}))


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


def test_a_cost_of_an_earlier_version_is_read() -> None:
    store = Store("r", create=True)
    earlier = {k: v for k, v in dataclasses.asdict(cost()).items() if k not in ("precision", "memory_format")}
    (store.path / "costs").mkdir()
    (store.path / "costs" / f"{cost().identity}.json").write_text(json.dumps(earlier))
    assert store.read_all(Cost) == [cost()]


@pytest.mark.parametrize(
    "field", [{"environment": {}}, {"environment": None}, {"seconds": "a"}, {"seconds": -1.0}, {"floor_seconds": 0},
              {"step_seconds": 0}, {"provenance": []}, {"device_seconds": -1.0}, {"peak_bytes": "x"}, {"trial": {}}]
)  # fmt: skip
def test_a_damaged_cost_is_left_out(field: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    store = Store("r", create=True)
    store.write(cost())
    (store.path / "costs" / f"damaged-{digest(cost().settings)}.json").write_text(
        json.dumps(dataclasses.asdict(cost()) | field)
    )
    assert store.read_all(Cost) == [cost()]
    assert "/damaged-" in caplog.text
    assert "a field" in caplog.text
    assert main(["report", "r"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "rounds 0 must be at least 1"),
        (["--criteria", "snipp"], "unknown criterion 'snipp'"),
        (["--sparsity", "95"], "sparsity 95 is outside"),
        (["--models", "vggg"], "unknown model"),
        (["--seconds", "nan"], "seconds nan finite"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["time", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_file_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    store = Store("r", create=True)
    store.write(cost())
    (store.path / "costs" / "damaged.json").write_text("{")
    assert store.read_all(Cost) == [cost()]
    assert "damaged.json cannot be read" in caplog.text


def test_a_folder_with_costs_alone_has_a_report() -> None:
    Store("r", create=True).write(cost())
    assert main(["report", "r"]) == 0
    assert Path("r/report.md").read_text().startswith("# Pruning at initialisation: what it costs")
    with pytest.raises(pb.UserError, match="has no trials, only measure"):
        pb.read_results("r")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of memory")
@pytest.mark.parametrize("order", [["none", "quota:grasp"], ["quota:grasp", "none"]])
def test_memory_of_a_variant_that_scores_twice_is_its_own(order: list[str]) -> None:
    sweep = pb.Sweep(
        models=["lenet-5-caffe"],
        criteria=["random"],
        sparsities=[0.9],
        variants=order,
        seeds=1,
        epochs=0,
        score_batch=1000,
        device="cpu",
    )
    runner = Runner(resolve(sweep))
    peaks = {
        trial.variant_name: runner.run(trial).pruning.score_peak_bytes
        for trial in runner.catalog.trials
        if trial.criterion
    }
    # grasp alone keeps the activations of 1,000 examples: 20 x 24 x 24 in the first layer
    activations = 4 * 1000 * 20 * 24 * 24
    assert (peaks["none"] or 0) < activations < (peaks["quota:grasp"] or 0)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of memory")
@pytest.mark.parametrize("criterion", ["snip", "snip:micro-batch=10", "iter-snip"])
def test_the_memory_of_scoring_is_measured_beside_its_time(criterion: str) -> None:
    """At least one tensor as large as the weights is made.

    Not more, in each of at most two cuts, than six of those and the hidden layer's values and gradients on both sides
    of its ReLU: what one cut gives back is not always there for the next.
    """

    def wide(shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(shape[0], 100_000), nn.ReLU(), nn.Linear(100_000, classes))

    made = Runner(resolve(pb.Sweep(criteria=[criterion], models=[wide], data=[blobs()], epochs=0, device="cpu")))
    weights, activations = 4 * 100_000 * 8, 4 * 100_000 * 30
    for trial in made.catalog.trials[1:3]:
        mask, score = made.probe.mask(trial, made.inputs.model(trial))
        assert mask is not None
        assert score is not None
        assert score.peak_bytes is not None
        assert weights <= score.peak_bytes <= 2 * (6 * weights + 4 * activations)


def test_what_torch_is_asked_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host waits before and after a block; the device's own time is between the events that it puts there."""
    device, asked = torch.device("cuda"), list[Any]()

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing
            asked.append("event")

        def record(self, stream: object) -> None:
            asked.append(stream)

        def elapsed_time(self, _other: "Event") -> float:
            return 1500.0

    answers = {"synchronize": None, "current_stream": "stream", "reset_peak_memory_stats": None}

    def answering(name: str, value: Any) -> Callable[[object], Any]:
        def answer(_device: object) -> Any:
            asked.append(name)
            return value

        return answer

    for name, value in {**answers, "memory_allocated": 100, "max_memory_allocated": 130}.items():
        monkeypatch.setattr(torch.cuda, name, answering(name, value))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    reset, event = ["reset_peak_memory_stats", "memory_allocated"], ["event", "current_stream", "stream"]
    for memory, peak in ((None, 30), (True, 30), (False, None)):
        asked.clear()
        with timing.measured(device, memory=memory) as found:
            asked.append("work")
        before = ["synchronize", *(reset if memory is not False else []), *event]
        after = [*event, "synchronize", *(["max_memory_allocated"] if memory is not False else [])]
        assert asked == [*before, "work", *after]
        assert (found.peak_bytes, found.device_seconds) == (peak, 1.5)


@pytest.mark.parametrize(("platform", "asked"), [("linux", [0]), ("darwin", [])])
def test_freed_memory_is_given_back_before_memory_is_measured(
    platform: str, asked: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trimmed: list[int] = []
    monkeypatch.setattr(timing, "PROC", tmp_path)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: SimpleNamespace(malloc_trim=trimmed.append))
    assert timing.reset_peak(CPU) is None  # there is no status
    assert trimmed == asked
    assert (tmp_path / "clear_refs").read_text() == "5"
