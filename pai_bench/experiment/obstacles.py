"""Why networks cannot be trained together: tried with two of them, and compared with training each alone."""

import dataclasses

import torch

from pai_bench.data import DataSet
from pai_bench.experiment.inputs import Inputs
from pai_bench.experiment.resolve import Catalog
from pai_bench.experiment.sources import DataSource, ModelSource
from pai_bench.experiment.trial import Trial
from pai_bench.support.randomness import random_state
from pai_bench.training.equivalence import difference, draws_at_random
from pai_bench.training.layout import prepare_layout
from pai_bench.training.trainer import Together

PROBE = 8
"""Examples on which training together is compared with training one by one."""


class Obstacles:
    """What is known of networks that cannot be trained together."""

    def __init__(self, catalog: Catalog, inputs: Inputs) -> None:
        self.catalog, self.inputs = catalog, inputs
        self._known: dict[tuple[DataSource, ModelSource, Together], str | None] = {}

    def obstacle(self, trial: Trial, together: Together = "stacked") -> str | None:
        """Why networks like that of a trial cannot be trained `together`; None if they can."""
        if (key := (trial.data, trial.model, together)) not in self._known:
            isolated = self.catalog.isolated_process
            data = self.inputs.data(trial) if isolated is None else None  # what fails there is no obstacle
            try:
                if isolated is not None:
                    self._known[key] = isolated.query("obstacle", trial, together)
                elif data is not None:
                    self._known[key] = self._difference(trial, together, data)
            except Exception as error:  # whatever torch.vmap says of operations that it does not know
                self._known[key] = str(error) if isolated is not None else str(error).partition("\n")[0]
        return self._known[key]

    def _difference(self, trial: Trial, together: Together, data: DataSet) -> str | None:
        """What is different when two networks like that of a trial are trained `together`; None if nothing is."""
        # with the network's own initial weights: steps from others may diverge, which would show nothing
        trials = [dataclasses.replace(trial, seed=seed, init="own") for seed in (0, 1)]
        spread = torch.linspace(0, len(data.train.targets) - 1, PROBE).long().to(self.inputs.device)
        inputs, targets = (tensor[spread.to(tensor.device)] for tensor in data.train)
        examples = data.normalised(inputs)
        with random_state(0):
            apart, joint = ([self.inputs.model(trial) for trial in trials] for _ in range(2))
            prepare_layout([*apart, *joint], examples)
            if together == "branches":
                return draws_at_random(joint, examples, targets)
            return difference(apart, joint, examples, targets)
