"""What a worker process says, reads and refuses, and that it ends with its parent."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import pai_bench as pb
from pai_bench.data import Split
from pai_bench.execution import run_catalog
from pai_bench.execution.worker import SharedConnection
from pai_bench.experiment.resolve import resolve
from pai_bench.results import Store
from tests.execution.sweeps import DIES, named, same


def test_a_worker_gives_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pai_bench.execution.worker.HEARTBEAT", 0.01)
    ours, theirs = Pipe()
    with ours:
        beats = threading.Thread(target=SharedConnection(theirs).beat)
        beats.start()
        assert [ours.recv() for _ in range(2)] == [("alive", None)] * 2
    beats.join(10)  # its parent has gone
    assert not beats.is_alive()
    theirs.close()


@pytest.mark.slow
def test_workers_say_nothing_of_their_own(tmp_path: Path) -> None:
    """Neither Python's warnings nor torch's."""
    code = (
        "import sys, pai_bench as pb; keys = {'models': ['lenet-300-100'], 'sparsities': [0.9], 'seeds': 1};"
        "pb.run(pb.Sweep(**keys, epochs=0, workers=2, lanes=1), out=sys.argv[1])"
    )
    found = subprocess.run([sys.executable, "-c", code, tmp_path / "r"], capture_output=True, text=True, check=True)
    assert found.stderr == ""


def linear(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Linear(shape[0], classes)


@pytest.mark.slow
def test_workers_are_given_data_that_have_no_name_elsewhere() -> None:
    split = Split(torch.randn(60, 4), torch.arange(60) % 3)
    made = named(data=[pb.DataSet("own", split, split)], models=[linear], batch_size=10, score_batch=30)
    one, two = (pb.run(dataclasses.replace(made, workers=workers), out=f"r{workers}") for workers in (1, 2))
    same(one, two)
    assert set(two.status) == {"done"}


REGISTERED = """
import pai_bench as pb
from torch import nn

DECORATED
def mine(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))

sweep = pb.Sweep(models=[NAMED], criteria=["random"], sparsities=[0.5], seeds=1, epochs=0, workers=2, device="cpu")
try:
    pb.run(sweep)
except pb.UserError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("decorator", "named", "said"),
    [
        ('@pb.model("mine", source="here")', '"mine"', "unknown model 'mine'"),
        ("", "mine", "Can't get attribute 'mine'"),
    ],
)
def test_networks_of_a_script_are_refused_by_workers_and_nothing_is_stored(
    decorator: str, named: str, said: str
) -> None:
    Path("script.py").write_text(REGISTERED.replace("DECORATED", decorator).replace("NAMED", named))
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("a worker process cannot run this sweep (")
    assert said in done.stdout
    assert "Traceback" not in done.stderr
    assert not list(Path("results/trials").glob("*.json"))


@pytest.mark.slow
def test_a_sweep_that_a_worker_cannot_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = resolve(named(workers=2))
    Path("gone.py").write_text(DIES.format(times=0))
    catalog = resolve(named(criteria=["./gone.py:Dies"], workers=2))
    Path("gone.py").unlink()
    with pytest.raises(pb.UserError, match=r"a worker process cannot run this sweep \(UserError: .*gone.py"):
        run_catalog(catalog, "r")


SCRIPT = """
import sys
import pai_bench as pb
from pai_bench.execution import Listener

class Shows(Listener):
    def on_epoch(self, trial, epoch):
        print("epoch", epoch, flush=True)

keys = dict(criteria=["snip"], models=["lenet-300-100"], data=["folder:pictures"], data_dir=sys.argv[1], workers=2)
keys |= dict(lanes=1, sparsities=[0.5], seeds=2, device="cpu", batch_size=2, score_batch=4, epochs=int(sys.argv[2]))
frame = pb.run(pb.Sweep(**keys), listener=Shows())
assert set(frame.status) == {"done"}, list(frame.error)
"""


@pytest.fixture
def pictures() -> Path:
    """Eight pictures of two classes for training and four to test, in a folder."""
    for part, count in (("train", 4), ("test", 2)):
        for name in "ab":
            Path("here", "pictures", part, name).mkdir(parents=True)
            for i in range(count):
                image = Image.new("L", (6, 6), 40 * i + 100 * (name == "b"))
                image.save(Path("here", "pictures", part, name, f"{i}.png"))
    return Path("here")


@pytest.mark.slow
def test_workers_of_a_script_without_a_file_with_data_in_a_relative_folder(pictures: Path) -> None:
    command = [sys.executable, "-", str(pictures), "1"]
    done = subprocess.run(command, input=SCRIPT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {record.provenance.workers for record in Store("results")} == {2}


@pytest.mark.slow
def test_workers_go_when_their_parent_is_killed(pictures: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(pictures), "1000000"], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"epoch 0\n"
    process.kill()
    process.wait()
    process.stdout.close()
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:  # nobody is left in its group
            return
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("a worker is left")
