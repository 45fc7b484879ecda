"""How many workers and lanes: what is asked for, or what is fastest in a table of made-up measurements."""

import os
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from pai_bench.execution import autotune, measure, search
from pai_bench.execution.autotune import choose
from pai_bench.execution.catalog_run import cells
from pai_bench.execution.execution_plan import ExecutionPlan
from pai_bench.execution.measure import step_seconds
from pai_bench.execution.search import Search
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.support import memory
from pai_bench.training.trainer import Engine, Together
from tests.execution.sweeps import named
from tests.experiment.test_runner import sweep


@pytest.fixture
def runner() -> Runner:
    return Runner(resolve(named(seeds=8)))


def choose_by(
    monkeypatch: pytest.MonkeyPatch, table: dict[tuple[int, int], float], taken: int = 0, **changes: Any
) -> ExecutionPlan:
    """The plan where a step takes table[threads, lanes] seconds."""
    asked = Runner(resolve(named(**{"seeds": 8, "lanes": "auto", "workers": "auto"} | changes)))

    def measured(_runner: Runner, _trial: Trial, lanes: int, _engine: Engine) -> tuple[float, int]:
        return table.get((torch.get_num_threads(), lanes), 9.0), taken * lanes

    monkeypatch.setattr(measure, "step_seconds", measured)
    monkeypatch.setattr(search, "SMALL", 5.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: THREADS[-1])
    monkeypatch.setattr(torch, "set_num_threads", THREADS.append)
    THREADS[:] = [2]
    found = choose(asked, asked.catalog.trials)
    assert THREADS[-1] == 2  # as it was
    return found


THREADS = [2]


def lanes_of(found: ExecutionPlan) -> list[int]:
    return list(found.lanes_of.values())


def test_workers_are_taken_where_a_thread_alone_is_more_than_half_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    found = choose_by(monkeypatch, {(2, 1): 1.0, (1, 1): 1.2})
    assert (found.workers, found.threads, lanes_of(found)) == (2, 1, [1])
    assert list(found.seconds_of.values()) == [0.6]
    assert str(found) == "2 worker processes, one trial at a time in each"
    assert choose_by(monkeypatch, {(2, 1): 1.0, (1, 1): 2.0}).workers == 1


def test_a_machine_with_several_gpus_has_a_worker_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "devices_of", lambda _name: ["cuda:0", "cuda:1", "cuda:2"])
    monkeypatch.setattr(autotune, "free_bytes", lambda _device: 2**31)  # of each
    found = choose_by(monkeypatch, {(2, 1): 1.0, (1, 1): 1.2, (1, 2): 0.7, (2, 2): 0.9}, taken=2**27)
    assert (found.workers, found.threads, lanes_of(found)) == (3, 1, [2])
    assert list(found.seconds_of.values()) == [pytest.approx(0.7 / 3)]


def test_lanes_are_doubled_as_long_as_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {(2, 1): 1.0, (2, 2): 0.5, (2, 4): 0.3, (2, 8): 0.29, (2, 16): 0.1, (1, 1): 1.0}
    found = choose_by(monkeypatch, table)
    assert (found.workers, lanes_of(found)) == (1, [4])
    assert str(found) == "up to 4 trials together"


def test_lanes_end_where_memory_does(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {(2, 1): 1.0, (2, 2): 0.5, (2, 4): 0.25, (2, 8): 0.12, (1, 1): 9.0}
    monkeypatch.setattr(autotune, "free_bytes", lambda _device: 900)
    assert lanes_of(choose_by(monkeypatch, table, taken=100)) == [4]


def test_as_many_workers_as_memory_has_room_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    table = {(2, 1): 1.0, (1, 1): 1.0}
    monkeypatch.setattr(autotune, "free_bytes", lambda _device: 2 * autotune.WORKER)
    assert choose_by(monkeypatch, table, lanes=1).workers == 1  # the data have to fit too
    assert caplog.messages == ["memory has no room for worker processes: each would take 0.5 GiB"]
    monkeypatch.setattr(autotune, "free_bytes", lambda _device: 2 * autotune.WORKER + 10**8)
    caplog.clear()
    assert choose_by(monkeypatch, table, lanes=1).workers == 2
    assert not caplog.messages
    assert choose_by(monkeypatch, table, lanes=1, taken=10**8).workers == 1
    monkeypatch.setattr(autotune, "free_bytes", lambda _device: 2 * autotune.WORKER + 3 * 10**8)
    assert choose_by(monkeypatch, table, taken=10**8).workers == 2  # one at a time, unless they are asked for together


def test_lanes_and_workers_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "free_bytes", lambda _device: 2 * autotune.WORKER + 10**9)
    assert choose_by(monkeypatch, {(2, 8): 1.0, (1, 8): 1.0}, lanes=8, taken=10**8).workers == 1
    monkeypatch.setattr(autotune, "free_bytes", lambda _device: 2 * autotune.WORKER + 22 * 10**8)
    table = {(2, 1): 1.0, (1, 1): 1.0, (1, 2): 0.5, (1, 4): 0.25, (1, 8): 0.12, (1, 16): 0.06}
    found = choose_by(monkeypatch, table, taken=10**8)
    assert (found.workers, lanes_of(found)) == (2, [8])  # 2.5 x 4 lanes still fit into what a worker has beside itself
    assert lanes_of(choose_by(monkeypatch, table, taken=2 * 10**8)) == [4]


GROUPS = [
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
]


@pytest.mark.parametrize(("root", "limit", "used", "cache"), GROUPS)
def test_a_container_limits_the_memory(
    monkeypatch: pytest.MonkeyPatch, root: str, limit: str, used: str, cache: str
) -> None:
    texts = {"/proc/meminfo": "MemFree: 1 kB\nMemAvailable:  9999999 kB\n", f"{root}/{limit}": "3000\n"}
    texts |= {f"{root}/{used}": "1000\n", f"{root}/memory.stat": f"anon 3\n{cache} 500\n"}

    def read(path: Path) -> str:
        if str(path) not in texts:
            raise FileNotFoundError(path)
        return texts[str(path)]

    monkeypatch.setattr(Path, "read_text", read)
    assert memory.free_bytes(torch.device("cpu")) == 2500  # files that are kept in memory can be given up
    texts[f"{root}/{limit}"] = "max\n"
    assert memory.free_bytes(torch.device("cpu")) == 9999999 * 1024
    del texts["/proc/meminfo"]
    assert memory.free_bytes(torch.device("cpu")) > 2**20
    monkeypatch.setattr(os, "sysconf", lambda name: int(name))
    assert memory.free_bytes(torch.device("cpu")) == memory.UNKNOWN


def test_a_sweep_of_seconds_is_run_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = choose_by(monkeypatch, {(2, 1): 1e-4, (1, 1): 1e-5, (2, 2): 1e-6})
    assert (found.workers, lanes_of(found)) == (1, [1])


def test_what_is_asked_for_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {(2, 1): 1.0, (1, 1): 0.1}
    found = choose_by(monkeypatch, table, workers=1, lanes=3)
    assert (found.workers, lanes_of(found)) == (1, [3])
    found = choose_by(monkeypatch, table, workers=4, lanes=100)
    assert (found.workers, found.threads, lanes_of(found)) == (4, 1, [6])  # of 24 trials
    assert lanes_of(choose_by(monkeypatch, table, workers=5, lanes=100)) == [5]  # of which one worker has four
    assert lanes_of(choose_by(monkeypatch, {(2, 2): 1.0, (1, 1): 9.0}, lanes=2)) == [2]


def test_own_objects_are_run_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "step_seconds", lambda _runner, _trial, lanes, _engine: (1.0 / lanes**0.01, 0))
    asked = Runner(resolve(sweep(seeds=8)))
    assert choose(asked, asked.catalog.trials).workers == 1


@pytest.mark.parametrize(("lanes", "together"), [(1, "stacked"), (3, "stacked"), (3, "branches")])
def test_a_step_is_measured(runner: Runner, lanes: int, together: Together) -> None:
    seconds, taken = step_seconds(runner, runner.catalog.trials[0], lanes, Engine(together=together))
    assert 0 < seconds < 1
    assert taken >= 0


def test_what_was_not_measured_is_trained_one_at_a_time() -> None:
    (trial, *_) = resolve(named()).trials
    assert (ExecutionPlan().lanes(trial), ExecutionPlan().engine(trial)) == (1, Engine())


def test_nothing_to_run() -> None:
    asked = Runner(resolve(named()))
    assert choose(asked, []).workers == 1


def test_cells_hold_trials_of_one_kind_in_order() -> None:
    trials = resolve(named(models=["lenet-300-100", "lenet"], seeds=3)).trials
    made = list(cells(trials, lambda trial: 4 if trial.model.name == "lenet-300-100" else 1))
    assert [len(cell) for cell in made if cell[0].model.name == "lenet-300-100"] == [4, 4, 1]
    assert all(len(cell) == 1 for cell in made if cell[0].model.name != "lenet-300-100")
    assert sorted(t.identity for cell in made for t in cell) == sorted(t.identity for t in trials)
    assert all(len({t.model for t in cell}) == 1 for cell in made)
    parts = resolve(named(seeds=2, train_fraction=0.5)).trials
    assert len(list(cells([*trials[:1], *parts[:1]], lambda _trial: 9))) == 2


def test_a_group_that_holds_a_process_limits_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch system gives a job a group below the root, and what is above it may have a limit, too."""
    texts = {"/proc/self/cgroup": "4:cpu,memory:/jobs/7\n0::/\n"}
    for folder, limit, used in (("jobs/7", 5000, 2000), ("jobs", 4000, 2500), (".", 2**60, 10**6)):
        for name, text in (("limit_in_bytes", limit), ("usage_in_bytes", used), ("stat", "total_inactive_file 100")):
            texts[str(Path("/sys/fs/cgroup/memory", folder, f"memory.{name}"))] = f"{text}\n"

    def read(path: Path) -> str:
        if str(path) not in texts:
            raise FileNotFoundError(path)
        return texts[str(path)]

    monkeypatch.setattr(Path, "read_text", read)
    assert memory.free_in_container() == 4000 - 2500 + 100
    texts["/sys/fs/cgroup/memory/jobs/memory.limit_in_bytes"] = "9" * 19
    assert memory.free_in_container() == 5000 - 2000 + 100


def test_what_a_worker_takes_itself_is_not_for_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "free_bytes", lambda _device: 2 * (autotune.WORKER + 159 * 10**7))
    table = {(2, 1): 1.0, (1, 1): 1.0, (1, 2): 0.5, (1, 4): 0.25, (1, 8): 0.12, (1, 16): 0.06}
    found = choose_by(monkeypatch, table, taken=10**8)
    assert (found.workers, lanes_of(found)) == (2, [8])  # for 16, 1.6 GB


def test_a_step_is_measured_once_and_by_the_probe_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class IsolatedProcess:
        calls: ClassVar[list[tuple[object, ...]]] = []

        def query(self, *function: object) -> tuple[float, int]:
            self.calls.append(function)
            return 0.5, 7

    here = Runner(resolve(named(seeds=1)))
    here.catalog.isolated_process = IsolatedProcess()  # type: ignore[assignment]
    trial, engine = here.catalog.trials[0], Engine()
    monkeypatch.setattr(measure, "step_seconds", lambda *_asked, **_options: (9.0, 9))
    assert [measure.measured_step(here, trial, 2, 4, engine) for _ in range(2)] == [(0.5, 7)] * 2
    assert IsolatedProcess.calls == [("step", trial, 2, 4, engine)]
    here.catalog.isolated_process = None
    assert [measure.measured_step(here, trial, 1, 4, engine) for _ in range(2)] == [(9.0, 9)] * 2


@pytest.mark.parametrize(
    ("here", "beside", "workers"), [(0.2499, 0.001, 1), (0.2501, 0.2375, 2), (0.2501, 0.2385, 1), (0.2501, 0.25, 1)]
)
def test_workers_have_to_make_up_for_their_start(
    here: float, beside: float, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 trials of a step each: not under six seconds; and half of the trials, a twentieth more, and three seconds."""
    monkeypatch.setattr(autotune, "training_steps", lambda _trial, _data: 1)
    monkeypatch.setattr(autotune, "evaluation_steps", lambda _trial, _data: 0.0)
    assert choose_by(monkeypatch, {(2, 1): here, (1, 1): beside}, lanes=1).workers == workers


def test_a_gpu_is_not_shared_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "free_bytes", lambda _device: 2**40)
    monkeypatch.setattr(Search, "has_layouts", False)
    monkeypatch.setattr(Runner, "device", torch.device("cuda"))
    assert choose_by(monkeypatch, {(2, 1): 1.0, (1, 1): 1.0}, lanes=1).workers == 1


def test_no_more_workers_than_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "step_seconds", lambda *_asked: (1.0, 0))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", THREADS.append)
    asked = Runner(resolve(named()))
    assert [autotune.Tuner(asked, asked.catalog.trials[:n]).most_workers() for n in (1, 2, 6)] == [1, 2, 6]


@pytest.mark.parametrize(
    ("workers", "lanes", "text"),
    [
        (1, {}, "one trial at a time"),
        (1, {"a": 1}, "one trial at a time"),
        (1, {"a": 1, "b": 2}, "up to 2 trials together"),
        (2, {}, "2 worker processes, one trial at a time in each"),
        (3, {"a": 4}, "3 worker processes, up to 4 trials together in each"),
    ],
)
def test_a_plan_in_words(workers: int, lanes: dict[Any, int], text: str) -> None:
    assert str(ExecutionPlan(workers=workers, lanes_of=lanes)) == text
    assert (ExecutionPlan().workers, ExecutionPlan().threads) == (1, 1)
