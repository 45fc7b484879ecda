"""A sweep whose results have no room is refused before a trial runs."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pai_bench as pb
from pai_bench.cli.entry import main
from pai_bench.execution import ExecutionPlan, free_space, run_catalogs
from pai_bench.execution.autotune import choose
from pai_bench.execution.free_space import check_free_space, checkpoint_bytes, record_bytes, text_of
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.results import Store
from pai_bench.results.checkpoints import CheckpointFolder
from tests.experiment.test_runner import sweep


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes that are free, wherever one looks."""
    bytes_free = [2**20]
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=bytes_free[0]))
    return bytes_free


def test_what_has_no_room_is_refused_before_it_runs(free: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    line = ["run", "--models", "lenet-300-100", "--criteria", "random", "--sparsities", "0.9", "--seeds", "1"]
    line += ["--epochs", "0", "--device", "cpu"]
    free[0] = 5_000
    assert main(line) == 2
    error = capsys.readouterr().err
    need = re.fullmatch(
        r"pai-bench: results and checkpoints need about ([\d.]+) KiB in results, where 4.9 KiB are free; (.*)\n", error
    )
    assert need is not None
    assert 5 < float(need[1]) < 100
    assert need[2] == "make room, or give another folder with --out"
    assert not list(Path("results/trials").iterdir())
    free[0] = 2**20
    assert main(line) == 0
    free[0] = 0  # nothing more is to be written
    assert main(line) == 0


def test_folders_of_one_file_system_share_its_room(free: list[int]) -> None:
    catalogs = [resolve(sweep(seeds=seeds, epochs=0)) for seeds in ([0], [1])]
    needs = [record_bytes(Runner(catalog), catalog.trials) for catalog in catalogs]
    free[0] = sum(needs) - 1
    with pytest.raises(pb.UserError, match="in a and b, where"):
        run_catalogs(list(zip(catalogs, "ab", strict=True)))
    assert not list(Store("a", create=True).trials.iterdir())
    free[0] = sum(needs)
    assert [len(records) for records in run_catalogs(list(zip(catalogs, "ab", strict=True)))] == [3, 3]


def test_what_is_needed_is_what_is_written() -> None:
    catalog = resolve(sweep(epochs=2))
    need = record_bytes(Runner(catalog), catalog.trials)
    pb.run(sweep(epochs=2), out="r")
    written = sum(file.stat().st_size for file in Path("r/trials").iterdir())
    assert 0.5 * written < need < 3 * written


def test_networks_that_are_kept_need_room_too() -> None:
    keys: dict[str, Any] = {"models": ["lenet-300-100"], "data": ["digits"], "epochs": 0, "seeds": 1}
    plain, kept, evaluated = (
        resolve(sweep(**keys, **more)) for more in ({}, {"keep_networks": True}, {"evaluate": "gap"})
    )
    need, *needs = (record_bytes(Runner(catalog), catalog.trials) for catalog in (plain, kept, evaluated))
    pb.run(sweep(**keys, keep_networks=True), out="r")
    written = sum(file.stat().st_size for file in Path("r/networks").glob("*.safetensors"))
    assert [one - need for one in needs] == pytest.approx([written] * 2, rel=0.1)


@pytest.mark.parametrize("protocol", ["snip-mnist-code", "short", "short-adam"])  # none, one and two of an optimiser
def test_checkpoints_need_room_too(protocol: str, free: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each twice: the old one stays until the new one is there."""
    keys: dict[str, Any] = {"models": ["lenet-300-100"], "data": ["digits"], "protocol": protocol, "epochs": 1}
    catalog = resolve(sweep(**keys, seeds=1, lanes=3, checkpoint_every="0.001s"))
    need = checkpoint_bytes(runner := Runner(catalog), catalog.trials, choose(runner, catalog.trials, workers=1))
    free[0] = need + record_bytes(runner, catalog.trials) - 1
    with pytest.raises(pb.UserError, match="results and checkpoints need about"):
        run_catalogs([(catalog, "r")], backend="in-process")
    free[0] += 1
    written, write = list[int](), CheckpointFolder.write

    def noted(self: CheckpointFolder, trials: Any, content: bytes) -> None:
        written.append(len(content))
        write(self, trials, content)

    monkeypatch.setattr(CheckpointFolder, "write", noted)
    run_catalogs([(catalog, "r")], backend="in-process")
    assert 2 * max(written) == pytest.approx(need, rel=0.1)
    never = resolve(sweep(**keys, checkpoint_every="never"))
    assert checkpoint_bytes(Runner(never), never.trials, ExecutionPlan()) == 0


def test_what_cannot_be_estimated_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def sizes(_runner: Any, trial: Any, count: int, trials: Any) -> int:
        if trial.model.name == "lenet":
            raise RuntimeError("not for this one")
        assert {one.model.name for one in trials} == {"lenet-300-100"}
        assert len(trials) == count
        return 1000 * count

    monkeypatch.setattr(free_space, "disk_bytes", sizes)
    catalog = resolve(sweep(models=["lenet", "lenet-300-100"], data=["digits"], score_batch=10))
    assert record_bytes(Runner(catalog), catalog.trials) == 1000 * len(catalog.trials) / 2


def test_a_folder_that_cannot_be_looked_at_is_left_to_those_who_write_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    check_free_space([(Path("gone"), 2**62)])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Path("gone").stat())
    check_free_space([(Path(), 2**62)])


def test_bytes_as_text() -> None:
    texts = {0: "0.0 KiB", 1000: "1.0 KiB", 1_500_000: "1.4 MiB", 2**30: "1.0 GiB", 5 * 2**40: "5,120.0 GiB"}
    assert {size: text_of(size) for size in texts} == texts
