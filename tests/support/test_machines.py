"""Machines that have less than others: memory, shared memory, the right to write, a clock that only goes forward."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import pai_bench as pb
from pai_bench.execution import Listener, run_catalog
from pai_bench.experiment import record_maker
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.trial import Trial
from pai_bench.results import Record, Store
from pai_bench.support.memory import CONTAINERS, own_groups
from tests.experiment.test_runner import sweep

PAI_BENCH = [sys.executable, "-m", "pai_bench"]
SMALL = ["--models", "lenet-300-100", "--sparsities", "0.5", "--seeds", "1", "--epochs", "0", "--device", "cpu"]
GIB = 2**30

HUNGRY = """
from dataclasses import dataclass
import torch
import pai_bench as pb

@dataclass(frozen=True)
class Hungry(pb.Criterion):
    def score(self, model, batch):
        torch.ones(3 * 2**30, dtype=torch.uint8)
        return {}
"""


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group whose processes may take 2 GiB together."""
    for (root, limit, _, _), own in zip(CONTAINERS, own_groups(), strict=True):
        group = root / own / f"pai-bench-test-{os.getpid()}"
        if not (group.parent / "cgroup.procs").exists():  # no control groups of this version
            continue
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(2 * GIB))
        except OSError:  # of version 2, whose parent does not share memory out
            group.rmdir()
            continue
        yield group
        group.rmdir()
        return
    pytest.skip("no control group for memory can be made")


@pytest.mark.slow
def test_a_worker_that_the_kernel_ends_because_memory_is_short(small_group: Path) -> None:
    Path("hungry.py").write_text(HUNGRY)

    def enter() -> None:
        (small_group / "cgroup.procs").write_text(str(os.getpid()))

    command = [*PAI_BENCH, "run", "--criteria", "random,./hungry.py:Hungry", *SMALL, "--workers", "1", "--out", "r"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=enter)
    assert found.returncode == 1, found.stderr
    failed = [record for record in Store("r") if record.status == "failed"]
    assert [record.error for record in failed] == [
        "RuntimeError: the worker process died (killed by signal 9); memory may have been short"
    ]
    assert len(list(Store("r"))) == 3


@pytest.mark.slow
def test_nothing_needs_shared_memory() -> None:
    """The folder /dev/shm is full and cannot be written, as in containers that have none."""
    without = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o ro,size=4k none /dev/shm && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*without, "true"], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    assert subprocess.run([*without, "touch", "/dev/shm/x"], check=False, capture_output=True).returncode
    command = [*PAI_BENCH, "run", "--criteria", "snip", *SMALL, "--epochs", "1", "--workers", "2", "--out", "r"]
    found = subprocess.run([*without, *command], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert {record.status for record in Store("r")} == {"done"}


def test_a_clock_that_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an hour whenever somebody looks at it; no duration is taken from it."""
    now = datetime.now(UTC)
    seconds: list[float] = []

    class Back(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            nonlocal now
            now -= timedelta(hours=1)
            return now

    class Times(Listener):
        def on_finish(self, trial: Trial, record: Record, seconds_of: float) -> None:
            seconds.append(seconds_of)

    monkeypatch.setattr(time, "time", lambda: Back.now().timestamp())
    monkeypatch.setattr(record_maker, "datetime", Back)
    start = time.perf_counter()
    records = run_catalog(resolve(sweep()), "r", listener=Times())
    took = time.perf_counter() - start
    assert {record.status for record in records} == {"done"}
    assert all(0 < one < took for one in seconds)
    assert len(seconds) == 6
    assert all(0 < (record.training.train_seconds or 0) < took for record in records)
    assert all(0 < (record.pruning.score_seconds or took / 2) < took for record in records)
    assert [record.identity for record in run_catalog(resolve(sweep()), "r")] == [one.identity for one in records]
    assert len(seconds) == 6


@pytest.fixture
def of_another_user() -> Iterator[tuple[Path, list[str]]]:
    """A results folder that cannot be written, and what a command is to begin with for whom that holds."""
    pb.run(pb.Sweep(criteria=["random"], models=["lenet-300-100"], sparsities=[0.5], seeds=1, epochs=0), out="theirs")
    theirs, before = Path("theirs"), list[str]()
    if os.geteuid() == 0:  # who may write everywhere, but for this
        rights = "-dac_override,-dac_read_search,-fowner"
        before = ["setpriv", "--bounding-set", rights]
        if shutil.which("setpriv") is None or subprocess.run([*before, "true"], check=False).returncode:
            pytest.skip("this user may write everywhere")
        for path in (theirs, *theirs.rglob("*")):
            os.chown(path, 65534, 65534)
    for path in (theirs, *theirs.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield theirs, before
    for path in (theirs, *theirs.rglob("*")):
        path.chmod(0o755)


@pytest.mark.slow
def test_a_folder_of_another_user_is_read_but_not_written(of_another_user: tuple[Path, list[str]]) -> None:
    theirs, before = of_another_user
    content = {path: path.stat().st_mtime_ns for path in theirs.rglob("*")}
    refused = [
        " ".join(["run", "--criteria", "random", *SMALL, "--out", "theirs"]),
        " ".join(["run", "--criteria", "random", *SMALL, "--out", "theirs/mine"]),
        "report theirs",
        "report theirs -o theirs/mine.csv",
        "prune --model lenet-300-100 --sparsity 0.5 -o theirs/mask.safetensors",
    ]
    accepted = ["report theirs -o mine.md", "compare theirs theirs"]
    code = "import sys; from pai_bench.cli.entry import main; print([main(words.split()) for words in sys.argv[1:]])"
    command = [*before, sys.executable, "-c", code, *refused, *accepted]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.stdout.splitlines()[-1:] == ["[2, 2, 2, 2, 2, 0, 0]"], found.stderr
    lines = found.stderr.splitlines()
    assert len(lines) == 5
    assert all(line.startswith("pai-bench: ") and "Permission denied" in line for line in lines)
    assert content == {path: path.stat().st_mtime_ns for path in theirs.rglob("*")}


def test_masks_of_trials_that_are_stored_take_no_memory() -> None:
    catalog = resolve(sweep(criteria=["random"], seeds=1, epochs=0))
    for found in (run_catalog(catalog, "r"), run_catalog(catalog, "r")):  # as run, and as read
        assert [(record.pruning.mask, record.pruning.whole_mask) for record in found] == [(None, None)] * 2
    assert sum(record.pruning.mask is not None for record in Store("r")) == 1
