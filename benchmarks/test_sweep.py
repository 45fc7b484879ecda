"""Sweeps of trials that do nothing, beside building and testing as many networks and writing as many files."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

import pai_bench as pb
from benchmarks.conftest import Beside
from pai_bench.cli.progress import Display
from pai_bench.evaluation import loss_and_accuracy
from pai_bench.execution import run_catalog
from pai_bench.experiment.resolve import resolve
from tests.experiment.test_runner import blobs, sweep, tiny


@pytest.mark.parametrize("trials", [500, 1000, 2000])
def test_trials_of_nothing(beside: Beside, device: torch.device, tmp_path: Path, trials: int) -> None:
    """Scored at random and not trained: the ratio and the memory are to be the same however many there are."""
    if device.type != "cpu":
        pytest.skip("what nothing costs is a matter of the processor")
    data, folders, record = blobs(), itertools.count(), {}

    def work() -> None:
        with (tmp_path / "log").open("w") as log:
            catalog = resolve(sweep(criteria=["random"], seeds=trials // 2, epochs=0))
            found = run_catalog(catalog, tmp_path / f"{next(folders)}", listener=Display(Console(file=log)))
        record.update(json.loads(found[-1].to_json()))

    def floor() -> None:
        place = tmp_path / f"{next(folders)}"
        place.mkdir()
        for seed in range(trials):
            model = pb.create_model(tiny, input_shape=data.input_shape, num_classes=data.num_classes, seed=seed)
            loss_and_accuracy(model, data, data.test)
            (place / "new").write_text(json.dumps(record, indent=1))
            (place / "new").rename(place / f"{seed}.json")

    group = f"{trials:,} trials of nothing"
    beside(work, floor, group=group, rounds=1, trials=trials)
