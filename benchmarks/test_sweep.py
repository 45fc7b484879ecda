"""Overhead of sweeps: trials without training, compared with building, testing and storing as many networks."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

import pai_bench as pb
from benchmarks.conftest import CompareWithFloor
from pai_bench.cli.progress import Display
from pai_bench.evaluation import loss_and_accuracy
from pai_bench.execution import run_catalog
from pai_bench.experiment.resolve import resolve
from tests.experiment.test_runner import blobs, sweep, tiny


@pytest.mark.parametrize("trials", [500, 1000, 2000])
def test_untrained_trials(
    compare_with_floor: CompareWithFloor, device: torch.device, tmp_path: Path, trials: int
) -> None:
    """Random scores, no training. The ratio and the memory should not depend on the number of trials."""
    if device.type != "cpu":
        pytest.skip("the overhead is on the CPU only")
    data, folders, record = blobs(), itertools.count(), {}

    def work() -> None:
        with (tmp_path / "log").open("w") as log:
            catalog = resolve(sweep(criteria=["random"], seeds=trials // 2, epochs=0))
            records = run_catalog(catalog, tmp_path / f"{next(folders)}", listener=Display(Console(file=log)))
        record.update(json.loads(records[-1].to_json()))

    def floor() -> None:
        folder = tmp_path / f"{next(folders)}"
        folder.mkdir()
        for seed in range(trials):
            model = pb.create_model(tiny, input_shape=data.input_shape, num_classes=data.num_classes, seed=seed)
            loss_and_accuracy(model, data, data.test)
            (folder / "new").write_text(json.dumps(record, indent=1))
            (folder / "new").rename(folder / f"{seed}.json")

    group = f"{trials:,} trials without training"
    compare_with_floor(work, floor, group=group, rounds=1, trials=trials)
