"""A report of 10,000 records, compared with reading them as JSON and saving as many empty figures."""

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from benchmarks.conftest import CompareWithFloor
from pai_bench.results import Store
from tests.report.records import drawn

CRITERIA = ("random", "er", "erk", "magnitude", "snip", "iter-snip", "snip-it", "force", "grasp", "synflow")
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995)
NETWORKS = SEEDS = 10


def test_report(compare_with_floor: CompareWithFloor, device: torch.device, tmp_path: Path) -> None:
    """The command, with its start, on ten networks, criteria, sparsities and seeds. It should take below 20 s."""
    if device.type != "cpu":
        pytest.skip("reports are made on a CPU")
    store, page = Store(tmp_path / "results", create=True), tmp_path / "report.md"
    draw = np.random.default_rng(0)
    for network, criterion, sparsity, seed in product(range(NETWORKS), CRITERIA, SPARSITIES, range(SEEDS)):
        accuracy = 0.98 - 0.02 * sparsity - 0.01 * draw.random()
        store.write(drawn(criterion, sparsity, seed, accuracy, trial={"model": f"net{network}"}))
    command = [sys.executable, "-m", "pai_bench", "report", str(store.path), "-o", str(page)]
    subprocess.run(command, check=True, capture_output=True)
    figures = len(list((tmp_path / "figures").iterdir()))

    def floor() -> None:
        for path in sorted(store.trials.iterdir()):
            json.loads(path.read_text(encoding="utf-8"))
        for _ in range(figures):
            figure = Figure()
            figure.subplots()
            figure.savefig(tmp_path / "empty.svg")

    compare_with_floor(
        lambda: subprocess.run(command, check=True, capture_output=True),
        floor,
        group=f"report of {NETWORKS * len(CRITERIA) * len(SPARSITIES) * SEEDS:,} records",
        warm=False,
    )
