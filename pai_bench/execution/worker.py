"""A worker process: runs the trials that it is sent, and sends their records back.

``python -m pai_bench.execution.worker N``, N being the file descriptor of the connection to the parent.
"""

import dataclasses
import faulthandler
import logging
import pickle
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from pai_bench.support.processes import HEARTBEAT, connection_to_parent

if TYPE_CHECKING:
    from pai_bench.experiment.runner import Runner
    from pai_bench.experiment.sources import DataSource, ModelSource
    from pai_bench.experiment.sweep import Sweep
    from pai_bench.experiment.trial import Trial


def main() -> None:
    """Serve until the connection is closed."""
    connection = SharedConnection(connection_to_parent())
    threading.Thread(target=connection.beat, daemon=True).start()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent has gone
        serve(connection)


class SharedConnection:
    """The connection to the parent, along which several threads may send."""

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
                time.sleep(HEARTBEAT)


def serve(connection: SharedConnection) -> None:
    """Answer questions, and run cell after cell."""
    import torch

    from pai_bench.execution.execution_plan import ExecutionPlan
    from pai_bench.experiment.resolve import Catalog
    from pai_bench.experiment.runner import Runner
    from pai_bench.support.environment import ignore_harmless_warnings, select_device
    from pai_bench.support.memory import keep_freed_memory

    faulthandler.enable(int(sys.argv[2]), all_threads=False)  # a crash then says in which line of Python it was
    keep_freed_memory()
    ignore_harmless_warnings()
    try:
        level, execution, data = pickle.loads(connection.recv_bytes())
        logging.basicConfig(level=level, format="%(levelname)s: %(message)s")
        catalog = Catalog(select_device(execution.device), execution, data=data)
    except Exception as error:
        connection.send(("unfit", f"{type(error).__name__}: {error}"))
        return
    runner, plan, ready = Runner(catalog), ExecutionPlan(), False
    while True:
        message_type, content = connection.recv()
        if message_type == "plan":
            plan, command = content
            torch.set_num_threads(plan.threads)
            runner = Runner(catalog, command, workers=plan.workers)
            continue
        try:
            subject, *rest = pickle.loads(content)
            if message_type == "run":
                for trial in subject:
                    check_trial(runner, trial)
        except Exception as error:
            connection.send(("unfit", f"{type(error).__name__}: {error}"))
            continue
        if message_type == "query":
            function, arguments = rest
            connection.send(call(runner, function, subject, arguments))
        elif message_type == "inspect":
            connection.send(inspect(runner, connection, subject, *rest))
        else:
            if not ready:
                connection.send(("ready", None))
                ready = True

            def on_epoch(trial: "Trial", epoch: int, cell: "list[Trial]" = subject) -> None:
                connection.send(("epoch", (cell.index(trial), epoch)))

            connection.send(("records", runner.run_together(subject, on_epoch, plan.engine(subject[0]))))


def check_trial(runner: "Runner", trial: "Trial") -> None:
    """Load the data of a trial, and look up all else that it names; an error if anything is not what it was."""
    from pai_bench.support.errors import UserError
    from pai_bench.support.registry import INITIALISATIONS

    runner.inputs.loaded(trial)
    trial.model.load_builder()
    if trial.init != "own" and trial.init not in INITIALISATIONS:
        raise UserError(f"initialisation {trial.init!r} is not registered in other processes")
    if (found := dataclasses.replace(trial).identity) != trial.identity:
        raise UserError(f"trial {trial.identity} is another one in other processes, {found}")


def inspect(
    runner: "Runner", connection: SharedConnection, sweep: "Sweep", source: "DataSource", model: "ModelSource"
) -> tuple[str, object]:
    """What is known of a network on a data set after it was run, or why that fails; what is known before is sent, too.

    Building it and running it may each end the process.
    """
    from pai_bench.experiment.resolve import Inspection, inspect_network
    from pai_bench.support.failures import described

    try:
        data = runner.inputs.data_set(source)
        connection.send(("inspects", Inspection()))
        return "result", inspect_network(sweep, data, model, lambda built: connection.send(("inspects", built)))
    except Exception as error:
        return "error", described(error)


def call(runner: "Runner", function: str, trial: "Trial", arguments: Sequence[Any]) -> tuple[str, object]:
    """What a function returns that runs a trial's network, or why it fails."""
    from pai_bench.execution.estimate import time_score, weight_sizes
    from pai_bench.execution.measure import measured_step
    from pai_bench.experiment.runner import Runner
    from pai_bench.support.failures import described

    functions: dict[str, Callable[..., object]] = {
        "step": measured_step,
        "score": time_score,
        "sizes": weight_sizes,
        "obstacle": Runner.obstacle,
    }
    try:
        return "result", functions[function](runner, trial, *arguments)
    except Exception as error:
        return "error", described(error)


if __name__ == "__main__":
    main()
