"""A map over several processes, which do not run the main module again."""

import importlib
import itertools
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from multiprocessing.process import BaseProcess
from typing import TypeVar

from pai_bench.support.processes import THREADS, can_start, end_with_parent, interrupts_blocked, interrupts_deferred

Result = TypeVar("Result")


@dataclass(frozen=True)
class Helpers:
    """Processes that share the jobs of a `parallel_map` with this one."""

    pool: ProcessPoolExecutor
    processes: Collection[BaseProcess]

    def kill(self) -> None:
        """End all of them at once."""
        for process in self.processes:
            process.kill()


@contextmanager
def helpers(number: int, module: str) -> Iterator[Helpers | None]:
    """A block with so many processes beside this one, which begin at once to import `module`.

    None where `number` is 0, or where there is no memory for a process, or for a semaphore (in /dev/shm).
    """
    with ExitStack() as stack:
        others = None
        with suppress(OSError, ImportError, RuntimeError):
            if number > 0:
                others = Helpers(*spawned(number, module))
                stack.enter_context(others.pool)
                stack.callback(others.kill)  # they have nothing left to do, or are to end at once
        yield others


def parallel_map(
    function: Callable[..., Result],
    jobs: Sequence[tuple[object, ...]],
    others: Helpers | None,
    on_done: Callable[[int], None] = lambda count: None,
) -> list[Result]:
    """``function(*job)`` of all `jobs`, in their order, by this process and `others`.

    The jobs of a process that dies are done by this one. An error of a job ends all others. `on_done` is called with
    the number of jobs done so far, from any thread.
    """
    results: dict[int, Result] = {}
    indices: Iterator[int] = iter(range(len(jobs)))
    counts = itertools.count(1)

    def work(run: Callable[..., Result]) -> None:
        for index in indices:  # each of which one thread gets
            try:
                results[index] = run(function, *jobs[index])
            except BrokenProcessPool:
                return
            except BaseException:
                deque(indices, maxlen=0)  # no thread begins another job
                raise
            on_done(next(counts))

    with ExitStack() as stack:
        threads: list[Future[None]] = []
        if others is not None and len(jobs) > 1:
            pool, number = others.pool, min(len(others.processes), len(jobs) - 1)
            executor = stack.enter_context(ThreadPoolExecutor(number))
            threads += [executor.submit(work, lambda *job: pool.submit(*job).result()) for _ in range(number)]
        try:
            work(lambda function, *job: function(*job))
            for thread in threads:
                thread.result()
        except BaseException:
            if others is not None:
                others.kill()
            raise
    indices = iter(set(range(len(jobs))) - set(results))
    work(lambda function, *job: function(*job))
    return [results[index] for index in range(len(jobs))]


def spawned(processes: int, module: str) -> tuple[ProcessPoolExecutor, set[BaseProcess]]:
    """So many processes that have been started, each to use one thread of the processor, and to import a module."""
    pool = ProcessPoolExecutor(processes, get_context("spawn"), begin, (os.getpid(), logging.getLogger().level))
    # the second, so that a file in the current folder does not hide a module of Python's
    environment = dict.fromkeys(THREADS, "1") | {"PYTHONSAFEPATH": "1"}
    before, others = dict(os.environ), set(active_children())
    with interrupts_deferred(), interrupts_blocked():
        os.environ |= environment
        try:
            for _ in range(processes):
                pool.submit(import_module, module)
        finally:
            for name in environment:
                del os.environ[name]
            os.environ |= {name: before[name] for name in environment if name in before}
    return pool, set(active_children()) - others


def import_module(module: str) -> None:
    """Import a module; nothing is sent back."""
    importlib.import_module(module)


def begin(parent: int, level: int) -> None:
    """What a process that was `spawned` does first."""
    end_with_parent(parent)
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s")


def processors() -> int:
    """How many processors this process may use; 1 where no other can be started, or would run a script again."""
    if not can_start() or spawning_runs_main():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spawning_runs_main() -> bool:
    """Whether processes of `multiprocessing` would run the main module again, as they do a script without a guard."""
    # they do not run what ``python -m PACKAGE`` or ``python -c`` has run, nor a notebook; and ``pai-bench`` has a guard
    main = sys.modules["__main__"]
    if (spec := getattr(main, "__spec__", None)) is not None:
        return str(spec.name).rpartition(".")[2] != "__main__"
    return os.path.basename(getattr(main, "__file__", "pai-bench")) != "pai-bench"
