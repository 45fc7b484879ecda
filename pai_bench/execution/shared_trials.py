"""How a worker learns what trials there are: it resolves the sweep by itself, and a trial is its place among all.

Nothing else on either side knows how trials are sent.
"""

import pickle
from collections.abc import Callable, Mapping, Sequence

from pai_bench.catalog import Catalog, Inspection, inspect_network, resolve
from pai_bench.data import DataSet
from pai_bench.experiment.sources import ModelSource
from pai_bench.plan import Sweep, Trial

Network = tuple[str, str]
"""The names of a data set and of a network."""


def packed(sweep: Sweep, known: Mapping[Network, Inspection]) -> bytes:
    """A sweep as it is sent to a worker, with what is known of its networks."""
    return pickle.dumps((sweep, dict(known)))


def unpacked(content: bytes, on_inspect: Callable[[Network, Inspection], None]) -> Catalog:
    """The catalog of a sweep that was `packed`; in the worker.

    `on_inspect` is told what is known of a network so far, before it is built and before it is given examples: each may
    end the process.
    """
    sweep, known = pickle.loads(content)

    def inspect(sweep: Sweep, data: DataSet, model: ModelSource) -> Inspection:
        network = data.name, model.name
        if network in known:
            found: Inspection = known[network]
            return found
        on_inspect(network, Inspection())
        return inspect_network(sweep, data, model, lambda built: on_inspect(network, built))

    return resolve(sweep, inspect)


def trials_named(names: Sequence[int], catalog: Catalog) -> list[Trial]:
    """The trials of a catalog that the parent has named; in the worker."""
    return [catalog.trials[place] for place in names]


class SharedTrials:
    """The trials of a sweep, as the parent names them to a worker that has resolved the same sweep."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._places = {trial.identity: place for place, trial in enumerate(trials)}

    def named(self, cell: Sequence[Trial]) -> list[int]:
        """What the worker is sent for some trials."""
        return [self._places[trial.identity] for trial in cell]

    def are(self, identities: Sequence[str]) -> bool:
        """Whether a worker, whose trials have these `identities`, has made the same ones."""
        return list(identities) == list(self._places)
