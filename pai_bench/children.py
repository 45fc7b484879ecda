"""Processes of Python beside this one: how they start and end, and a map over several of them."""

import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import TypeVar

Result = TypeVar("Result")


def start(module: str, threads: int) -> tuple[subprocess.Popen[bytes], Connection]:
    """A process that runs `module` on so many `threads`, and the line to it.

    Unlike those of `multiprocessing`, it does not run the program that started it again.
    """
    path = os.pathsep.join(part or os.getcwd() for part in sys.path)
    limits = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    line, theirs = Pipe()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=os.environ | limits | {"PYTHONPATH": path},
        )
    return process, line


def line_to_parent() -> Connection:
    """The other end of the line, for a process that was started so; it ends when its parent has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's, who ends this process
    threading.Thread(target=leave_with, args=[os.getppid()], daemon=True).start()
    return Connection(int(sys.argv[1]))


def leave_with(parent: int) -> None:
    """End this process when its parent has ended without a word, as by a signal, in the middle of its work too."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def processors() -> int:
    """How many processes can run at once here; 1 where they cannot be started as above."""
    if os.name != "posix":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(function: Callable[..., Result], jobs: Sequence[tuple[object, ...]], processes: int) -> list[Result]:
    """``function(*job)`` of all `jobs`, in their order, by this process and so many more that make `processes`.

    What another process could not do, because it or the job failed there, is done by this one.
    """
    results: dict[int, Result] = {}
    waiting, left = queue.SimpleQueue[int | None](), list[int]()
    for place in (*range(len(jobs)), *[None] * processes):
        waiting.put(place)

    def hand_out(line: Connection) -> None:
        with line:
            for place in iter(waiting.get, None):
                try:
                    line.send((logging.getLogger().level, function, jobs[place]))
                    results[place] = line.recv()
                except Exception:
                    left.append(place)
                    return

    children, threads = [], []
    try:
        for _ in range(processes - 1):
            with suppress(OSError):  # fewer will do
                child, line = start("pai_bench.children", threads=1)
                children.append(child)
                threads.append(threading.Thread(target=hand_out, args=[line], daemon=True))
                threads[-1].start()
        for place in iter(waiting.get, None):
            results[place] = function(*jobs[place])
        for thread in threads:
            thread.join()
        for place in left:
            results[place] = function(*jobs[place])
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait()
    return [results[place] for place in range(len(jobs))]


def main() -> None:
    """Do job after job of `each`, until there are no more or one fails."""
    with suppress(Exception), line_to_parent() as line:  # the parent does the job again, and meets its error
        while True:
            level, function, job = line.recv()
            logging.basicConfig(level=level, format="%(levelname)s: %(message)s")
            line.send(function(*job))


if __name__ == "__main__":
    main()
