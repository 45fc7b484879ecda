"""A map over several processes gives what one gives, whatever happens to the others, and runs no script again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from operator import floordiv
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pai_bench.report import page
from pai_bench.report.page import write_report
from pai_bench.results import Store
from pai_bench.support import parallel
from pai_bench.support.errors import UserError
from pai_bench.support.parallel import helpers, parallel_map
from tests.cli.test_endings import is_there
from tests.report.records import record

JOBS = """
import os
import time
from pathlib import Path

def met(folder):
    Path(folder, str(os.getpid())).touch()
    end = time.monotonic() + 100
    while len(list(Path(folder).iterdir())) < 2:
        assert time.monotonic() < end, "no other process has begun"
        time.sleep(0.01)

def works(number, folder):
    met(folder)
    return number, os.getpid()

def dies(number, parent, folder):
    met(folder)
    return number if os.getpid() == parent else os._exit(3)

def fails(number, parent, folder):
    met(folder)
    return number if os.getpid() == parent else 1 // 0

def sleeps(number, parent, folder):
    met(folder)
    if os.getpid() == parent:
        print(*os.listdir(folder), flush=True)
    time.sleep(1000)
"""


def by_two(
    function: Callable[..., Any], jobs: Sequence[tuple[object, ...]], *on_done: Callable[[int], None]
) -> list[Any]:
    """All jobs, by this process and another."""
    with helpers(1, "os") as other:
        return parallel_map(function, jobs, other, *on_done)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Functions that other processes can import, too."""
    Path("some_jobs.py").write_text(JOBS)
    Path("met").mkdir()
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.delitem(sys.modules, "some_jobs", raising=False)
    return __import__("some_jobs")


@pytest.fixture
def results() -> Store:
    """Records of four networks, each of which is a section."""
    store = Store("results", create=True)
    for network in "abcd":
        for sparsity in (0.5, 0.9):
            store.write(record("snip", sparsity, 0, 1 - sparsity, trial={"model": network}))
    return store


@pytest.mark.parametrize("number", [1, 2])
def test_an_error_in_a_section_is_that_of_the_report(
    results: Store, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("figures").write_text("no folder")
    monkeypatch.setattr(page, "processors", lambda: number)
    with pytest.raises(UserError, match=r"figures"):
        write_report(results, Path("report.md"))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["interrupt", "kill"])
def test_a_report_that_is_ended_leaves_no_process(way: str, jobs: ModuleType) -> None:
    """An interrupt goes to the whole group of a terminal, and a signal of a batch system to the process alone."""
    code = "import os, some_jobs; from pai_bench.support.parallel import helpers, parallel_map\n"
    code += "with helpers(1, 'os') as other: "
    code += "parallel_map(some_jobs.sleeps, [(i, os.getpid(), 'met') for i in range(4)], other)"
    listen = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731  # it may be ignored here
    keys: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": listen}
    process = subprocess.Popen([sys.executable, "-c", code], text=True, start_new_session=True, **keys)
    assert process.stdout is not None
    assert len(process.stdout.readline().split()) == 2
    if way == "interrupt":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.kill()
    _, said = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGINT if way == "interrupt" else -signal.SIGKILL)
    assert said.count("Traceback") == (way == "interrupt")
    end = time.monotonic() + 30
    while is_there(process.pid):
        assert time.monotonic() < end, "a process is left"
        time.sleep(0.1)


def test_results_come_in_order_from_several_processes(jobs: ModuleType) -> None:
    before = dict(os.environ)
    numbers, processes = zip(*by_two(jobs.works, [(i, "met") for i in range(12)]), strict=True)
    assert numbers == tuple(range(12))
    assert len({*processes}) == 2
    assert dict(os.environ) == before


def test_one_process_starts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "spawned", lambda *_arguments: 1 // 0)
    for number in (0, -1):
        with helpers(number, "os") as others:
            assert others is None
    assert parallel_map(pow, [], None) == []
    assert parallel_map(pow, [(2, 3), (3, 2)], None) == [8, 9]


def test_processes_begin_before_there_are_jobs(jobs: ModuleType) -> None:
    Path("slow_to_import.py").write_text("from pathlib import Path\nPath('imported').touch()\n")
    with helpers(1, "slow_to_import") as others:
        end = time.monotonic() + 60
        while not Path("imported").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        assert others is not None
        assert len(others.processes) == 1
        assert parallel_map(jobs.works, [], others) == []
        assert parallel_map(pow, [(2, 3)], others) == [8]  # by this one
    assert not any(process.is_alive() for process in others.processes)


def test_this_process_keeps_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """While others begin, they are told to use one thread."""
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    before = dict(os.environ)
    with helpers(1, "os") as other:
        assert other is not None
        assert dict(os.environ) == before


def test_what_a_process_leaves_when_it_dies_is_done_here(jobs: ModuleType) -> None:
    counts: list[int] = []
    found = by_two(jobs.dies, [(i, os.getpid(), "met") for i in range(9)], counts.append)
    assert found == list(range(9))
    assert sorted(counts) == list(range(1, 10))


def test_an_error_in_another_process_is_raised(jobs: ModuleType) -> None:
    with pytest.raises(ZeroDivisionError):
        by_two(jobs.fails, [(i, os.getpid(), "met") for i in range(9)])
    with pytest.raises(ZeroDivisionError):
        by_two(floordiv, [(1, 1)] * 50 + [(1, 0)])


@pytest.mark.parametrize("error", [OSError, ImportError, NotImplementedError])
def test_where_no_process_can_be_started_this_one_does_all(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As without a place for semaphores: there is no /dev/shm, or no room in it."""

    def refuse(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(parallel, "ProcessPoolExecutor", refuse)
    assert by_two(pow, [(i, 2) for i in range(20)]) == [i**2 for i in range(20)]
    monkeypatch.setattr(sys, "executable", None)
    assert parallel.processors() == 1


ASKS = "from pai_bench.support.parallel import spawning_runs_main\nprint(spawning_runs_main())\n"


@pytest.mark.parametrize(
    ("arguments", "again"),
    [
        (["script.py"], True),
        (["-m", "script"], True),
        (["-m", "package"], False),
        (["package"], False),
        (["-c", ASKS], False),
        (["-"], True),  # or would look for a file called <stdin>
        (["pai-bench"], False),
    ],
)
def test_programs_that_other_processes_would_run_again_are_known(arguments: list[str], again: bool) -> None:
    Path("package").mkdir()
    for name in ("script.py", "package/__main__.py", "pai-bench"):
        Path(name).write_text(ASKS)
    done = subprocess.run([sys.executable, *arguments], input=ASKS, text=True, capture_output=True, check=True)
    assert done.stdout == f"{again}\n"


@pytest.mark.slow
def test_a_script_without_a_guard_runs_once(results: Store) -> None:
    Path("script.py").write_text(
        "from pathlib import Path\nfrom pai_bench.report.page import write_report\n"
        "from pai_bench.results import Store\n"
        "print('begun')\nwrite_report(Store('results'), Path('report.md'))\nprint('done')\n"
    )
    done = subprocess.run([sys.executable, "script.py"], text=True, capture_output=True, check=True)
    assert done.stdout.splitlines() == ["begun", "done"]
    assert done.stderr == ""


def test_the_current_folder_holds_no_modules_of_another_process(jobs: ModuleType) -> None:
    """One called as Python's own would otherwise end it as it begins."""
    for name in ("random.py", "queue.py", "selectors.py"):
        Path(name).write_text("raise SystemExit('not mine')\n")
    done = subprocess.run([sys.executable, "-P", "-c", THREE], text=True, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == ("2\n", "")


THREE = (
    "import sys; sys.path.append('.'); import some_jobs; from pai_bench.support.parallel import helpers, parallel_map\n"
    "with helpers(1, 'os') as other: "
    "print(len({pid for _, pid in parallel_map(some_jobs.works, [(i, 'met') for i in range(4)], other)}))"
)
