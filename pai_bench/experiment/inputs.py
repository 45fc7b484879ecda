"""The inputs of a trial: its data, its network, its score batch."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pai_bench.data import DataSet
from pai_bench.experiment.examples import chosen_examples, labels_in_use, with_noise
from pai_bench.experiment.sources import DataSource, ModelSource
from pai_bench.experiment.trial import Trial
from pai_bench.graph.connectivity import Connections
from pai_bench.graph.flops import Flops
from pai_bench.groups import Groups, find_groups
from pai_bench.networks.private_copy import BATCH_NORMS
from pai_bench.networks.wrappers import unwrapped
from pai_bench.scoring import Batch, Scorer, StructuredCriterion
from pai_bench.scoring.prunable import prunable_names
from pai_bench.scoring.structured import GroupScorer, nothing_free
from pai_bench.support.errors import UserError
from pai_bench.support.identity import stream
from pai_bench.support.initialise import initialise
from pai_bench.support.memory import free_bytes
from pai_bench.support.randomness import random_state

logger = logging.getLogger(__name__)

LARGE_TRACE = 2**26
"""Bytes of a network's traced tensors from which they are not kept while it is trained."""

MEMORY_SHARE = 0.5
"""Share of a device's free memory that a data set may take to be resident there."""


class Inputs:
    """The inputs of trials on a device, the data resident there; `data` are those that were read already, by name."""

    def __init__(self, device: torch.device, data: dict[str, DataSet] | None = None) -> None:
        self.device, self._data = device, {} if data is None else data
        self._resident: dict[DataSource, DataSet] = {}
        self._traced: tuple[object, Connections | None] = None, None
        self._flops: dict[tuple[DataSource, ModelSource], Flops | None] = {}
        self._groups: dict[tuple[DataSource, ModelSource], Groups] = {}
        self._entropies: dict[tuple[object, ...], float] = {}

    def release(self) -> None:
        """Free the data on the device; they are sent there again when they are needed."""
        self._resident.clear()
        self._traced = None, None

    def data_set(self, source: DataSource) -> DataSet:
        """A data set, loaded once, on the processor."""
        if source.name not in self._data:
            self._data[source.name] = source.load()
        return self._data[source.name]

    def loaded(self, trial: Trial) -> DataSet:
        """The trial's data set on the processor, with all of its training examples."""
        return self.data_set(trial.data)

    def whole(self, trial: Trial) -> DataSet:
        """The trial's data set on the device, with all of its training examples."""
        if trial.data not in self._resident:
            data = self.loaded(trial)
            fits = self.device.type == "cpu" or data.nbytes < MEMORY_SHARE * free_bytes(self.device)
            if not fits:
                logger.warning("%s is larger than half of the device's free memory, and sent batch by batch", data.name)
            self._resident[trial.data] = data.to(self.device, inputs=fits)
        return self._resident[trial.data]

    def chosen(self, trial: Trial) -> Tensor | None:
        """The training examples that the trial uses; None for all."""
        return chosen_examples(self.whole(trial), trial, trial.seed)

    def labels(self, trial: Trial) -> Tensor | None:
        """The trial's own labels of the training set; None for the true ones."""
        return with_noise(self.whole(trial), trial, trial.seed).train.targets if trial.label_noise else None

    def chance_loss(self, trial: Trial) -> float:
        """Entropy in nats of the labels that the trial trains on: the cross-entropy of always giving their shares."""
        key = trial.data, trial.seed, trial.train_fraction, trial.subset, trial.label_noise, trial.label_law
        if key not in self._entropies:
            data = self.loaded(trial)  # on the processor: nothing waits for the device
            shares = class_shares(labels_in_use(data, trial, trial.seed, noisy=True))
            self._entropies[key] = float(torch.special.entr(shares).sum())
        return self._entropies[key]

    def chance_accuracy(self, trial: Trial) -> float:
        """Share of the most frequent class in the trial's test set."""
        return float(class_shares(self.loaded(trial).test.targets).max())

    def data(self, trial: Trial, *, noisy: bool = False) -> DataSet:
        """The trial's data on the device, with the true labels or with the `noisy` ones that it is trained on."""
        data = self.whole(trial)
        return (with_noise(data, trial, trial.seed) if noisy else data).only(self.chosen(trial))

    def model(self, trial: Trial, purpose: str = "weights") -> nn.Module:
        """The trial's network with the weights that its seed draws for a `purpose`, the same on every device."""
        model = trial.model.build(self.loaded(trial), stream(trial.seed, purpose), trial.init)
        return unwrapped(model).to(self.device)  # masks name its parameters, and lanes stack them

    def initialised(self, trial: Trial, model: nn.Module, purpose: str) -> nn.Module:
        """A network of other shapes, its weights drawn in place by the trial's named initialisation, not ``own``."""
        with random_state(stream(trial.seed, purpose)):
            return initialise(model.cpu(), trial.init).to(self.device)  # drawn there, as those of `model` are

    def score_batch(self, trial: Trial) -> Batch:
        """The examples that the trial's criterion sees, the same for all criteria and sparsities of a seed."""
        data = self.data(trial, noisy=trial.score_labels == "noisy")
        size, sampling = trial.score_batch * trial.score_batches, trial.score_sampling
        label = int(sampling.removeprefix("class-")) if sampling.startswith("class-") else None
        seed = stream(trial.seed, "batch")
        examples = data.score_batch(size, seed, balanced=sampling == "balanced", label=label)
        return Batch(*examples, batches=trial.score_batches)

    def scorer(self, trial: Trial, model: nn.Module, seed: int = 0) -> Scorer:
        """What scores the prunable parameters of the trial's network, or its groups, by its criterion."""
        return self.scorer_maker(trial, model, seed)()

    def scorer_maker(self, trial: Trial, model: nn.Module, seed: int = 0) -> Callable[[], Scorer]:
        """What makes a scorer, after all that is not part of scoring: what is scored is known by then."""
        criterion, draw = trial.criterion, self.draw(trial)
        assert criterion is not None
        if isinstance(criterion, StructuredCriterion):
            groups = self.free_groups(trial, model)
            return functools.partial(GroupScorer, criterion, model, groups, seed=seed, draw=draw)
        names = self.prunable(trial, model, biases=criterion.biases)
        return functools.partial(Scorer, criterion, model, draw=draw, seed=seed, only=names)

    def groups(self, trial: Trial, model: nn.Module) -> Groups:
        """What can be removed of the trial's network, found once for all of its seeds."""
        if (key := (trial.data, trial.model)) not in self._groups:
            self._groups[key] = find_groups(model, self.example(trial))
        return self._groups[key]

    def free_groups(self, trial: Trial, model: nn.Module) -> Groups:
        """The same, for scoring; an error that names the network if there are none."""
        groups = self.groups(trial, model)
        if not groups.count and trial.criterion is not None:
            raise nothing_free(trial.criterion, trial.model.name, groups)
        return groups

    def draw(self, trial: Trial) -> Callable[[int], nn.Module]:
        """How the trial's network is drawn again for scoring."""
        return lambda _seed: self.model(trial, "redraw")

    def example(self, trial: Trial) -> Tensor:
        """One example of the trial's data on the device, as the network takes it, (1, ...)."""
        return self.whole(trial).example().to(self.device)

    def prunable(self, trial: Trial, model: nn.Module, *, biases: bool = False) -> list[str]:
        """The names of what is to be pruned of the trial's network, in the model's order."""
        which: dict[str, Any] = {"patterns": trial.prunable, "biases": biases}
        which |= {"keep_first": trial.keep_first, "keep_last": trial.keep_last}
        return prunable_names(model, trial.model.traced, **which)

    def batch_norm(self, trial: Trial, model: nn.Module) -> str | None:
        """The statistics that batch norm uses while scoring, where that makes a difference."""
        criterion = trial.criterion
        has_one = any(isinstance(module, BATCH_NORMS) for module in model.modules())
        return criterion.bn if criterion is not None and criterion.uses_data and has_one else None

    def connections(self, trial: Trial, model: nn.Module) -> Connections | None:
        """The trial's network, traced; None for one that has no paths of its own.

        That of the last seed asked for is kept, since all masks of a seed are of one network, unless it is large.
        """
        if self._traced[0] != (network := (trial.data, trial.model, trial.seed, trial.init)):
            self._traced = None, None  # two traces need not have room
            try:
                traced = Connections(model, self.example(trial))
            except UserError as error:  # it does other things for other data, say, and can be trained all the same
                logger.warning("connectivity is not known: %s", error)
                traced = None
            self._flops.setdefault((trial.data, trial.model), traced.flops if traced else None)
            if traced and traced.nbytes > LARGE_TRACE:  # training needs the room
                return traced
            self._traced = network, traced
        return self._traced[1]

    def flops(self, trial: Trial, model: nn.Module) -> Flops | None:
        """The dense network's operations for one example; None for one that cannot be followed."""
        if (network := (trial.data, trial.model)) not in self._flops:
            self.connections(trial, model)
        return self._flops[network]


def class_shares(targets: Tensor) -> Tensor:
    """The share of each class among `targets`, (classes,), in float64."""
    counts = torch.bincount(targets.cpu()).double()
    return counts / counts.sum()
