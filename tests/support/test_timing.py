"""What is measured of time and memory: warm-ups, medians, peaks."""

import ctypes
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
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.support import timing
from pai_bench.support.timing import WARM_ROUNDS, Timing, interquartile_range, repeat
from tests.experiment.test_runner import blobs

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


@pytest.mark.parametrize(("memory", "peak"), [(None, 30), (True, 30), (False, None)])
def test_time_and_memory_on_a_gpu_are_those_of_the_block(
    memory: bool | None, peak: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host waits for earlier work, and then for that of the block; an earlier peak of memory does not count."""
    queued, done = ["earlier"], list[str]()
    now, most = 100, 500

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, _stream: object) -> None:
            queued.append("event")

        def elapsed_time(self, _other: "Event") -> float:
            assert not queued
            return 1500.0

    def synchronize(_device: torch.device) -> None:
        done.extend(queued)
        queued.clear()

    def reset(_device: torch.device) -> None:
        nonlocal most
        most = now

    answers: dict[str, Any] = {"synchronize": synchronize, "Event": Event, "reset_peak_memory_stats": reset}
    answers |= {"current_stream": lambda _device: "stream", "memory_allocated": lambda _device: now}
    answers |= {"max_memory_allocated": lambda _device: most}
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    with timing.measured(torch.device("cuda"), memory=memory) as found:
        assert (done, queued) == (["earlier"], ["event"])
        queued.append("work")
        most = max(most, 130)
    assert done == ["earlier", "event", "work", "event"]
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
