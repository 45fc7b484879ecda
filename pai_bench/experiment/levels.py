"""Levels of iterative pruning: trials that begin with the networks of other trials, their parents."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pai_bench.experiment.examples import epoch_size
from pai_bench.experiment.inputs import Inputs
from pai_bench.experiment.kept_networks import Cost, KeptNetwork, MissingNetworkError, NetworkStore, decode
from pai_bench.experiment.moments import timeline
from pai_bench.experiment.settings import ScoringSettings
from pai_bench.experiment.trial import Trial
from pai_bench.masks import Mask
from pai_bench.masks.cutting import cut
from pai_bench.masks.selection import kept_count
from pai_bench.pruning.pruner import by_scope, scored
from pai_bench.pruning.variant import Variant
from pai_bench.scoring import IterativePruning, Rewind
from pai_bench.support.errors import CriterionError, UserError
from pai_bench.support.identity import stream
from pai_bench.support.timing import Measurement, measured
from pai_bench.training.protocol import Protocol

MOST_LEVELS = 1000
"""Of one trial: each is a whole training."""

AT = "@"
"""In the name of a network, between that of its trial and the number of steps after which it was kept."""


@dataclasses.dataclass(frozen=True)
class Beginning:
    """What a level begins with: a network with its weights, a mask, and how it is trained on."""

    model: nn.Module
    mask: Mask
    measurement: Measurement
    """Of making the mask."""
    start: int
    """Steps that are left out."""
    protocol: Protocol
    cost: Cost
    """Of all trainings before."""


def parent_of(trial: Trial) -> Trial | None:
    """The trial whose trained network a level scores; None for what is no level."""
    criterion = trial.criterion
    if not isinstance(criterion, IterativePruning) or not trial.sparsity:
        return None
    before = criterion.checked_sparsity_before(trial.sparsity)
    return dataclasses.replace(trial, sparsity=before, variant=None) if before else dense_of(trial)


def dense_of(trial: Trial) -> Trial:
    """The unpruned reference of a trial."""
    nothing: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(Trial) if f.name in NAMES}
    nothing |= {"criterion": None, "schedule": None, "variant": None, "sparsity": 0.0, "needs": (), "keeps": ()}
    return dataclasses.replace(trial, **nothing)


NAMES = {f.name for f in dataclasses.fields(ScoringSettings)}


def with_levels(trials: Sequence[Trial], examples: Callable[[Trial], int]) -> list[Trial]:
    """The trials, with the levels that they need before them, and with what each needs and keeps.

    `examples` gives the size of a trial's training set.
    """
    if not any(isinstance(trial.criterion, IterativePruning) for trial in trials):
        return list(trials)
    found, keeps = dict[str, Trial](), dict[str, dict[str, None]]()
    for trial in trials:
        for level in chain(trial):
            found.setdefault(level.identity, level)
    for name, trial in list(found.items()):
        if (parent := parent_of(trial)) is not None:
            needs = {parent.identity: parent.identity}
            beginning = beginning_of(trial, examples(trial))
            if beginning.weights and beginning.step:
                dense = dense_of(trial).identity
                needs[f"{dense}{AT}{beginning.step}"] = dense
            for network, owner in needs.items():
                keeps.setdefault(owner, {})[network] = None
            found[name] = dataclasses.replace(trial, needs=tuple(needs))
    return [dataclasses.replace(trial, keeps=tuple(keeps.get(name, ()))) for name, trial in found.items()]


def chain(trial: Trial) -> list[Trial]:
    """A trial, after all levels before it but the dense reference, which every sweep has."""
    levels = [trial]
    while (parent := parent_of(levels[0])) is not None and parent.criterion is not None:
        levels.insert(0, parent)
        if len(levels) > MOST_LEVELS:
            what = f"{trial.criterion_name} needs more than {MOST_LEVELS:,} levels to sparsity {trial.sparsity:g}"
            raise UserError(f"{what}, and each is a training: give a larger share p")
    return levels


def check_levels(trial: Trial, connections: int) -> None:
    """Raise UserError for options that levels do not have, and for a level that would remove nothing."""
    if not isinstance(trial.criterion, IterativePruning) or not trial.sparsity:
        return
    cuts = len(trial.schedule.densities(1 - trial.sparsity)) if trial.schedule else 1
    not_of_levels = {
        f"target {trial.target}": trial.target != "direct",
        f"repair {trial.repair}": trial.repair != "none",
        f"variant {trial.variant_name}": trial.variant is not None and trial.variant.quota is not None,
        f"a schedule of {cuts} cuts": cuts > 1,
    }
    for option in (option for option, is_given in not_of_levels.items() if is_given):
        raise UserError(f"{option} has no meaning for {trial.criterion}, which prunes in levels")
    kept = [connections, *(kept_count(1 - level.sparsity, connections) for level in chain(trial))]
    for before, after in itertools.pairwise(kept):
        if after >= before:
            what = f"{trial.criterion_name} has more levels than connections: with {before:,} left of {trial.model}"
            raise UserError(f"{what}, one would remove none; give a larger share p")


def beginning_of(trial: Trial, examples: int) -> Rewind:
    """What a level begins with, by its criterion."""
    assert isinstance(trial.criterion, IterativePruning)
    return trial.criterion.checked_beginning(timeline(trial, examples))


def begin(inputs: Inputs, trial: Trial, networks: NetworkStore | None) -> Beginning:
    """Make the mask of a level of the network that its parent has trained, and set the weights that it begins with."""
    kept = [decode(content_of(networks, name), name, inputs.device) for name in trial.needs]
    trained, first = kept[0], kept[-1]
    mask, measurement = make_mask(inputs, trial, trained)
    rewind = beginning_of(trial, epoch_size(trial, inputs.loaded(trial)))
    model = inputs.model(trial)
    if not rewind.weights:
        trained.load_into(model)
    elif rewind.step:
        first.load_into(model)
    protocol = trial.protocol
    if rewind.last_rate:
        steps = timeline(trial, epoch_size(trial, inputs.loaded(trial))).steps
        last = protocol.rate(steps - 1, steps)
        protocol = dataclasses.replace(protocol, lr_schedule="constant", milestones=(), learning_rate=last)
    return Beginning(model, mask, measurement, rewind.step, protocol, trained.cost)


def content_of(networks: NetworkStore | None, name: str) -> bytes:
    """The content of the file of a network; MissingNetworkError if there is none."""
    if networks is None:
        raise UserError(f"the network {name}, which this trial begins with, is kept in a results folder: run a sweep")
    if (content := networks.read(name)) is None:
        raise MissingNetworkError(f"the network {name} has been removed meanwhile: it is trained again")
    return content


def make_mask(inputs: Inputs, trial: Trial, trained: KeptNetwork) -> tuple[Mask, Measurement]:
    """The mask of a level, and what it took to make it."""
    criterion, model = trial.criterion, trained.load_into(inputs.model(trial))
    assert criterion is not None
    variant = trial.variant or Variant()
    names = inputs.prunable(trial, model, biases=criterion.biases)
    density, alive = 1 - trial.sparsity, alive_in(trained, names, model)
    batch = inputs.score_batch(trial)
    with measured(inputs.device) as cost:
        with inputs.scorer(trial, model, stream(trial.seed, "scores")) as scorer:
            scores = scored(scorer, batch, density, alive, invert=variant.inverted)
        mask = cut(
            scores,
            density,
            alive=alive,
            division=by_scope(criterion, {name: score.shape for name, score in scores.items()}, trial.scope),
            min_per_layer=trial.min_per_layer,
            ties=criterion.ties,
        )
    if mask.kept == sum(int(keep.count_nonzero()) for keep in alive.values()):
        raise CriterionError(f"{criterion}: this level removes nothing: there are more levels than connections")
    return Mask(variant.arrange(dict(mask), stream(trial.seed, "scores"))), cost


def alive_in(trained: KeptNetwork, names: Sequence[str], model: nn.Module) -> Mapping[str, Tensor]:
    """What the level before has left."""
    whole = {name: torch.ones_like(model.get_parameter(name), dtype=torch.bool) for name in names}
    return whole | {name: kept.bool() for name, kept in trained.mask.items()}
