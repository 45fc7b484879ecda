"""The fixture that compares a function with its floor, and the table of ratios at the end of a run."""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.report import write_report
from pai_bench.support.environment import describe
from pai_bench.support.timing import measured, synchronise

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

_rows: list[dict[str, Any]] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option ``--speed-report``."""
    parser.addoption("--speed-report", metavar="FILE", help="write the measurements as markdown, with a figure")


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each available device."""
    return torch.device(request.param)


CompareWithFloor = Callable[..., None]


@pytest.fixture
def compare_with_floor(benchmark: Any, device: torch.device) -> CompareWithFloor:
    """A function that measures `work` and its `floor` in turn, so that other load on the machine affects both.

    Medians and interquartile ranges are in seconds, peaks of memory in bytes. ``ratio`` is the median divided by that
    of the floor; `target` is its largest acceptable value. `work` does the work of the floor `times` times, and its
    seconds are divided by this number. `counts` says how many items, such as images, the floor processes.
    Without `warm`, there is no first round without measurement, and memory is not measured.
    """

    def run(
        work: Callable[[], Any],
        floor: Callable[[], Any],
        *,
        group: str,
        target: float | None = None,
        rounds: int = 3,
        warm: bool = True,
        times: int = 1,
        **counts: int,
    ) -> None:
        floors: list[float] = []

        def measure_floor() -> None:
            synchronise(device)
            start = time.perf_counter()
            floor()
            synchronise(device)
            floors.append(time.perf_counter() - start)

        def synchronised() -> None:
            work()
            synchronise(device)

        benchmark.group = f"{group}, {device}"
        benchmark.pedantic(synchronised, setup=measure_floor, rounds=rounds, warmup_rounds=int(warm))
        peaks: list[int | None] = []
        for function in (floor, work) if warm else ():
            with measured(device, memory=True) as measurement:
                function()
            peaks.append(measurement.peak_bytes)
        stats, median, base = (
            benchmark.stats.stats,
            benchmark.stats.stats.median / times,
            statistics.median(floors[int(warm) :]),
        )
        benchmark.extra_info |= {
            "median_seconds": median,
            "iqr_seconds": stats.iqr / times,
            "floor_seconds": base,
            "ratio": median / base,
            "target": target,
            "floor_peak_bytes": peaks[0] if peaks else None,
            "peak_bytes": peaks[1] if peaks else None,
            **{f"{item}_per_second": count / median for item, count in counts.items()},
            **{f"floor_{item}_per_second": count / base for item, count in counts.items()},
            **describe(device),
        }
        _rows.append({"group": benchmark.group, "name": benchmark.name, **benchmark.extra_info})

    return run


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the ratios to the floors, by group."""
    for row in sorted(_rows, key=lambda row: row["group"]):
        target = "" if row["target"] is None else f", target {row['target']:.3g}"
        memory = ""
        if row["peak_bytes"] is not None:
            memory = f", peak {row['peak_bytes'] / 2**20:.0f} MiB (floor {row['floor_peak_bytes'] / 2**20:.0f})"
        seconds = f"{row['median_seconds']:.4g} s (IQR {row['iqr_seconds']:.2g})"
        line = f"{row['group']}: {row['name']}: {seconds}, {row['ratio']:.3g} x floor{target}{memory}"
        terminalreporter.write_line(line)
    if (path := config.getoption("--speed-report")) and _rows:
        write_report(Path(path), _rows, sys.argv)
        terminalreporter.write_line(f"report: {path}")
