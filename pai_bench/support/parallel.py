"""A map over several processes, which run the main module of no script again."""

import itertools
import logging
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from multiprocessing import active_children, get_context
from multiprocessing.process import BaseProcess
from typing import TypeVar

from pai_bench.support.processes import THREADS, can_start, follow, interrupts_blocked, interrupts_deferred

Result = TypeVar("Result")


def parallel_map(
    function: Callable[..., Result],
    jobs: Sequence[tuple[object, ...]],
    processes: int,
    on_done: Callable[[int], None] = lambda count: None,
) -> list[Result]:
    """``function(*job)`` of all `jobs`, in their order, by this process and so many more that make `processes`.

    What a process leaves that dies, or cannot be started, is done by this one. An error of a job ends all others.
    `on_done` is called with the number of jobs done so far, from any thread.
    """
    results: dict[int, Result] = {}
    places, counts = iter(range(len(jobs))), itertools.count(1)
    helpers: set[BaseProcess] = set()

    def work(run: Callable[..., Result]) -> None:
        for place in places:  # each of which one thread gets
            try:
                results[place] = run(function, *jobs[place])
            except BrokenProcessPool:
                return
            except BaseException:
                for _ in places:  # nobody begins another
                    pass
                raise
            on_done(next(counts))

    with ExitStack() as stack:
        threads: list[Future[None]] = []
        # without room for a process, or for a semaphore (in /dev/shm), this process does all
        with suppress(OSError, ImportError, RuntimeError):
            if others := max(0, min(processes, len(jobs)) - 1):
                pool, helpers = spawned(others)
                stack.enter_context(pool)
                executor = stack.enter_context(ThreadPoolExecutor(others))
                threads += [executor.submit(work, lambda *job: pool.submit(*job).result()) for _ in range(others)]
        try:
            work(lambda function, *job: function(*job))
            for thread in threads:
                thread.result()
        finally:
            for process in helpers:  # which have nothing left to do, or are to end at once
                process.kill()
    for place in set(range(len(jobs))) - set(results):
        results[place] = function(*jobs[place])
        on_done(next(counts))
    return [results[place] for place in range(len(jobs))]


def spawned(processes: int) -> tuple[ProcessPoolExecutor, set[BaseProcess]]:
    """So many processes that have been started, each to use one thread of the processor."""
    pool = ProcessPoolExecutor(processes, get_context("spawn"), begin, (os.getpid(), logging.getLogger().level))
    # the second, so that a file in the current folder is not taken for a module of Python's
    given = dict.fromkeys(THREADS, "1") | {"PYTHONSAFEPATH": "1"}
    before, others = dict(os.environ), set(active_children())
    with interrupts_deferred(), interrupts_blocked():
        os.environ |= given
        try:
            for _ in range(processes):
                pool.submit(os.getpid)
        finally:
            for name in given:
                del os.environ[name]
            os.environ |= {name: before[name] for name in given if name in before}
    return pool, set(active_children()) - others


def begin(parent: int, level: int) -> None:
    """What a process that was `spawned` does first."""
    follow(parent)
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s")


def processors() -> int:
    """How many processors this process may use; 1 where no other can be started, or would run a script again."""
    if not can_start() or spawning_runs_main():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spawning_runs_main() -> bool:
    """Whether processes of `multiprocessing` would run the main module again, as they do a script without a guard.

    They do not run what ``python -m PACKAGE`` or ``python -c`` has run, nor a notebook; and ``pai-bench`` has a guard.
    """
    main = sys.modules["__main__"]
    if (spec := getattr(main, "__spec__", None)) is not None:
        return str(spec.name).rpartition(".")[2] != "__main__"
    return os.path.basename(getattr(main, "__file__", "pai-bench")) != "pai-bench"
