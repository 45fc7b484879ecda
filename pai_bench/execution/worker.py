"""A worker process: resolves a sweep by itself, runs the cells that it is given, and sends their records back.

``python -m pai_bench.execution.worker N``, N being the file descriptor of the line to the parent.
"""

import faulthandler
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from pai_bench.children import BEAT, line_to_parent

if TYPE_CHECKING:
    from pai_bench.plan import Trial
    from pai_bench.runner import Runner


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

    from pai_bench.environment import ignore_harmless_warnings
    from pai_bench.execution.execution_plan import ExecutionPlan
    from pai_bench.execution.shared_trials import trials_named, unpacked
    from pai_bench.memory import keep_freed_memory
    from pai_bench.plan import Trial
    from pai_bench.runner import Runner

    faulthandler.enable(int(sys.argv[2]), all_threads=False)  # a crash then says in which line of Python it was
    keep_freed_memory()
    ignore_harmless_warnings()
    logging.basicConfig(level=line.recv(), format="%(levelname)s: %(message)s")
    try:
        catalog = unpacked(line.recv_bytes(), lambda network, known: line.send(("inspects", (network, known))))
    except Exception as error:
        line.send(("unfit", f"{type(error).__name__}: {error}"))
        return
    runner, plan = Runner(catalog), ExecutionPlan()
    line.send(("ready", ([trial.identity for trial in catalog.trials], catalog.inspections)))
    while True:
        kind, content = line.recv()
        if kind == "ask":
            question, names, arguments = content
            (trial,) = trials_named(names, catalog)
            line.send(answer(runner, question, trial, arguments))
        elif kind == "plan":
            plan, command = content
            torch.set_num_threads(plan.threads)
            runner = Runner(catalog, command, workers=plan.workers)
        else:
            cell = trials_named(content, catalog)

            def tell(trial: Trial, epoch: int, cell: list[Trial] = cell) -> None:
                line.send(("epoch", (cell.index(trial), epoch)))

            line.send(("records", runner.run_together(cell, tell, plan.engine(cell[0]))))


def answer(runner: "Runner", question: str, trial: "Trial", arguments: Sequence[Any]) -> tuple[str, object]:
    """What a run of a trial's network tells, or why that fails."""
    from pai_bench.estimate import one_score, weight_sizes
    from pai_bench.execution.measure import measured_step
    from pai_bench.failures import described
    from pai_bench.runner import Runner

    questions: dict[str, Callable[..., object]] = {
        "step": measured_step,
        "score": one_score,
        "sizes": weight_sizes,
        "alone": Runner.alone,
    }
    try:
        return "answer", questions[question](runner, trial, *arguments)
    except Exception as error:
        return "error", described(error)


if __name__ == "__main__":
    main()
