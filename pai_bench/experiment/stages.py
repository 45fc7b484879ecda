"""The stages of a trial: prune, train, evaluate. They measure no time, keep nothing, and write no record."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from pai_bench.evaluation import loss_and_accuracy
from pai_bench.experiment.examples import epoch_size
from pai_bench.experiment.inputs import Inputs
from pai_bench.experiment.trial import Trial
from pai_bench.graph import Connectivity
from pai_bench.groups import GroupMask, shrink
from pai_bench.groups.shrink import zero_single_
from pai_bench.masks import Mask
from pai_bench.masks.schedule import Schedule
from pai_bench.pruning import Variant, prune
from pai_bench.pruning.structured import prune_groups
from pai_bench.scoring import StructuredCriterion
from pai_bench.support.errors import UserError
from pai_bench.support.identity import stream
from pai_bench.support.randomness import random_state
from pai_bench.support.timing import Measurement
from pai_bench.training.batches import Order
from pai_bench.training.checkpoints import Saver
from pai_bench.training.events import Event
from pai_bench.training.loop import Epoch, History
from pai_bench.training.protocol import Protocol
from pai_bench.training.trainer import Engine, train, train_together

if TYPE_CHECKING:
    from pai_bench.experiment.levels import Beginning

logger = logging.getLogger(__name__)

OnEpoch = Callable[[Trial, int], None]
"""Called when a trial begins to train (0), and with every epoch that it has finished."""


@dataclass(frozen=True)
class Pruned:
    """A network that is ready for training; one that its mask has disconnected `skips_training`."""

    trial: Trial
    model: nn.Module
    mask: Mask | None
    connectivity: Connectivity | None
    skips_training: bool
    cost: Measurement | None = None
    """Of making the mask, where somebody has measured it."""
    beginning: "Beginning | None" = None
    """Of a level of iterative pruning, what it begins with."""

    @property
    def start(self) -> int:
        """Steps that are left out at the beginning."""
        return 0 if self.beginning is None else self.beginning.start

    @property
    def protocol(self) -> Protocol:
        """How it is trained."""
        return self.trial.protocol if self.beginning is None else self.beginning.protocol

    @property
    def training_mask(self) -> Mask | None:
        """What holds removed weights at zero; None for a network that is really without all of them."""
        return self.mask.shrunk() if isinstance(self.mask, GroupMask) else self.mask


def mask_maker(inputs: Inputs, trial: Trial, model: nn.Module) -> Callable[..., Mask]:
    """What makes the mask of a trial that has a criterion, by its schedule or another one.

    All that comes before scoring, such as the score batch, is done here, and not in what this returns.
    """
    assert trial.criterion is not None
    if trial.criterion.begins_dense:
        raise UserError(f"{trial.criterion} prunes during training, and nothing before it")
    criterion, batch, draw = trial.criterion, inputs.score_batch(trial), inputs.draw(trial)
    if isinstance(criterion, StructuredCriterion):
        return functools.partial(
            prune_groups,
            model,
            batch,
            criterion,
            trial.sparsity,
            inputs.free_groups(trial, model),
            sparsity_of=trial.sparsity_of,
            scope=trial.scope,
            min_per_layer=trial.min_per_layer,
            variant=trial.variant or Variant(),
            draw=draw,
            seed=stream(trial.seed, "scores"),
        )
    names = inputs.prunable(trial, model, biases=criterion.biases)

    def make(schedule: Schedule) -> Mask:
        return prune(
            model,
            batch,
            criterion,
            trial.sparsity,
            schedule=schedule,
            scope=trial.scope,
            variant=trial.variant or Variant(),
            target=trial.target,
            min_per_layer=trial.min_per_layer,
            repair=trial.repair,
            prunable=names,
            draw=draw,
            seed=stream(trial.seed, "scores"),
        )

    return make


def connect(inputs: Inputs, trial: Trial, model: nn.Module, mask: Mask | None) -> Connectivity | None:
    """What a mask, or none, leaves of the paths of a trial's network; None where that cannot be followed."""
    if (connections := inputs.connections(trial, model)) is None:
        return None
    if mask is None:
        mask = Mask.whole({name: model.get_parameter(name) for name in inputs.prunable(trial, model)})
    try:
        return connections.under(mask, paths=False)
    except UserError as error:
        logger.warning("connectivity is not known: %s", error)
        return None


def nothing_removed(inputs: Inputs, trial: Trial, model: nn.Module) -> Mask:
    """The mask of a network that is dense at first."""
    if trial.structured:
        return inputs.free_groups(trial, model).all_kept()
    biases = trial.criterion is not None and trial.criterion.biases
    return Mask.whole({name: model.get_parameter(name) for name in inputs.prunable(trial, model, biases=biases)})


def apply(
    inputs: Inputs, trial: Trial, model: nn.Module, mask: Mask | None, *, train_disconnected: bool = False
) -> Pruned:
    """A trial's network under its mask; disconnected ones are not trained unless `train_disconnected`.

    A mask that changes in training is there from the beginning, and nothing is known of it before the end.
    """
    if trial.changes_mask:
        whole = mask or nothing_removed(inputs, trial, model)
        small = shrink(model, whole) if isinstance(whole, GroupMask) else model
        return Pruned(trial, small, whole, None, skips_training=False)
    paths = connect(inputs, trial, model, mask)
    redraws = trial.variant is not None and trial.variant.redraws
    if redraws:
        model = inputs.model(trial, "reinit")
    if isinstance(mask, GroupMask):
        model = shrink(model, mask)
        if redraws and trial.init != "own":
            # by the fan-in of the smaller network
            model = zero_single_(inputs.initialised(trial, model, "reinit"), mask)
    pruned = Pruned(trial, model, mask, paths, skips_training=False)
    if (single := pruned.training_mask) is None or paths is None or paths.connected or train_disconnected:
        return pruned
    single.apply_(model)
    return dataclasses.replace(pruned, skips_training=True)


def train_networks(
    inputs: Inputs,
    networks: Sequence[Pruned],
    on_epoch: OnEpoch,
    engine: Engine,
    saver: Saver | None = None,
    events: Sequence[Event] = (),
) -> list[History]:
    """Train networks of one kind together, or the only one alone, in place."""
    if len(networks) == 1:
        return [train_alone(inputs, networks[0], on_epoch, engine, saver, events)]
    trials = [network.trial for network in networks]

    def on_epochs(epochs: Sequence[Epoch | None]) -> None:
        for trial, epoch in zip(trials, epochs, strict=True):
            if epoch is not None:
                on_epoch(trial, epoch.epoch)

    return train_together(
        [network.model for network in networks],
        inputs.whole(trials[0]),
        networks[0].protocol,
        masks=[network.training_mask for network in networks],
        orders=[Order(stream(trial.seed, "order"), inputs.chosen(trial), inputs.labels(trial)) for trial in trials],
        on_epoch=on_epochs,
        engine=engine,
        saver=saver,
        events=events,
        start=networks[0].start,
        epoch_size=epoch_size(trials[0], inputs.loaded(trials[0])),
    )


def train_alone(
    inputs: Inputs,
    network: Pruned,
    on_epoch: OnEpoch,
    engine: Engine,
    saver: Saver | None = None,
    events: Sequence[Event] = (),
) -> History:
    """Train one network in place; a disconnected one for no epoch."""
    trial = network.trial
    with random_state(stream(trial.seed, "training")):  # dropout and the like
        return train(
            network.model,
            inputs.data(trial, noisy=True),
            network.protocol.lasting(0) if network.skips_training else network.protocol,
            mask=network.training_mask,
            seed=stream(trial.seed, "order"),
            on_epoch=lambda epoch: on_epoch(trial, epoch.epoch),
            engine=dataclasses.replace(engine, compile=engine.compile and not network.skips_training),
            saver=saver,
            events=events,
            start=0 if network.skips_training else network.start,
            epoch_size=epoch_size(trial, inputs.loaded(trial)),
        )


def final_test(inputs: Inputs, network: Pruned, history: History) -> tuple[float, float]:
    """Test loss and accuracy after the last epoch."""
    if history.epochs:
        return history.epochs[-1].test_loss, history.epochs[-1].test_accuracy
    data = inputs.data(network.trial)
    return loss_and_accuracy(network.model, data, data.test)
