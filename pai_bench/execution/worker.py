"""A worker process: runs the trials that it is sent, and sends their records back.

``python -m pai_bench.execution.worker N M``, the file descriptors of the connection to the parent and of crash reports.
"""

import dataclasses
import faulthandler
import functools
import logging
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from pai_bench.support.processes import HEARTBEAT, connection_to_parent

if TYPE_CHECKING:
    from pai_bench.experiment.runner import Runner
    from pai_bench.experiment.sources import DataSource, ModelSource
    from pai_bench.experiment.sweep import Sweep
    from pai_bench.experiment.trial import Trial
    from pai_bench.training.trainer import Engine


def main() -> None:
    """Serve until the connection is closed."""
    # between two steps of a training, whose state is saved before
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the parent ends its workers
    with suppress(KeyboardInterrupt, EOFError, BrokenPipeError, ConnectionResetError):  # the parent has gone
        connection = SharedConnection(connection_to_parent())
        threading.Thread(target=connection.beat, daemon=True).start()
        serve(connection)


class SharedConnection:
    """The connection to the parent, through which several threads may send."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()
        self.recv, self.recv_bytes = connection.recv, connection.recv_bytes

    def send(self, message: tuple[str, object]) -> None:
        """Send a message."""
        with self._lock:
            self._connection.send(message)

    def beat(self) -> None:
        """Send heartbeats, also while torch is imported and during a trial."""
        with suppress(OSError):  # the parent has gone
            while True:
                self.send(("alive", None))
                time.sleep(HEARTBEAT)


def serve(connection: SharedConnection) -> None:
    """Run the functions and cells that are sent, one after the other."""
    import torch

    from pai_bench.execution.estimate import time_score, weight_sizes
    from pai_bench.execution.execution_plan import ExecutionPlan
    from pai_bench.execution.measure import measured_step
    from pai_bench.experiment.resolve import Catalog
    from pai_bench.experiment.runner import Runner
    from pai_bench.support.environment import ignore_harmless_warnings, select_device
    from pai_bench.support.logs import Sender
    from pai_bench.support.memory import keep_freed_memory

    functions: dict[str, Callable[..., object]]
    functions = {"step": measured_step, "score": time_score, "sizes": weight_sizes, "obstacle": Runner.obstacle}
    functions["inspect"] = functools.partial(inspect, connection)
    faulthandler.enable(int(sys.argv[2]), all_threads=False)  # a crash is then reported with its line of Python
    keep_freed_memory()
    ignore_harmless_warnings()
    try:
        level, execution, data = pickle.loads(connection.recv_bytes())
        logging.basicConfig(level=level, format="%(message)s", handlers=(Sender(connection.send),))
        catalog = Catalog(select_device(execution.device), execution, data=data)
    except Exception as error:
        connection.send(("unfit", f"{type(error).__name__}: {error}"))
        return
    runner, plan, ready = Runner(catalog), ExecutionPlan(), False
    while True:
        message_type, content = connection.recv()
        if message_type == "plan":
            plan, kind, settings = content
            torch.set_num_threads(plan.threads)
            try:
                runner = kind(catalog, workers=plan.workers, **settings)
            except Exception as error:
                connection.send(("unfit", f"{type(error).__name__}: {error}"))
                return
            continue
        try:
            request = pickle.loads(content)
            for trial in request if message_type == "run" else ():
                check_trial(runner, trial)
        except Exception as error:
            connection.send(("unfit", f"{type(error).__name__}: {error}"))
            continue
        if message_type == "query":
            function, arguments = request
            connection.send(outcome(functions[function], runner, *arguments))
            continue
        if not ready:
            connection.send(("ready", None))
            ready = True
        run_cell(connection, runner, request, plan.engine(request[0]))


def run_cell(connection: SharedConnection, runner: "Runner", cell: "list[Trial]", engine: "Engine") -> None:
    """Run the trials of a cell, of which another process may take over some meanwhile."""

    def on_epoch(trial: "Trial", epoch: int) -> None:
        with suppress(OSError):  # the parent has gone, and this process is about to end
            connection.send(("epoch", (cell.index(trial), epoch)))

    sent = 0
    for trials, records in runner.run_together(cell, on_epoch, engine):
        connection.send(("records", ([cell.index(trial) for trial in trials], records)))
        sent += len(trials)
    if sent < len(cell):
        connection.send(("taken over", None))


def check_trial(runner: "Runner", trial: "Trial") -> None:
    """Load the data of a trial, and look up all else that it names; an error if anything is different here."""
    from pai_bench.support.errors import UserError
    from pai_bench.support.registry import INITIALISATIONS

    runner.inputs.loaded(trial)
    trial.model.load_builder()
    if trial.init != "own" and trial.init not in INITIALISATIONS:
        raise UserError(f"initialisation {trial.init!r} is not registered in other processes")
    if (identity := dataclasses.replace(trial).identity) != trial.identity:
        raise UserError(f"trial {trial.identity} is another one in other processes, {identity}")


def inspect(
    connection: SharedConnection, runner: "Runner", sweep: "Sweep", source: "DataSource", model: "ModelSource"
) -> object:
    """`inspect_network`, of which also the part is sent that is known before the network is run: either may crash."""
    from pai_bench.experiment.resolve import Inspection, inspect_network

    data = runner.inputs.data_set(source)
    connection.send(("partial", Inspection()))
    return inspect_network(sweep, data, model, lambda built: connection.send(("partial", built)))


def outcome(function: Callable[..., object], *arguments: object) -> tuple[str, object]:
    """The message about the result of a function, or about its error."""
    from pai_bench.support.failures import described

    try:
        return "result", function(*arguments)
    except Exception as error:
        return "error", described(error)


if __name__ == "__main__":
    main()
