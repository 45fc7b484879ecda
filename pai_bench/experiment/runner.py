"""From a trial to its record."""

import dataclasses
import gc
import logging
import math
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from pai_bench.experiment import kept_networks, levels, stages
from pai_bench.experiment.changes import MaskChanges
from pai_bench.experiment.checkpoints import CheckpointStore, decode, encode, facts
from pai_bench.experiment.inputs import Inputs
from pai_bench.experiment.kept_networks import Cost, MissingNetworkError, NetworkStore
from pai_bench.experiment.obstacles import Obstacles
from pai_bench.experiment.record_maker import RecordMaker
from pai_bench.experiment.resolve import Catalog
from pai_bench.experiment.scoring_probe import ScoringProbe
from pai_bench.experiment.sources import DataSource, ModelSource
from pai_bench.experiment.stages import Pruned
from pai_bench.experiment.takeover import ClaimedTrials, TakenOverError
from pai_bench.experiment.trial import Trial
from pai_bench.masks import Mask
from pai_bench.results import Record
from pai_bench.support.failures import described
from pai_bench.support.memory import is_out_of_memory
from pai_bench.support.timing import Measurement
from pai_bench.support.transient import passes
from pai_bench.training.checkpoints import Saver, StateError, TrainingState
from pai_bench.training.protocol import Protocol
from pai_bench.training.trainer import ENGINE, Engine, Together

logger = logging.getLogger(__name__)

Finished = tuple[Sequence[Trial], Sequence[Record]]
"""Trials that have ended, and the record of each."""

PAUSES = (5.0, 30.0)
"""Seconds before each further run of a trial that failed by an error that may pass."""


class ListenerError(BaseException):
    """An `error` that a progress callback has raised, which is no failure of a trial."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Runner:
    """Runs trials on the catalog's device, from their inputs through their stages to their records."""

    def __init__(
        self,
        catalog: Catalog,
        command: str | None = None,
        *,
        workers: int = 1,
        checkpoints: CheckpointStore | None = None,
        networks: NetworkStore | None = None,
    ) -> None:
        self.catalog, self.command, self.workers, self.checkpoints = catalog, command, workers, checkpoints
        self.networks = networks
        self.inputs = Inputs(catalog.device, catalog.data)
        self.probe = ScoringProbe(self.inputs)
        self._records = RecordMaker(self.inputs, command, workers=workers)
        self._obstacles = Obstacles(catalog, self.inputs)
        self._claimed = ClaimedTrials(None, [])
        self._passing: set[str] = set()
        """Trials that an error has ended that may pass."""
        self._hopeless: set[tuple[DataSource, ModelSource, str]] = set()
        """Networks and methods of which the last trial has failed after all pauses: another pause would be in vain."""
        self.measured_steps: dict[object, tuple[float, int]] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """What makes another runner of the same kind, but for the catalog and the number of workers."""
        return {"command": self.command, "checkpoints": self.checkpoints, "networks": self.networks}

    @property
    def device(self) -> torch.device:
        """Where trials run."""
        return self.inputs.device

    def run(self, trial: Trial, on_epoch: Callable[[int], None] = lambda _epoch: None) -> Record:
        """The record of `trial`; an error makes a record too, with status ``failed``."""
        engine = Engine(compile=self.catalog.sweep.compile)
        ((_, (record,)),) = self.run_together([trial], lambda _trial, epoch: on_epoch(epoch), engine)
        return record

    def run_together(
        self, trials: Sequence[Trial], on_epoch: Callable[[Trial, int], None], engine: Engine = ENGINE
    ) -> Iterator[Finished]:
        """Run trials that share data, network and protocol, trained in one program where they are several.

        Gives trials and their records as soon as they are there: those that are trained together, at once. `on_epoch`
        is called when a trial begins to train (0), and with every epoch that it has finished. Trials that have a
        checkpoint resume from it. If another process has taken over some of them, or removed what they begin with, the
        others have no records, either.
        """
        self._claimed = ClaimedTrials(self.checkpoints, identities(trials))

        def report_epoch(trial: Trial, epoch: int) -> None:
            self._claimed.check([trial.identity])
            try:
                on_epoch(trial, epoch)
            except Exception as error:
                raise ListenerError(error) from error

        try:
            again = list[tuple[Trial, Record]]()
            for ended, records in self._run_together(trials, report_epoch, engine):
                if self._passing.isdisjoint(identities(ended)):
                    self._hopeless.difference_update(map(network_and_method, ended))
                    yield ended, records
                else:
                    again += zip(ended, records, strict=True)
            for trial, record in again:  # now that nothing holds the memory of the others
                yield [trial], [self._run_again(trial, record, report_epoch, engine)]
            return
        except (TakenOverError, MissingNetworkError) as error:
            logger.warning("%s", error)
            return
        except ListenerError as listener:
            raised = listener.error
        raise raised  # with what had caused it, and without the ListenerError

    def _run_together(
        self, trials: Sequence[Trial], on_epoch: Callable[[Trial, int], None], engine: Engine
    ) -> Iterator[Finished]:
        state, waiting, planned = None, deque[Sequence[Pruned]](), engine
        if (restored := self._restored(trials)) is not None:
            part, state, engine = restored
            waiting.append(part)
            for trial, curve in zip(trials, state.values["curves"], strict=True):
                on_epoch(trial, len(curve))
        else:
            ready = yield from self._prepared(trials, on_epoch, engine)
            waiting.extend(self._parts(ready, engine))
        begun = False
        while waiting:
            part, names = waiting.popleft(), identities(trials)
            try:
                if begun:
                    part = [self._prepare(made.trial) for made in part]
                changes = MaskChanges(self.inputs, part, self.networks)
                saver = self._saver(part, changes, engine, state)
                histories = stages.train_networks(self.inputs, part, on_epoch, engine, saver, changes.events)
                part = changes.finished(part)
            except StateError as error:
                assert self.checkpoints is not None
                self.checkpoints.set_aside(names, str(error))
                waiting.append(part)
                begun, engine = True, planned
            except Exception as error:
                waiting.extendleft(reversed(self._smaller(part, error)))
                if len(part) == 1:
                    yield [part[0].trial], [self._failed(part[0].trial, error)]
                begun = begun or engine.together == "branches"  # which are trained in place; a stack is a copy
            else:
                logs = [lane.log for lane in changes.lanes]
                ended = list(zip(part, histories, logs, strict=True))
                records = [self._records.record(*one, engine, len(part)) for one in ended]
                for network, record in zip(part, records, strict=True):
                    self._keep(network, record)
                yield [network.trial for network in part], records
            state = None

    def _prepared(
        self, trials: Sequence[Trial], on_epoch: Callable[[Trial, int], None], engine: Engine
    ) -> Generator[Finished, None, list[Pruned]]:
        """The networks that are to be trained, after the records of the others."""
        ready = []
        for trial in trials:
            logger.debug("trial %s", trial.identity)
            try:
                made = self._prepare(trial)
                on_epoch(trial, 0)
                if made.skips_training:
                    history = stages.train_alone(self.inputs, made, on_epoch, engine)
                    record = self._records.record(made, history, None, engine)
                    self._keep(made, record)
                else:
                    ready.append(made)
                    continue
            except Exception as error:
                record = self._failed(trial, error)
            yield [trial], [record]
        return ready

    def _restored(self, trials: Sequence[Trial]) -> tuple[Sequence[Pruned], TrainingState, Engine] | None:
        """The networks of exactly these trials, the state of their training and how they are trained, as saved.

        None if they have no checkpoint; one that cannot be used is set aside.
        """
        if self.checkpoints is None or (content := self.checkpoints.read(identities(trials))) is None:
            return None
        for pause in (*PAUSES, None):
            try:
                return self._masked_again(trials, content)
            except Exception as error:  # whatever it is, the trials can begin again
                if pause is None or not passes(error):
                    why = str(error) if isinstance(error, StateError) else f"cannot be used ({described(error)})"
                    self.checkpoints.set_aside(identities(trials), why)
                    return None
                logger.warning("a checkpoint cannot be read (%s); once more in %g s", described(error), pause)
                time.sleep(pause)
        return None

    def _masked_again(self, trials: Sequence[Trial], content: bytes) -> tuple[Sequence[Pruned], TrainingState, Engine]:
        """`_restored` of the content of a checkpoint; an error if it is not of these trials as they are now."""
        saved = decode(content, self._facts(trials), self.device)
        pairs = zip(trials, saved.masks, saved.costs, strict=True)
        part = [
            self._prepare(trial) if trial.needs else self._masked(trial, self.inputs.model(trial), mask, cost)
            for trial, mask, cost in pairs
        ]
        if any(made.skips_training for made in part):
            raise StateError("is of a disconnected network, which is not trained now")
        step, steps, curves = (saved.state.values[name] for name in ("step", "steps", "curves"))
        if len(curves) != len(part):
            raise StateError(f"has {len(curves)} learning curves of {len(part)} networks")
        logger.info("%s resumes from its checkpoint after step %d of %d", trials[0].identity, step, steps)
        return part, saved.state, saved.engine

    def _facts(self, trials: Sequence[Trial]) -> dict[str, Any]:
        return facts(trials, [self.inputs.loaded(trial).checksum for trial in trials], self.device)

    def _saver(
        self, part: Sequence[Pruned], changes: MaskChanges, engine: Engine, state: TrainingState | None = None
    ) -> Saver | None:
        """What saves the training of a part from time to time; None if nothing is to be saved."""
        every, checkpoints = self.catalog.sweep.checkpoint_seconds, self.checkpoints
        if state is not None:
            changes.restore(state)
        if checkpoints is None or every is None:
            return None if state is None else Saver(lambda _state: None, every=math.inf, state=state)
        trials = [made.trial for made in part]
        known, refused = self._facts(trials), set[str]()

        def save(state: TrainingState) -> None:
            try:
                content = encode(changes.now(part), known, engine, changes.added_to(state))
                self._claimed.check(identities(trials))
                checkpoints.write(identities(trials), content)
            except Exception as error:  # the training itself may go well
                if (why := described(error)) not in refused:
                    logger.warning(
                        "trial %s cannot be saved (%s): it goes on without a checkpoint", trials[0].identity, why
                    )
                refused.add(why)

        return Saver(save, every=every, state=state)

    def _failed(self, trial: Trial, error: Exception) -> Record:
        """The record of a trial that an error has ended, which is noted if it may pass."""
        record = self.failure(trial, error)
        if passes(error):
            self._passing.add(trial.identity)
            forget_frames(error)
        return record

    def _run_again(
        self, trial: Trial, record: Record, on_epoch: Callable[[Trial, int], None], engine: Engine
    ) -> Record:
        """The record of a trial, run again after a pause while what ended it may pass, with its memory freed."""
        network = network_and_method(trial)
        for pause in () if network in self._hopeless else PAUSES:
            if trial.identity not in self._passing:
                break
            self._passing.remove(trial.identity)
            logger.warning("trial %s failed (%s); once more in %g s", trial.identity, record.error, pause)
            gc.collect()  # files that are still open, too
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            time.sleep(pause)
            ((_, (record,)),) = self._run_together([trial], on_epoch, engine)
        (self._hopeless.add if trial.identity in self._passing else self._hopeless.discard)(network)
        self._passing.discard(trial.identity)
        return record

    def failure(self, trial: Trial, error: Exception) -> Record:
        """The record of a trial that an error has ended."""
        return self._records.failure(trial, error)

    def provenance(self) -> dict[str, Any]:
        """What results say of where they come from."""
        return self._records.provenance()

    def obstacle(self, trial: Trial, together: Together = "stacked") -> str | None:
        """Why networks like that of a trial cannot be trained `together`; None if they can."""
        return self._obstacles.obstacle(trial, together)

    def _prepare(self, trial: Trial) -> Pruned:
        """All that comes before training."""
        if trial.needs:
            begun = levels.begin(self.inputs, trial, self.networks)
            return dataclasses.replace(self._masked(trial, begun.model, begun.mask, begun.measurement), beginning=begun)
        model = self.inputs.model(trial)
        return self._masked(trial, model, *self.probe.mask(trial, model))

    def _masked(self, trial: Trial, model: nn.Module, mask: Mask | None, cost: Measurement | None) -> Pruned:
        """A trial's network under a mask."""
        keep = self.catalog.sweep.train_disconnected
        return dataclasses.replace(stages.apply(self.inputs, trial, model, mask, train_disconnected=keep), cost=cost)

    def _keep(self, network: Pruned, record: Record) -> None:
        """Keep a trained network for the trials that begin with it."""
        trial = network.trial
        if self.networks is not None and trial.identity in trial.keeps and record.status != "failed":
            training = record.training
            before = Cost() if network.beginning is None else network.beginning.cost
            flops = 0.0 if network.skips_training else training.training_flops
            cost = before.plus(flops, training.train_seconds or 0.0)
            content = kept_networks.encode(network.model, network.mask, cost, trial.identity)
            self.networks.write(trial.identity, content)

    def _parts(self, ready: Sequence[Pruned], engine: Engine) -> list[Sequence[Pruned]]:
        """All at once that begin at the same step, or one by one where they cannot share a program."""
        alike: dict[tuple[int, Protocol], list[Pruned]] = {}
        for made in ready:
            alike.setdefault((made.start, made.protocol), []).append(made)
        if len(alike) == len(ready) or (why := self.obstacle(ready[0].trial, engine.together)) is None:
            return list(alike.values())
        logger.warning("%s is trained one at a time: %s", ready[0].trial.model, why)
        return [[made] for made in ready]

    def _smaller(self, part: Sequence[Pruned], error: Exception) -> list[Sequence[Pruned]]:
        """What is tried after networks could not be trained together: halves if memory was short, or one by one."""
        if len(part) == 1:
            return []
        if self.checkpoints:  # or else the next sweep would resume all together, and fail again
            self.checkpoints.remove(identities([made.trial for made in part]))
        if is_out_of_memory(error):
            logger.warning("no memory for %d networks at once; trying half of them", len(part))
            if self.device.type == "cuda":
                forget_frames(error)
                torch.cuda.empty_cache()
            return [part[: len(part) // 2], part[len(part) // 2 :]]
        logger.warning("%d networks failed together (%s); trying one by one", len(part), error)
        return [[made] for made in part]


def identities(trials: Sequence[Trial]) -> list[str]:
    """Those of some trials."""
    return [trial.identity for trial in trials]


def network_and_method(trial: Trial) -> tuple[DataSource, ModelSource, str]:
    """What decides whether a trial is too large."""
    return trial.data, trial.model, trial.method


def forget_frames(error: BaseException | None) -> None:
    """Clear the local variables in the traceback of `error`, and of the errors before it."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
