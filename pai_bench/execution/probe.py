"""A process beside this one that runs, before trials do, networks that are not ours and may crash."""

import logging
import pickle
from collections.abc import Iterable
from typing import Any

import torch

from pai_bench.data import DataSet
from pai_bench.execution.worker_process import Worker, end, start
from pai_bench.experiment.resolve import Catalog, Inspection, inspect_network, resolve
from pai_bench.experiment.sources import DataSource, ModelSource
from pai_bench.experiment.sweep import Sweep
from pai_bench.experiment.trial import Trial
from pai_bench.support import processes

logger = logging.getLogger(__name__)


class Probe:
    """A process that inspects the networks of a sweep and measures their steps, and then becomes the first worker.

    Where a network ends it, it is started again for the next one.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.usable = sweep, True
        """Whether such a process can read the sweep."""
        self._worker: Worker | None = None

    def inspect(self, sweep: Sweep, source: DataSource, data: DataSet, model: ModelSource) -> Inspection:
        """`inspect_network`, called in this process for our own networks, and for what fails in the other one."""
        inspection = None if model.is_own else self._inspected(sweep, source, model)
        return inspect_network(sweep, data, model) if inspection is None else inspection

    def _inspected(
        self, sweep: Sweep, source: DataSource, model: ModelSource, *, again: bool = True
    ) -> Inspection | None:
        """The inspection by the process, or the part of it before the network ended the process; None if it fails.

        `again`: a process that ends before it has said anything, as where memory is short, is started once more.
        """
        if (worker := self._begin()) is None:
            return None
        partial: Inspection | None = None
        try:
            worker.connection.send(("query", pickle.dumps(("inspect", (sweep, source, model)))))
            message_type, content = worker.receive()
            while message_type == "partial":
                partial = content
                message_type, content = worker.receive()
        except (EOFError, OSError):
            self._worker = None
            how = worker.ended()
            if partial is None and again:
                return self._inspected(sweep, source, model, again=False)
            self.usable = partial is not None
            if partial is not None:
                logger.warning("model %s ends the process that runs it on %s (%s)", model, source, how)
            return partial
        if message_type == "unfit":
            logger.info("another process cannot read this sweep: %s", content)
            self.usable = False
            self.close()
        return content if message_type == "result" else None

    def query(self, function: str, trial: Trial, *arguments: object) -> Any:
        """What a function that `pai_bench.execution.worker` knows by its name returns, for a trial."""
        if (worker := self._begin()) is None:
            raise RuntimeError("no process can be started to measure in")
        try:
            worker.connection.send(("query", pickle.dumps((function, (trial, *arguments)))))
            outcome, content = worker.receive()
        except (EOFError, OSError):
            self._worker = None
            raise RuntimeError(f"the process that ran {trial.model} died ({worker.ended()})") from None
        if outcome != "result":
            raise RuntimeError(content)
        return content

    def hand_over(self) -> Worker | None:
        """The process, if it runs; the caller then has to end it."""
        worker, self._worker = self._worker, None
        return worker

    def close(self) -> None:
        """End the process; another call starts it again."""
        if self._worker is not None:
            end([self._worker])
            self._worker = None

    def _begin(self) -> Worker | None:
        """The process; None where none can read the sweep."""
        if self._worker is None and self.usable:
            with processes.interrupts_deferred():
                self._worker = start(self.sweep, {}, torch.get_num_threads())
        return self._worker


def close(catalogs: Iterable[Catalog]) -> None:
    """End the processes of some catalogs."""
    for catalog in catalogs:
        if catalog.isolated_process is not None:
            catalog.isolated_process.close()


def prepared(sweep: Sweep) -> Catalog:
    """`resolve`, with a process for networks and criteria that are not ours, which the caller has to `close`."""
    if not (sweep.has_foreign_code and sweep.by_name and processes.can_start()):
        return resolve(sweep)
    probe = Probe(sweep)
    try:
        catalog = resolve(sweep, probe.inspect)
    except BaseException:
        probe.close()
        raise
    catalog.isolated_process = probe if probe.usable else None
    return catalog
