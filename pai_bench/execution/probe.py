"""A process beside this one that is asked, before trials run, what a network that is not ours may crash on."""

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
    """A process beside this one that inspects the networks of a sweep and measures their steps.

    Where that ends it, it is started again, and the others go on. It becomes the first worker.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.fit = sweep, True
        """Whether such a process can read the sweep."""
        self._worker: Worker | None = None

    def inspect(self, sweep: Sweep, source: DataSource, data: DataSet, model: ModelSource) -> Inspection:
        """As `inspect_network`, which is called here for our own networks, and for what fails in the process."""
        found = None if model.is_own else self._inspected(sweep, source, model)
        return inspect_network(sweep, data, model) if found is None else found

    def _inspected(self, sweep: Sweep, source: DataSource, model: ModelSource) -> Inspection | None:
        """What the process finds, or all that it had found when the network ended it; None where it cannot find it."""
        if (worker := self._begin()) is None:
            return None
        known: Inspection | None = None
        try:
            worker.connection.send(("inspect", pickle.dumps((sweep, source, model))))
            message_type, content = worker.receive()
            while message_type == "inspects":
                known = content
                message_type, content = worker.receive()
        except (EOFError, OSError):
            self._worker = None
            how = worker.ended()
            self.fit = known is not None
            if known is not None:
                logger.warning("model %s ends the process that runs it on %s (%s)", model, source, how)
            return known
        if message_type == "unfit":
            logger.info("another process cannot read this sweep: %s", content)
            self.fit = False
            self.close()
        return content if message_type == "result" else None

    def query(self, function: str, trial: Trial, *arguments: object) -> Any:
        """What a function that `pai_bench.execution.worker` knows by its name returns, for a trial."""
        if (worker := self._begin()) is None:
            raise RuntimeError("no process can be started to measure in")
        try:
            worker.connection.send(("query", pickle.dumps((trial, function, arguments))))
            outcome, content = worker.receive()
        except (EOFError, OSError):
            self._worker = None
            raise RuntimeError(f"the process that ran {trial.model} died ({worker.ended()})") from None
        if outcome != "result":
            raise RuntimeError(content)
        return content

    def hand_over(self) -> Worker | None:
        """The process, if it runs, for whoever ends it then."""
        worker, self._worker = self._worker, None
        return worker

    def close(self) -> None:
        """End the process; another call starts it again."""
        if self._worker is not None:
            end([self._worker])
            self._worker = None

    def _begin(self) -> Worker | None:
        """The process; None where none can read the sweep."""
        if self._worker is None and self.fit:
            with processes.interrupts_deferred():
                self._worker = start(self.sweep, {}, torch.get_num_threads())
        return self._worker


def close(catalogs: Iterable[Catalog]) -> None:
    """End the processes of some catalogs."""
    for catalog in catalogs:
        if catalog.isolated_process is not None:
            catalog.isolated_process.close()


def prepared(sweep: Sweep) -> Catalog:
    """`resolve`, with a process beside this one for networks and criteria that are not ours, and may end it.

    Whoever calls this is to `close` it.
    """
    if not (sweep.has_foreign_code and sweep.by_name and processes.can_start()):
        return resolve(sweep)
    probe = Probe(sweep)
    try:
        catalog = resolve(sweep, probe.inspect)
    except BaseException:
        probe.close()
        raise
    catalog.isolated_process = probe if probe.fit else None
    return catalog
