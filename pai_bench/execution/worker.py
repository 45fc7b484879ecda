"""A worker process: resolves a sweep by itself, runs the cells that it is given, and sends their records back.

``python -m pai_bench.execution.worker N``, N being the file descriptor of the line to the parent.
"""

import logging
import pickle
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection

from pai_bench.children import BEAT, line_to_parent


def main() -> None:
    """Serve until the line is closed."""
    line = Line(line_to_parent())
    threading.Thread(target=line.beat, daemon=True).start()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent has gone
        serve(line)


class Line:
    """The line to the parent, which several threads may send along."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()
        self.recv, self.recv_bytes = connection.recv, connection.recv_bytes

    def send(self, what: object) -> None:
        """Send one message whole."""
        with self._lock:
            self._connection.send(what)

    def beat(self) -> None:
        """Send signs of life, also while torch is imported and in the middle of a trial."""
        with suppress(OSError):  # the parent has gone
            while True:
                self.send(("alive", None))
                time.sleep(BEAT)


def serve(line: Line) -> None:
    """Run cell after cell."""
    import torch

    from pai_bench.catalog import resolve
    from pai_bench.environment import ignore_harmless_warnings
    from pai_bench.errors import UserError
    from pai_bench.memory import keep_freed_memory
    from pai_bench.plan import Trial
    from pai_bench.runner import Runner

    keep_freed_memory()
    ignore_harmless_warnings()
    content = line.recv_bytes()
    try:
        sweep, command, choice, level, identities = pickle.loads(content)
        logging.basicConfig(level=level, format="%(levelname)s: %(message)s")
        torch.set_num_threads(choice.threads)
        catalog = resolve(sweep)
        if [trial.identity for trial in catalog.trials] != identities:
            raise UserError("a function of yours makes other data in each process; let it draw by a fixed seed")
    except Exception as error:
        line.send(("unfit", f"{type(error).__name__}: {error}"))
        return
    runner = Runner(catalog, command, workers=choice.workers)
    line.send(("ready", None))
    while True:
        cell = [catalog.trials[place] for place in line.recv()]

        def tell(trial: Trial, epoch: int, cell: list[Trial] = cell) -> None:
            line.send(("epoch", (cell.index(trial), epoch)))

        line.send(("records", runner.run_together(cell, tell, choice.engine(cell[0]))))


if __name__ == "__main__":
    main()
