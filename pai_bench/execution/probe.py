"""A process beside this one that is asked, before trials run, what a network that is not ours may crash on."""

import logging
from collections.abc import Iterable
from typing import Any

import torch

from pai_bench import children
from pai_bench.catalog import Catalog, Inspection, inspect_network, resolve
from pai_bench.data import DataSet
from pai_bench.execution.shared_trials import Network, SharedTrials
from pai_bench.execution.worker_process import Worker, end, start
from pai_bench.experiment.sources import ModelSource
from pai_bench.plan import Sweep, Trial

logger = logging.getLogger(__name__)


class Apart:
    """A process beside this one that inspects the networks of a sweep and measures their steps.

    Where that ends it, it is started again, and the others go on. It becomes the first worker.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.fit = sweep, True
        """Whether such a process can read the sweep."""
        self.trials = SharedTrials([])
        self._worker: Worker | None = None
        self._identities: list[str] = []
        self._known: dict[Network, Inspection] = {}

    def inspect(self, sweep: Sweep, data: DataSet, model: ModelSource) -> Inspection:
        """As `inspect_network`, which is called here for our own networks, and where no process can read the sweep."""
        network = data.name, model.name
        if network not in self._known and not model.is_own:
            self._begin()
        found = self._known.get(network)
        return inspect_network(sweep, data, model) if found is None else found

    def ask(self, question: str, trial: Trial, *arguments: object) -> Any:
        """The answer to a question that `pai_bench.execution.worker` knows, about a trial."""
        if (worker := self._begin()) is None:
            raise RuntimeError("no process can be started to measure in")
        try:
            worker.line.send(("ask", (question, self.trials.named([trial]), arguments)))
            outcome, answer = worker.receive()
        except (EOFError, OSError):
            self._worker = None
            raise RuntimeError(f"the process that ran {trial.model} died ({worker.ended()})") from None
        if outcome == "error":
            raise RuntimeError(answer)
        return answer

    def hand_over(self) -> Worker | None:
        """The process, if it runs and has made the same trials, for whoever ends it then."""
        worker, self._worker = self._worker, None
        if worker is not None and not self.trials.are(self._identities):
            end([worker])
            return None
        return worker

    def close(self) -> None:
        """End the process; another question starts it again."""
        if self._worker is not None:
            end([self._worker])
            self._worker = None

    def _begin(self) -> Worker | None:
        """The process, which has read the sweep; None where none can."""
        while self._worker is None and self.fit:
            with children.interrupts_deferred():
                self._worker = start(self.sweep, self._known, torch.get_num_threads())
            self._await(self._worker)
        return self._worker

    def _await(self, worker: Worker) -> None:
        """Wait until a process has read the sweep; if a network ends it, remember that."""
        inspected: tuple[Network, Inspection] | None = None
        try:
            kind, content = worker.receive()
            while kind == "inspects":
                inspected = content
                kind, content = worker.receive()
        except (EOFError, OSError):
            self._worker = None
            how = worker.ended()
            self.fit = inspected is not None
            if inspected is not None:
                (data, model), known = inspected
                self._known[data, model] = known
                logger.warning("model %s ends the process that runs it on %s (%s)", model, data, how)
            return
        if kind == "ready":
            self._identities, found = content
            self._known |= found
        else:
            logger.info("another process cannot read this sweep: %s", content)
            self.fit = False
            self.close()


def close(catalogs: Iterable[Catalog]) -> None:
    """End the processes of some catalogs."""
    for catalog in catalogs:
        if catalog.elsewhere is not None:
            catalog.elsewhere.close()


def prepared(sweep: Sweep) -> Catalog:
    """`resolve`, with a process beside this one for networks and criteria that are not ours, and may end it.

    Whoever calls this is to `close` it.
    """
    if not (sweep.has_foreign_code and sweep.by_name and children.can_start()):
        return resolve(sweep)
    apart = Apart(sweep)
    try:
        catalog = resolve(sweep, apart.inspect)
    except BaseException:
        apart.close()
        raise
    apart.trials = SharedTrials(catalog.trials)
    catalog.elsewhere = apart if apart.fit else None
    return catalog
