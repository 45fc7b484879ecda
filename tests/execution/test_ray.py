"""The backend of a Ray cluster, on clusters of one machine: nodes that are lost, tasks that die, interrupts."""

import gc
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.cli.entry import main
from pai_bench.execution import Callbacks, ExecutionPlan, Listener, RayCluster, ray_cluster
from pai_bench.execution.deaths import ATTEMPTS
from pai_bench.execution.ray_backend import LOSSES, Task
from pai_bench.execution.ray_cluster import description, slots, threads_of
from pai_bench.execution.ray_task import Setup, packed, unpacked
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.takeover import ClaimedTrials
from pai_bench.experiment.trial import Trial
from pai_bench.results import Record
from tests.execution.sweeps import DIES, named

# Ray's own clusters for tests leave the files and processes of their nodes to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")

RUN = ["run", "--criteria", "random", "--models", "lenet-300-100", "--sparsities", "0.5", "--seeds", "2"]
RUN += ["--lanes", "1", "--device", "cpu"]

MARK = "PAI_BENCH_TEST_OF_RAY"
"""An environment variable that all processes of a test's cluster have."""


def processes(mark: str, name: str = "") -> list[str]:
    """The command lines of the processes with a `mark`, and with a `name` in it."""
    lines = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"{MARK}={mark}".encode() in (folder / "environ").read_bytes()
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended
            continue
        lines += [line] if marked and name in line else []
    return lines


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether something becomes true."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three nodes with a processor each, on this machine."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # or else Ray writes a token into the home folder
        patch.setenv(MARK, "cluster")
        ray_cluster.check_installed()
        made = SimpleNamespace(nodes=Cluster(initialize_head=True, head_node_args={"num_cpus": 1}))
        made.address = made.nodes.address
        for _ in range(2):
            made.nodes.add_node(num_cpus=1)
        yield made
        made.nodes.shutdown()
        del made.nodes
        gc.collect()


class Progress(Listener):
    """What a sweep reports; `act` is called with each epoch."""

    def __init__(self, act: Callable[[Trial, int], None] = lambda _trial, _epoch: None) -> None:
        self.epochs, self.finished, self.act = defaultdict[str, list[int]](list), Counter[str](), act

    def on_begin(self, _catalog: Any, backend: Any, *_numbers: Any) -> None:
        self.backend = backend

    def on_epoch(self, trial: Trial, epoch: int) -> None:
        self.epochs[trial.identity].append(epoch)
        self.act(trial, epoch)

    def on_finish(self, trial: Trial, _record: Record, _seconds: float) -> None:
        self.finished[trial.identity] += 1


COLUMNS = ["identity", "status", "achieved_sparsity", "test_loss", "test_accuracy"]


def here(sweep: pb.Sweep) -> pd.DataFrame:
    """The same in this process."""
    return pb.run(sweep, out="here", backend="in-process")[COLUMNS]


@needs_ray
@pytest.mark.slow
def test_a_cluster_gives_the_same_as_this_process(cluster: Any) -> None:
    seen = Progress()
    frame = pb.run(sweep := named(), out="there", backend=f"ray:{cluster.address}", listener=seen)
    assert frame[COLUMNS].equals(here(sweep))
    assert seen.backend.description == f"Ray at {cluster.address}, 3 CPUs on 3 nodes"
    assert seen.backend.plan.workers == 3
    assert seen.epochs == {identity: [0, 1] for identity in frame.identity}
    assert seen.finished == dict.fromkeys(frame.identity, 1)
    assert set(pb.run(named(seeds=3, workers=1), out="there", backend=f"ray:{cluster.address}").status) == {"done"}


@needs_ray
@pytest.mark.slow
def test_levels_find_the_networks_that_other_nodes_have_trained(cluster: Any) -> None:
    sweep = named(criteria=["imp:p=0.5"], sparsities=[0.8], seeds=2)
    frame = pb.run(sweep, out="there", backend=f"ray:{cluster.address}")
    assert frame[COLUMNS].equals(here(sweep))
    assert sorted(frame.sparsity.unique()) == [0.0, 0.5, 0.75, 0.8]
    assert not Path("there", "networks").exists()


@needs_ray
@pytest.mark.slow
def test_objects_of_a_script_reach_the_nodes(cluster: Any) -> None:
    """A function that no module has, and data that no file holds; in lanes."""

    def small(shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(shape[0], 20), nn.ReLU(), nn.Linear(20, classes))

    inputs, targets = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
    data = pb.DataSet("ours", (inputs, targets), (inputs, targets))  # type: ignore[arg-type]
    sweep = named(models=[small], data=[data], score_batch=30, batch_size=20, lanes=3, epochs=2)
    assert pb.run(sweep, out="there", backend=f"ray:{cluster.address}")[COLUMNS].equals(here(sweep))


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize(("times", "status"), [(1, "done"), (2, "failed")])
def test_a_trial_that_ends_its_process(
    cluster: Any, times: int, status: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("dies.py").write_text(DIES.format(times=times).replace("Path('.')", f"Path({os.getcwd()!r})"))
    text = Path("dies.py").read_text().replace("Path(f'mark", f"Path({os.getcwd()!r}, f'mark")
    Path("dies.py").write_text(text)
    sweep = named(criteria=["./dies.py:Dies", "random"], seeds=1)
    frame = pb.run(sweep, out="there", backend=f"ray:{cluster.address}")
    assert dict(zip(frame.criterion.str[:4], frame.status, strict=True)) == {
        "dens": "done",
        "Dies": status,
        "rand": "done",
    }
    assert "a worker process died (its process ended) while it ran digits-lenet-300-100-Dies" in caplog.text
    assert len(list(Path().glob("mark*"))) == times
    assert "ray" not in "".join(capfd.readouterr())


@needs_ray
@pytest.mark.slow
def test_a_trial_that_fails_is_a_record(cluster: Any, caplog: pytest.LogCaptureFixture) -> None:
    text = "import logging; import pai_bench as pb\nclass Fails(pb.Criterion):\n    def score(self, model, batch):\n"
    text += "        logging.getLogger('mine').warning('about to fail')\n        raise ZeroDivisionError('mine')\n"
    Path("fails.py").write_text(text)
    frame = pb.run(named(criteria=["./fails.py:Fails"], seeds=1), out="there", backend=f"ray:{cluster.address}")
    assert list(frame.status) == ["done", "failed"]
    assert "ZeroDivisionError: mine" in frame.error[1]
    assert ("mine", 30, "about to fail") in caplog.record_tuples


@needs_ray
@pytest.mark.slow
def test_what_ran_on_a_lost_node_resumes_from_its_checkpoint(
    cluster: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO")
    lost: list[str] = []

    def lose(trial: Trial, _epoch: int) -> None:
        if not lost and len(seen.epochs) >= 3 and min(map(max, seen.epochs.values())) >= 15:
            node = next(node for node in cluster.nodes.list_all_nodes() if not node.head)
            lost.append(node.node_id)
            cluster.nodes.remove_node(node, allow_graceful=False)

    seen, sweep = Progress(lose), named(criteria=["random"], epochs=60, checkpoint_every="1s")
    frame = pb.run(sweep, out="there", backend=f"ray:{cluster.address}", listener=seen)
    assert lost
    cluster.nodes.add_node(num_cpus=1)
    assert frame[COLUMNS].equals(here(sweep))
    assert seen.finished == dict.fromkeys(frame.identity, 1)
    names = re.findall("a node was lost while it ran (.*); once more", caplog.text)  # one may have waited there
    assert sum(f"{name} resumes from its checkpoint after step" in caplog.text for name in names) == 1
    assert not list(Path("there", "checkpoints").iterdir())
    assert "raylet" not in "".join(capfd.readouterr())


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("joined", [True, False])
def test_an_interrupt_leaves_no_task(cluster: Any, joined: bool) -> None:
    address, mark = (cluster.address, "cluster") if joined else ("auto", "own")
    command = [sys.executable, "-m", "pai_bench", *RUN, "--epochs", "2000", "--ray", address]
    command += ["--checkpoint-every", "0.5s"]
    environment = os.environ | {MARK: mark, "RAY_AUTH_MODE": "disabled"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert eventually(lambda: any(Path("results/checkpoints").glob("*.safetensors")), 60)
    assert processes(mark, "ray::run_cell")
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "will resume from a checkpoint" in " ".join(out.split())
    assert "Traceback" not in said
    assert eventually(lambda: not processes(mark, "ray::run_cell" if joined else ""))
    if joined:
        assert len(ray_cluster.ask(address)) == 3


@needs_ray
@pytest.mark.slow
def test_a_connection_of_ones_own_stays(cluster: Any) -> None:
    import ray

    ray.init(cluster.address, log_to_driver=False, logging_level=logging.CRITICAL)
    try:
        assert set(pb.run(named(seeds=1), backend="ray").status) == {"done"}
        assert ray.is_initialized()
    finally:
        ray.shutdown()


@needs_ray
@pytest.mark.slow
def test_another_version_on_a_node_ends_the_sweep(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pai_bench.execution.ray_backend.Setup", partial(Setup, version="0.0.1"))
    with pytest.raises(pb.UserError, match=r"cannot run this sweep \(node .* and this machine 0\.0\.1: install"):
        pb.run(named(), backend=f"ray:{cluster.address}")


@needs_ray
@pytest.mark.slow
def test_an_address_without_a_cluster(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(ray_cluster, "PATIENCE", 5.0)
    assert main([*RUN, "--ray", "127.0.0.1:9"]) == 2
    out, said = capfd.readouterr()
    assert said == (
        "pai-bench: no Ray cluster at 127.0.0.1:9 can be joined (no answer within 5 s); `ray start` starts or extends "
        "one\n"
    )
    assert "ray" not in out


@needs_ray
@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        ("Traceback\n  File\nRuntimeError: Version mismatch\n", r"can be joined \(RuntimeError: Version mismatch\)"),
        ("[gcs_client.cc] InvalidAuthToken: it is missing\n", "asks for a token: set RAY_AUTH_MODE=token"),
    ],
)
def test_why_a_cluster_cannot_be_joined(stderr: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done: Any = subprocess.CompletedProcess([], 1, "", stderr)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(pb.UserError, match=message):
        ray_cluster.ask("10.0.0.1:6379")


@needs_ray
def test_an_address_of_ray_client_is_refused() -> None:
    with pytest.raises(pb.UserError, match=r"start pai-bench on a node of the cluster, and give HOST:PORT or auto"):
        pb.run(named(), backend="ray:ray://10.0.0.1:10001")


def test_ray_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*RUN, "--ray", "auto"]) == 2
    assert "pip install 'pai-bench[ray]'" in capsys.readouterr().err


def test_two_flags_that_contradict_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--ray", "auto", "--backend", "processes"]) == 2
    expected = "--ray auto is --backend ray, and --backend processes is given: give one of them"
    assert expected in capsys.readouterr().err


def test_how_much_a_cluster_runs_at_once() -> None:
    head, small, large = {"CPU": 0.0}, {"CPU": 4.0, "memory": 1e9}, {"CPU": 16.0, "GPU": 4.0}
    assert threads_of([head, small, large], 32, gpu=False) == 16
    assert threads_of([head, small, large], 32, gpu=True) == 4
    assert threads_of([head], 8, gpu=False) == 8  # of nodes that are still to come
    assert slots([head, small, large], 3, gpu=False) == 1 + 5
    assert slots([head, small, large], 3, gpu=True) == 4
    assert description(None, [small]) == "Ray on this machine, 4 CPUs on 1 node"
    assert description("h:1", [small, large]) == "Ray at h:1, 20 CPUs, 4 GPUs on 2 nodes"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16])
def test_data_travel_as_they_are(dtype: torch.dtype) -> None:
    inputs, targets = torch.arange(48).reshape(4, 3, 2, 2).to(dtype).transpose(1, 2), torch.tensor([0, 1, 0, 1])
    data = pb.DataSet("ours", (inputs, targets), (inputs[:2], targets[:2]), num_classes=3, label="Ours")  # type: ignore[arg-type]
    same = unpacked(packed(data))
    assert same.checksum == data.checksum
    assert (same.name, same.num_classes, same.label) == ("ours", 3, "Ours")


@needs_ray
def test_how_a_task_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray import exceptions

    no_memory: Any = exceptions.OutOfMemoryError  # they carry no annotations
    no_node: Any = exceptions.NodeDiedError

    def ends_by(error: Exception) -> tuple[str, bool]:
        def get(_reference: object) -> None:
            raise error

        monkeypatch.setattr(ray, "get", get)
        return ray_cluster.how_ended(None)  # type: ignore[arg-type]

    assert ends_by(no_memory("")) == ("its node had no more memory", True)
    assert ends_by(exceptions.WorkerCrashedError()) == ("its process ended", True)
    assert ends_by(no_node("")) == ("a node was lost", False)
    assert ends_by(exceptions.TaskCancelledError()) == ("a task was cancelled", False)
    with pytest.raises(pb.UserError, match=r"Ray cannot run this sweep: .*no node fits"):
        ends_by(exceptions.TaskUnschedulableError("no node fits"))


def test_a_trial_whose_nodes_are_lost_again_and_again_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be that it takes the whole memory of each."""
    runner = Runner(resolve(named(seeds=1, epochs=0)))
    cell, records, runs = runner.catalog.trials[:1], list[Record](), 0
    backend = RayCluster(runner, ExecutionPlan(), None, [{"CPU": 1}])
    monkeypatch.setattr(ray_cluster, "how_ended", lambda _reference: ("a node was lost", False))
    callbacks = Callbacks(list, lambda *_: None, lambda _cell, finished, _seconds: records.extend(finished))
    waiting: list[Any] = [cell]
    reference: Any = None
    while waiting:
        backend._tasks[runs] = Task(waiting.pop(), reference, ClaimedTrials(None, []))
        waiting += backend._end(runs, callbacks)
        runs += 1
    assert runs == LOSSES + ATTEMPTS
    assert [record.error for record in records] == ["RuntimeError: the worker process died (a node was lost)"]
