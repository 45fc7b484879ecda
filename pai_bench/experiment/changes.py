"""Masks that change while networks are trained: how, and what is known of it afterwards."""

import copy
import dataclasses
import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from pai_bench.experiment import stages
from pai_bench.experiment.examples import epoch_size
from pai_bench.experiment.inputs import Inputs
from pai_bench.experiment.kept_networks import Cost, NetworkStore, encode
from pai_bench.experiment.levels import AT
from pai_bench.experiment.moments import moments, timeline
from pai_bench.experiment.stability import Stability
from pai_bench.experiment.stages import Pruned
from pai_bench.experiment.training_cost import ChangeLog
from pai_bench.groups import GroupMask, shrink
from pai_bench.groups.combined import composed
from pai_bench.masks import Mask
from pai_bench.masks.cutting import cut
from pai_bench.masks.selection import kept_count
from pai_bench.pruning.pruner import by_scope, scored
from pai_bench.pruning.structured import GroupPruner
from pai_bench.scoring import Batch, Change, CriterionError, DuringTraining, Moment, Scores, StructuredCriterion
from pai_bench.support.identity import stream
from pai_bench.support.randomness import random_state
from pai_bench.training.checkpoints import TrainingState
from pai_bench.training.events import Event, Pause

STATE = "method"
"""What the state of methods is called in a saved training."""


class MaskChanges:
    """The changes of the masks of networks that are trained together, each by its own method or by none."""

    def __init__(self, inputs: Inputs, networks: Sequence[Pruned], kept: NetworkStore | None = None) -> None:
        self.lanes = [Lane(inputs, network) for network in networks]
        self._kept = kept
        """Where networks are kept for other trials."""

    @property
    def events(self) -> list[Event]:
        """The events of their training."""
        acting = defaultdict[int, list[DuringTraining]](list)
        for lane in self.lanes:
            for step in lane.moments:
                acting[step] += [] if lane.method is None else [lane.method]
        events = [
            Event(
                step,
                self._act,
                gradients=any(method.needs_gradients for method in methods),
                replaces_step=any(method.replaces_step for method in methods),
            )
            for step, methods in sorted(acting.items())
        ]
        kept = sorted({step for lane in self.lanes for step in lane.kept_at}) if self._kept is not None else []
        return [*(Event(step, self._keep) for step in kept), *events]

    def _keep(self, pause: Pause) -> None:
        """Keep networks as they are after this step for the trials that begin with them."""
        assert self._kept is not None
        for lane, model, mask in zip(self.lanes, pause.models, pause.masks, strict=True):
            if (name := lane.kept_at.get(pause.step)) is not None:
                self._kept.write(name, encode(model, None if mask is None else Mask(mask), Cost(), name))

    def _act(self, pause: Pause) -> None:
        acting = [(number, lane) for number, lane in enumerate(self.lanes) if pause.step in lane.moments]
        acting = [(number, lane) for number, lane in acting if not pause.diverged[number]]  # no score would be finite
        acting = [(number, lane) for number, lane in acting if lane.is_due(pause, pause.models[number])]
        if not acting:
            return
        if any(lane.structured for _, lane in acting):
            ((_, lane),) = acting
            with lane.divergence_ignored():
                lane.shrink(pause)
            return
        masks, weights = list(pause.masks), list[Mapping[str, Tensor]]({} for _ in self.lanes)
        for number, lane in acting:
            with lane.divergence_ignored():
                change = lane.change(pause, number)
                masks[number], weights[number] = change.mask, change.weights or {}
        reset = any(lane.resets for _, lane in acting)  # such methods are trained together with their like alone
        pause.replace(masks, weights=weights if any(weights) else (), reset=reset)

    def finished(self, networks: Sequence[Pruned]) -> list[Pruned]:
        """The networks as they are after training, under their last masks."""
        return [lane.finished(network) for lane, network in zip(self.lanes, networks, strict=True)]

    def now(self, networks: Sequence[Pruned]) -> list[Pruned]:
        """The networks as they are to be saved: with their present masks."""
        return [
            dataclasses.replace(network, mask=lane.mask) for lane, network in zip(self.lanes, networks, strict=True)
        ]

    def added_to(self, state: TrainingState) -> TrainingState:
        """The state of a training, with that of the methods."""
        kept = {f"{STATE}.{i}.{name}": t for i, lane in enumerate(self.lanes) for name, t in lane.state.items()}
        logs = [lane.log.entries for lane in self.lanes]
        return TrainingState({**state.tensors, **kept}, {**state.values, "changes": logs})

    def restore(self, state: TrainingState) -> None:
        """Continue from the state of a training, with that of the methods."""
        for lane, entries in zip(self.lanes, state.values.get("changes", ()), strict=False):  # earlier ones have none
            lane.log.entries = [list(entry) for entry in entries]
        for name, tensor in state.part(STATE).items():
            number, _, key = name.partition(".")
            self.lanes[int(number)].state[key] = tensor.to(self.lanes[int(number)].device)


class Lane:
    """The changes of one network's mask."""

    def __init__(self, inputs: Inputs, network: Pruned) -> None:
        self.inputs, self.trial, self.mask, self.model = inputs, network.trial, network.mask, network.model
        self.device, self.state = inputs.device, dict[str, Tensor]()
        criterion = self.trial.criterion
        self.method = criterion if isinstance(criterion, DuringTraining) and criterion.during else None
        self.structured = self.trial.structured
        used = epoch_size(self.trial, inputs.loaded(self.trial))
        self.moments = [] if network.skips_training else moments(self.trial, used)
        self.timeline = timeline(self.trial, used)
        dense = inputs.model(self.trial) if self.structured else network.model
        self._dense = None if network.skips_training else inputs.flops(self.trial, dense)
        self.log = ChangeLog(
            self.timeline, self.trial.protocol.batch_size, None if self._dense is None else self._dense.total
        )
        if not network.skips_training:
            self.log.note(network.start, self.mask, self._dense)
        names = (name for name in self.trial.keeps if AT in name)
        self.kept_at = {int(name.rpartition(AT)[2]): name for name in names}
        """Number of steps -> the name under which the network is kept then."""

    def change(self, pause: Pause, number: int) -> Change:
        """The change of the mask of the network with that number, at an event."""
        self.model = pause.models[number]
        if self.method is None:
            made: Any = self._pruned_at_once()
        else:
            made = self.method.change(self._moment(pause, number))
        change = made if isinstance(made, Change) else Change(made)
        if not isinstance(change.mask, Mapping):
            raise CriterionError(f"{self.trial.criterion}: a change gives {change.mask!r:.60}, and not a mask")
        if differ := sorted(set(change.mask) ^ set(self.mask or ())):
            raise CriterionError(
                f"{self.trial.criterion}: {differ[0]!r} is in one of the masks before and after a change alone"
            )
        # in the order from the beginning, in which checkpoints have the masks
        mask = Mask({name: change.mask[name] for name in self.mask or ()})
        if self.method is not None and pause.step == self.moments[-1]:
            self._check_count(mask)
        self.mask = mask
        self._note(pause)
        return change

    @contextmanager
    def divergence_ignored(self) -> Iterator[None]:
        """A block whose errors are ignored if the network has diverged, as its next loss will say."""
        try:
            yield
        except CriterionError:
            with torch.no_grad(), random_state(0):  # which dropout would change for networks beside this one
                logits = copy.deepcopy(self.model)(self._batch.inputs)
            if bool(logits.isfinite().all()):
                raise

    def _check_count(self, mask: Mask) -> None:
        """Raise CriterionError if a method leaves another number of connections than is asked for."""
        wanted = kept_count(1 - self.trial.sparsity, mask.size)
        if mask.kept != wanted and self.method is not None and self.method.ties == "position":
            raise CriterionError(
                f"{self.method}: {mask.kept} of {mask.size} connections are kept at the end, not {wanted}"
            )

    @property
    def resets(self) -> bool:
        """Whether the optimiser begins anew at a change."""
        return self.method is not None and self.method.optimizer_state == "reset"

    def is_due(self, pause: Pause, model: nn.Module) -> bool:
        """Whether the mask is changed at this moment; of a network that is pruned when it has settled, once."""
        if self.trial.prune_when != "stable":
            return True
        if self.log.events:
            return False
        has_settled = Stability(self.state).has_settled(model, self.inputs.model(self.trial))
        return has_settled or pause.step == self.moments[-1]

    def _note(self, pause: Pause) -> None:
        """Note what the mask leaves from an event on."""
        method = self.method
        in_place = method is not None and method.replaces_step
        gradients = method is not None and method.needs_gradients
        self.log.note(pause.step + in_place, self.mask, self._dense, dense_gradients=gradients)

    def shrink(self, pause: Pause) -> None:
        """Make the network smaller at an event."""
        (self.model,) = pause.models
        assert isinstance(self.mask, GroupMask)
        made: GroupMask = self._pruned_at_once() if self.method is None else self.method.change(self._moment(pause, 0))
        self.mask = composed(self.mask, made)
        self._note(pause)
        pause.shrink(functools.partial(shrink, mask=made), self.mask.shrunk(), reset=self.resets)
        assert pause.successor is not None
        self.model = pause.successor.model

    def _pruned_at_once(self) -> Any:
        """The mask of all cuts of the trial's schedule, made of the network as it is."""
        assert self.trial.schedule is not None
        return stages.mask_maker(self.inputs, self.trial, self.model)(self.trial.schedule)

    def _moment(self, pause: Pause, number: int) -> Moment:
        """What the method is given."""
        assert self.mask is not None
        names, model = list(self.mask), self.model
        parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
        gradients = dict(pause.gradients[number]) if pause.gradients else {}
        for name in names if gradients else ():
            if name not in gradients:  # of a layer that the network does not use
                gradients[name] = torch.zeros_like(parameters[name])
        generator = torch.Generator().manual_seed(stream(self.trial.seed, f"change-{pause.step}"))
        return Moment(
            step=pause.step,
            number=self.moments.index(pause.step),
            density=1 - self.trial.sparsity,
            timeline=self.timeline,
            mask=self.mask.to(self.device),
            weights={name: parameters[name] for name in names if name in parameters},
            gradients={name: gradients[name] for name in names if name in gradients},
            state=self.state,
            random=generator,
            score=self._only_cut if self.structured else self._score,
            select=self._only_cut if self.structured else self._select,
            cut=self._cut,
            initial=functools.partial(self._initial, pause.step),
        )

    def _initial(self, step: int) -> dict[str, Tensor]:
        drawn = self.inputs.model(self.trial, f"change-{step}")
        assert self.mask is not None
        return {name: drawn.get_parameter(name).detach() for name in self.mask}

    def _only_cut(self, *_arguments: object, **_options: object) -> NoReturn:
        raise CriterionError(f"{self.trial.criterion} removes whole units: its moments have cut, not score or select")

    def _score(self) -> Scores:
        return self._scores(1.0)

    def _scores(self, density: float) -> Scores:
        """The scores of the network as it is, which a cut to a `density` ranks by."""
        assert self.mask is not None
        with self.inputs.scorer(self.trial, self.model, stream(self.trial.seed, "scores")) as scorer:
            return scored(scorer, self._batch, density, self.mask.to(self.device))

    @functools.cached_property
    def _batch(self) -> Batch:
        """The trial's score batch."""
        return self.inputs.score_batch(self.trial)

    def _select(self, scores: Scores, density: float, *, returns: bool = False) -> Mask:
        criterion, trial = self.trial.criterion, self.trial
        assert criterion is not None
        return cut(
            scores,
            density,
            alive=None if returns or self.mask is None else self.mask.to(self.device),
            division=by_scope(criterion, {name: score.shape for name, score in scores.items()}, trial.scope),
            min_per_layer=trial.min_per_layer,
            ties=criterion.ties,
        )

    def _cut(self, density: float) -> Mask:
        if not isinstance(self.mask, GroupMask):
            return self._select(self._scores(density), density)
        trial, criterion = self.trial, self.trial.criterion
        assert isinstance(criterion, StructuredCriterion)
        pruner = GroupPruner(
            criterion=criterion,
            groups=self.mask.groups,
            sparsity=trial.sparsity,
            sparsity_of=trial.sparsity_of,
            scope=trial.scope,
            min_per_layer=trial.min_per_layer,
            draw=self.inputs.draw(trial),
            seed=stream(trial.seed, "scores"),
        )
        return pruner.cut(self.model, self.mask, self._batch, density)

    def finished(self, network: Pruned) -> Pruned:
        """The network after training."""
        if not self.moments:
            return network
        dense = self.inputs.model(self.trial)
        paths = stages.connect(self.inputs, self.trial, dense, self.mask)
        model = self.model if self.structured else network.model
        return dataclasses.replace(network, model=model, mask=self.mask, connectivity=paths)
