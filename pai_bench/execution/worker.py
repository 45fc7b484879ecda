"""A worker process: resolves a sweep by itself, runs the cells that it is given, and sends their records back.

``python -m pai_bench.execution.worker N``, N being the file descriptor of the line to the parent.
"""

import logging
import os
import pickle
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection


def main() -> None:
    """Serve until the line is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's, who ends this process
    threading.Thread(target=leave_with, args=[os.getppid()], daemon=True).start()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent has gone
        serve(Connection(int(sys.argv[1])))


def leave_with(parent: int) -> None:
    """End this process when its parent has ended without a word, as by a signal, in the middle of a trial too."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def serve(line: Connection) -> None:
    """Run cell after cell."""
    import torch

    from pai_bench.catalog import resolve
    from pai_bench.memory import keep_freed_memory
    from pai_bench.plan import Trial
    from pai_bench.runner import Runner

    keep_freed_memory()
    content = line.recv_bytes()
    try:
        sweep, command, choice, level = pickle.loads(content)
        logging.basicConfig(level=level, format="%(levelname)s: %(message)s")
        torch.set_num_threads(choice.threads)
        catalog = resolve(sweep)
    except Exception as error:
        line.send(("unfit", f"{type(error).__name__}: {error}"))
        return
    runner = Runner(catalog, command, workers=choice.workers)
    line.send(("ready", None))
    while True:
        cell = [catalog.trials[place] for place in line.recv()]

        def tell(trial: Trial, epoch: int, cell: list[Trial] = cell) -> None:
            line.send(("epoch", (cell.index(trial), epoch)))

        line.send(("records", runner.run_together(cell, tell)))


if __name__ == "__main__":
    main()
