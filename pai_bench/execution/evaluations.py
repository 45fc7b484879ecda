"""Metrics of the trained networks of a sweep, after they were trained or long after."""

import logging
import time
from collections.abc import Mapping, Sequence

import torch

from pai_bench.evaluation import Dense, evaluate_network, get_metric, missing_metrics, needs_dense
from pai_bench.execution.listener import Listener
from pai_bench.experiment.inputs import Inputs
from pai_bench.experiment.kept_networks import decode
from pai_bench.experiment.levels import content_of, dense_of
from pai_bench.experiment.trial import Trial
from pai_bench.results import Record, Store
from pai_bench.results.claims import Claims
from pai_bench.results.networks import NetworkFolder
from pai_bench.support.errors import UserError

logger = logging.getLogger(__name__)


class Evaluations:
    """Which metrics of which networks of a sweep are missing, and what computes them.

    Networks are evaluated one after the other in this process, dense ones first, since others are held against them.
    """

    def __init__(self, inputs: Inputs, store: Store, metrics: Sequence[str]) -> None:
        self.inputs, self.store = inputs, store
        self.metrics = dict(map(get_metric, metrics))
        """Name with its options -> metric."""
        self.networks = NetworkFolder(store.path)

    def missing(self, trial: Trial, record: Record | None) -> list[str]:
        """The metrics that are not stored of a trial; none of what was not trained."""
        if record is None or record.status != "done" or not self.metrics:
            return []
        return missing_metrics(self.store, trial.identity, self.metrics)

    def needed(self, trial: Trial, missing: Sequence[str]) -> list[str]:
        """The names of the networks that the missing metrics of a trial need: its own, and the dense one."""
        dense = [dense_of(trial).identity] if any(map(needs_dense, (self.metrics[name] for name in missing))) else []
        return list(dict.fromkeys([trial.identity, *dense]))

    def run(
        self, trials: Sequence[Trial], records: Mapping[str, Record | None], listener: Listener, claims: Claims | None
    ) -> None:
        """Evaluate what is missing of some trials; a metric that fails, and a network that is not there, are warned of.

        With `claims`, what another process evaluates is left to it.
        """
        todo = [trial for trial in trials if self.missing(trial, records[trial.identity])]
        if not todo:
            return
        todo.sort(key=lambda trial: (dense_of(trial).identity, trial.criterion is not None))
        listener.on_evaluation(todo)
        name, dense = "", None
        for trial in todo:
            if any(map(needs_dense, self.metrics.values())) and name != (name := dense_of(trial).identity):
                dense = self._dense(trial)
            if claims is not None and not claims.claim(trial.identity):
                continue
            begin = time.perf_counter()
            missing = self.missing(trial, records[trial.identity])
            self._evaluate(trial, missing, None if trial.criterion is None else dense)
            if claims is not None:
                claims.release(trial.identity)
            listener.on_evaluated(trial, self.store.read_evaluation(trial.identity), time.perf_counter() - begin)

    def _dense(self, trial: Trial) -> Dense | None:
        """The dense network of a trial; None if it is not kept."""
        dense = dense_of(trial)
        if not self.networks.holds(dense.identity):
            logger.warning("%s is not kept: networks are not held against it", dense.identity)
            return None
        return Dense(self.model(dense).eval(), identity=dense.identity)

    def model(self, trial: Trial) -> torch.nn.Module:
        """The trained network of a trial, as it was kept."""
        name = trial.identity
        kept = decode(content_of(self.networks, name), name, self.inputs.device)
        return kept.load_into(self.inputs.model(trial)).to(self.inputs.device)

    def _evaluate(self, trial: Trial, metrics: Sequence[str], dense: Dense | None) -> None:
        """Evaluate one network, each metric by itself, so that one that fails takes no other with it."""
        if not self.networks.holds(trial.identity):
            logger.warning("trial %s is not evaluated: its network is not kept", trial.identity)
            return
        model, data = self.model(trial), self.inputs.data(trial, noisy=True)
        for name in metrics:
            try:
                evaluate_network(self.store, trial.identity, model, data, [name], dense)
            except UserError as error:
                logger.warning("trial %s: %s", trial.identity, error)
