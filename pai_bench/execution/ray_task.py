"""What runs on the nodes of a Ray cluster: one cell of trials, which reads and writes no file of the sweep.

Its messages go to the driver through a queue: ``("epoch", (index, epoch))``, ``("records", (indices, records,
seconds))``, ``("checkpoint", (trials, content))``, ``("remove", trials)``, ``("set aside", (trials, why))``,
``("network", (name, content))``, ``("log", (name, level, text))``.
"""

import functools
import logging
import pickle
import socket
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pai_bench import __version__
from pai_bench.data import DataSet
from pai_bench.execution.execution_plan import ExecutionPlan
from pai_bench.experiment.resolve import Catalog
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.sweep import Execution
from pai_bench.experiment.trial import Trial
from pai_bench.support.environment import ignore_harmless_warnings, select_device
from pai_bench.support.errors import UserError
from pai_bench.support.memory import keep_freed_memory

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.util.queue import Queue

Packed = tuple[str, str, int, list[tuple[Any, torch.dtype, tuple[int, ...]]]]
"""A data set as arrays of bytes, which all processes of a node share."""


def packed(data: DataSet) -> Packed:
    """A data set for the object store."""
    tensors = [*data.train, *data.test]
    views = [tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy() for tensor in tensors]
    parts = [(view, tensor.dtype, tuple(tensor.shape)) for view, tensor in zip(views, tensors, strict=True)]
    return data.name, data.label, data.num_classes, parts


def unpacked(content: Packed) -> DataSet:
    """The data set, in the memory of the object store, which cannot be written."""
    name, label, num_classes, parts = content
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        tensors = [torch.from_numpy(view).view(dtype).reshape(shape) for view, dtype, shape in parts]
    return DataSet(name, (tensors[0], tensors[1]), (tensors[2], tensors[3]), num_classes, label)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Setup:
    """What all cells of a sweep share, sent to each node once."""

    execution: Execution
    plan: ExecutionPlan
    command: str | None
    log_level: int
    data: "Mapping[str, ObjectRef[Packed]]"
    """By name, each in the object store."""
    queue: "Queue"
    version: str = __version__


class Outbox:
    """Sends messages about a cell to the driver."""

    def __init__(self, queue: "Queue", number: int) -> None:
        self._actor: Any = queue.actor
        self._number = number

    def send(self, message_type: str, content: object, *, wait: bool = True) -> None:
        """Send a message; by default, wait until it has arrived, since this process may end at once."""
        import ray

        # as bytes, so that the process that holds the queue need not import what they are made of
        arrived = self._actor.put.remote(pickle.dumps((self._number, message_type, content)))
        if wait:
            ray.get(arrived)


class SentCheckpoints:
    """A `CheckpointStore` of one cell: the driver has put in what there was, and stores what is written."""

    def __init__(self, outbox: Outbox, trials: Sequence[str], content: bytes | None) -> None:
        self._outbox, self._trials, self._content = outbox, tuple(trials), content

    def write(self, trials: Sequence[str], content: bytes) -> None:
        """Send a checkpoint to the driver."""
        self._outbox.send("checkpoint", (tuple(trials), content))

    def read(self, trials: Sequence[str]) -> bytes | None:
        """The checkpoint that came with the cell, if it is of exactly these trials."""
        return self._content if tuple(trials) == self._trials else None

    def holds(self, trials: Sequence[str]) -> bool:
        """Whether a checkpoint of exactly these trials came with the cell."""
        return self.read(trials) is not None

    def remove(self, trials: Sequence[str]) -> None:
        """Let the driver remove a checkpoint."""
        self._outbox.send("remove", tuple(trials))

    def claimed(self, trials: Iterable[str]) -> frozenset[str]:
        """None: the driver ends this task if it loses a claim."""
        return frozenset()

    def set_aside(self, trials: Sequence[str], why: str) -> None:
        """Let the driver set the checkpoint aside."""
        self._outbox.send("set aside", (tuple(trials), why))


class SentNetworks:
    """A `NetworkStore` of one cell: the driver has put in what it begins with, and stores what is written."""

    def __init__(self, outbox: Outbox, networks: Mapping[str, bytes]) -> None:
        self._outbox, self._networks = outbox, networks

    def write(self, name: str, content: bytes) -> None:
        """Send a network to the driver."""
        self._outbox.send("network", (name, content))

    def read(self, name: str) -> bytes | None:
        """A network that came with the cell."""
        return self._networks.get(name)


class SentLogs(logging.Handler):
    """Sends what is logged to the driver, which the user sees."""

    def __init__(self, outbox: Outbox) -> None:
        super().__init__()
        self._outbox = outbox

    def emit(self, record: logging.LogRecord) -> None:
        """Send one message."""
        self._outbox.send("log", (record.name, record.levelno, record.getMessage()), wait=False)


@functools.lru_cache(maxsize=1)
def prepared(reference: "ObjectRef[Setup]") -> tuple[Setup, Runner]:
    """The setup of a sweep and its runner, which this process keeps for all cells that it is given."""
    import ray

    setup = ray.get(reference)
    if setup.version != __version__:
        where = f"node {socket.gethostname()} has pai-bench {__version__}, and this machine {setup.version}"
        raise UserError(f"{where}: install the same version on all nodes")
    keep_freed_memory()
    ignore_harmless_warnings()
    logging.getLogger().setLevel(setup.log_level)
    catalog = Catalog(select_device(setup.execution.device), setup.execution)
    return setup, Runner(catalog, setup.command, workers=setup.plan.workers)


def run_cell(
    references: "Sequence[ObjectRef[Setup]]",
    number: int,
    content: bytes,
    checkpoint: bytes | None,
    networks: Mapping[str, bytes],
) -> None:
    """Run the trials in `content`, which is the cell with that number, perhaps from a `checkpoint`.

    `networks` are those that they begin with.
    """
    import ray

    from pai_bench.execution.worker import check_trial  # not before: worker processes run that module

    setup, runner = prepared(references[0])
    torch.set_num_threads(setup.plan.threads)
    cell: list[Trial] = pickle.loads(content)
    for name in {trial.data.name for trial in cell} - set(runner.catalog.data):
        runner.catalog.data[name] = unpacked(ray.get(setup.data[name]))
    for trial in cell:
        check_trial(runner, trial)
    outbox, index = Outbox(setup.queue, number), {trial.identity: place for place, trial in enumerate(cell)}
    runner.checkpoints = SentCheckpoints(outbox, list(index), checkpoint)
    runner.networks = SentNetworks(outbox, networks)
    logging.getLogger().addHandler(logs := SentLogs(outbox))

    def on_epoch(trial: Trial, epoch: int) -> None:
        outbox.send("epoch", (index[trial.identity], epoch), wait=False)

    sent = 0
    try:
        start = time.perf_counter()
        for trials, records in runner.run_together(cell, on_epoch, setup.plan.engine(cell[0])):
            seconds = time.perf_counter() - start
            outbox.send("records", ([index[trial.identity] for trial in trials], records, seconds))
            start, sent = time.perf_counter(), sent + len(trials)
        if sent < len(cell):
            outbox.send("taken over", None)
    finally:
        logging.getLogger().removeHandler(logs)
