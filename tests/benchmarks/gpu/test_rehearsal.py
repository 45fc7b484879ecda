"""The whole run with tiny sizes on a CPU: all stages leave records of the true kind, and reports are made of them."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import pack
from benchmarks.gpu.__main__ import main as benchmarks
from benchmarks.gpu.archive import Archive
from benchmarks.gpu.ledger import Ledger
from benchmarks.gpu.runner import STAGES
from pai_bench.cli.entry import main as pai_bench
from pai_bench.results import Cost, Store


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own, as a user does in a checkout."""
    called = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    return subprocess.run(called, cwd=pack.root(), capture_output=True, text=True, check=False)


def processor_seconds() -> float:
    """What processes that have ended have taken of a processor."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


@pytest.mark.slow
def test_the_rehearsal(tmp_path: Path) -> None:
    out, results = tmp_path / "out", tmp_path / "results"
    before = processor_seconds()
    done = command("--rehearse", "--out", str(out))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert processor_seconds() - before < 120  # of one processor, whatever else the machine does
    files = sorted(path.name for path in out.iterdir())
    assert files == sorted([*(f"{stage}.tar" for stage in STAGES), "log.txt", "summary.txt"])
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in files)
    assert done.stdout.endswith((out / "summary.txt").read_text())
    for stage in STAGES:
        ledger = Ledger(Archive(out / f"{stage}.tar"))
        states = [entry.status for entry in ledger.entries.values()]
        assert set(states) <= {"passed", "measured", "skipped"}, stage
        assert {"passed", "measured"} & set(states), stage
    assert benchmarks(["unpack", str(out), str(results)]) == 0
    store = {stage: Store(results / stage) for stage in STAGES}
    assert len(store["cost"].read_all(Cost)) == 20
    assert len(list(store["cifar"])) == 6
    assert len(list(store["snip-table-1"])) == 10
    expected = {
        "correct": ("### correct: scores, float64", "| grasp | passed |", "### correct: 50 steps, fp32"),
        "cost": ("## What scoring costs", "### resnet-20 on random-8", "torch.kthvalue"),
        "speed": ("### speed: resnet-20", "DataLoader loop", "### speed: auto"),
        "cifar": ("## resnet-20 on tiny-cifar10", "| snip |", "seed 1"),
        "snip-table-1": ("## lenet-300-100 on tiny-mnist", "SNIP, table 1"),
    }
    for stage, texts in expected.items():
        page = tmp_path / "reports" / f"{stage}.md"
        assert pai_bench(["report", str(results / stage), "-o", str(page)]) == 0
        assert all(text in page.read_text() for text in texts), stage
        assert "python -m benchmarks.gpu --rehearse --out out" in page.read_text()
        assert list((tmp_path / "reports/figures").glob(f"{stage}-*.svg"))
    again = command("--rehearse", "--out", str(tmp_path / "later"), "--resume", str(out))
    assert again.returncode == 0
    assert not [line for line in again.stdout.splitlines() if re.search(r"\] (passed|measured|failed)", line)]
