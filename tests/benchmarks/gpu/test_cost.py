"""The stage `cost`: what it measures, and that its records are those of ``pai-bench time``."""

import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import cost, engine, scoring
from benchmarks.gpu.archive import Archive, unpack
from benchmarks.gpu.ledger import Ledger
from benchmarks.gpu.stage import Context, Finding, SkippedError
from pai_bench.results import Cost, Provenance, Store
from tests.made import UNSTRUCTURED

CPU = torch.device("cpu")


def context(tmp_path: Path, *, rehearse: bool) -> Context:
    """What the stage is given."""
    ledger = Ledger(Archive(tmp_path / "cost.tar"))
    return Context("cost", CPU, rehearse, time.monotonic() + 1000, ledger, {"commit": "abc", "command": "run"})


def test_every_criterion_on_every_network(tmp_path: Path) -> None:
    pieces = list(cost.pieces(context(tmp_path, rehearse=False)))
    networks = [network.name for network in cost.NETWORKS]
    names = UNSTRUCTURED
    assert {(one.group, one.name) for one in pieces if one.group in networks} == {
        (network, name) for network in networks for name in names
    }
    assert [one.name for one in pieces][-3:] == ["force", "iter-snip", "synflow"]  # what takes longest comes last
    shapes = scoring.prunable_shapes("torchvision:vgg16_bn", (3, 32, 32))
    assert sum(size.numel() for size in shapes.values()) == 14_710_464 + 25_088 * 4096 + 4096 * 4096 + 4096 * 10


def test_records_are_costs(tmp_path: Path) -> None:
    given = context(tmp_path, rehearse=True)
    run = {(one.group, one.name): one.run for one in cost.pieces(given)}
    assert run["lenet-300-100", "snip"]() is None
    assert run["resnet-20", "grasp"]() is None
    unpack(tmp_path, tmp_path / "results")
    found = {one.trial["model"]: one for one in Store(tmp_path / "results/cost").read_all(Cost)}
    assert set(found) == {"lenet-300-100", "resnet-20"}
    grasp = found["resnet-20"]
    assert (grasp.trial["criterion"]["name"], grasp.batch_norm, grasp.trial["score_batch"]) == ("grasp", "train", 20)
    assert (grasp.precision, grasp.memory_format, grasp.device) == ("fp32", "contiguous", "cpu")
    assert grasp.provenance == Provenance(commit="abc", command="run")
    assert grasp.seconds > 0
    assert grasp.step_seconds > 0


@pytest.mark.parametrize("method", ["select", "torch.kthvalue", "torch.topk", "torch.sort", "one read"])
def test_selection_is_measured(tmp_path: Path, method: str) -> None:
    run = {one.name: one.run for one in cost.pieces(context(tmp_path, rehearse=True)) if "selection" in one.group}
    finding = run[method]()
    assert isinstance(finding, Finding)
    assert finding.problem is None
    assert finding.values["scores"] == 266_200
    assert isinstance(finding.values["seconds"], float)
    assert json.dumps(dict(finding.values), allow_nan=False)


def test_what_there_is_no_memory_for_is_skipped() -> None:
    with pytest.raises(SkippedError, match="no memory for grasp"), engine.skipped_without_memory(CPU, "grasp"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(ValueError, match="another"), engine.skipped_without_memory(CPU, "grasp"):
        raise ValueError("another error")
