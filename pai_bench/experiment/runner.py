"""From a trial to its record."""

import dataclasses
import gc
import logging
import math
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import torch
from torch import nn

from pai_bench.data import DataSet
from pai_bench.experiment import stages
from pai_bench.experiment.checkpoints import CheckpointStore, decode, encode, facts
from pai_bench.experiment.inputs import Inputs
from pai_bench.experiment.mask_summary import summarize_mask
from pai_bench.experiment.resolve import Catalog
from pai_bench.experiment.scoring_probe import ScoringProbe
from pai_bench.experiment.sources import DataSource, ModelSource
from pai_bench.experiment.stages import Pruned
from pai_bench.experiment.trial import Trial
from pai_bench.masks import Mask
from pai_bench.results import Environment, EpochRecord, Evaluation, Pruning, Record, Training, TrialProvenance, UsedData
from pai_bench.support.environment import commit, describe, without_paths
from pai_bench.support.failures import described, traceback_of
from pai_bench.support.memory import is_out_of_memory
from pai_bench.support.randomness import random_state
from pai_bench.support.timing import Measurement
from pai_bench.support.transient import passes
from pai_bench.training.checkpoints import Saver, StateError, TrainingState
from pai_bench.training.equivalence import difference, draws_at_random
from pai_bench.training.layout import channels_last_weights, prepare_layout
from pai_bench.training.loop import Epoch, History
from pai_bench.training.trainer import ENGINE, DivergedError, Engine, Together

logger = logging.getLogger(__name__)

Finished = tuple[Sequence[Trial], Sequence[Record]]
"""Trials that have ended, and the record of each."""

PAUSES = (5.0, 30.0)
"""Seconds before each further run of a trial that failed by an error that may pass."""

PROBE = 8
"""Examples on which training together is compared with training one by one."""


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
    ) -> None:
        self.catalog, self.command, self.workers, self.checkpoints = catalog, command, workers, checkpoints
        self.inputs = Inputs(catalog.device, catalog.data)
        self.probe = ScoringProbe(self.inputs)
        self._obstacles: dict[tuple[DataSource, ModelSource, Together], str | None] = {}
        self._passing: set[str] = set()
        """Trials that an error has ended that may pass."""
        self._hopeless: set[tuple[DataSource, ModelSource, str]] = set()
        """Networks and methods of which the last trial has failed after all pauses: another pause would be in vain."""
        self.measured_steps: dict[object, tuple[float, int]] = {}

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
        checkpoint resume from it.
        """

        def report_epoch(trial: Trial, epoch: int) -> None:
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
        except ListenerError as listener:
            raised = listener.error
        raise raised  # with what had caused it, and without the ListenerError

    def _run_together(
        self, trials: Sequence[Trial], on_epoch: Callable[[Trial, int], None], engine: Engine
    ) -> Iterator[Finished]:
        state, waiting = None, deque[Sequence[Pruned]]()
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
                saver = self._saver(part, engine, state)
                histories = stages.train_networks(self.inputs, part, on_epoch, engine, saver)
            except StateError as error:
                assert self.checkpoints is not None
                self.checkpoints.set_aside(names, str(error))
                waiting.append(part)
                begun = True
            except Exception as error:
                waiting.extendleft(reversed(self._smaller(part, error)))
                if len(part) == 1:
                    yield [part[0].trial], [self._failed(part[0].trial, error)]
                begun = engine.together == "branches"  # which are trained in place; a stack is a copy
            else:
                records = [self._finish(m, h, engine, len(part)) for m, h in zip(part, histories, strict=True)]
                yield [made.trial for made in part], records
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
                    record = self._finish(made, history, engine)
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
        try:
            saved = decode(content, self._facts(trials), self.device)
            pairs = zip(trials, saved.masks, saved.costs, strict=True)
            part = [self._masked(trial, self.inputs.model(trial), mask, cost) for trial, mask, cost in pairs]
        except Exception as error:  # the trials themselves will fail by it, or not
            why = str(error) if isinstance(error, StateError) else f"cannot be used ({described(error)})"
            self.checkpoints.set_aside(identities(trials), why)
            return None
        step, steps = (saved.state.values[name] for name in ("step", "steps"))
        logger.info("%s resumes from its checkpoint after step %d of %d", trials[0].identity, step, steps)
        return part, saved.state, saved.engine

    def _facts(self, trials: Sequence[Trial]) -> dict[str, Any]:
        return facts(trials, [self.inputs.loaded(trial).checksum for trial in trials], self.device)

    def _saver(self, part: Sequence[Pruned], engine: Engine, state: TrainingState | None = None) -> Saver | None:
        """What saves the training of a part from time to time; None if nothing is to be saved."""
        every, checkpoints = self.catalog.sweep.checkpoint_seconds, self.checkpoints
        if checkpoints is None or every is None:
            return None
        trials = [made.trial for made in part]
        known = self._facts(trials)

        def save(state: TrainingState) -> None:
            checkpoints.write(identities(trials), encode(part, known, engine, state))

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
        logger.debug("trial %s failed", trial.identity, exc_info=error)
        message = described(error).encode("utf-8", "replace").decode()  # halves of characters could not be stored
        return self._record(trial, "failed", error=without_paths(message), traceback=traceback_of(error))

    def _prepare(self, trial: Trial) -> Pruned:
        """All that comes before training."""
        model = self.inputs.model(trial)
        return self._masked(trial, model, *self.probe.mask(trial, model))

    def _masked(self, trial: Trial, model: nn.Module, mask: Mask | None, cost: Measurement | None) -> Pruned:
        """A trial's network under a mask."""
        keep = self.catalog.sweep.train_disconnected
        return dataclasses.replace(stages.apply(self.inputs, trial, model, mask, train_disconnected=keep), cost=cost)

    def _parts(self, ready: Sequence[Pruned], engine: Engine) -> list[Sequence[Pruned]]:
        """All at once, or one by one where they cannot share a program."""
        if len(ready) < 2:
            return [ready] if ready else []
        if (why := self.obstacle(ready[0].trial, engine.together)) is None:
            return [ready]
        logger.warning("%s is trained one at a time: %s", ready[0].trial.model, why)
        return [[made] for made in ready]

    def _smaller(self, part: Sequence[Pruned], error: Exception) -> list[Sequence[Pruned]]:
        """What is tried after networks could not be trained together: halves if memory was short, or one by one."""
        if len(part) == 1:
            return []
        if is_out_of_memory(error):
            logger.warning("no memory for %d networks at once; trying half of them", len(part))
            if self.device.type == "cuda":
                forget_frames(error)
                torch.cuda.empty_cache()
            return [part[: len(part) // 2], part[len(part) // 2 :]]
        logger.warning("%d networks failed together (%s); trying one by one", len(part), error)
        return [[made] for made in part]

    def obstacle(self, trial: Trial, together: Together = "stacked") -> str | None:
        """Why networks like that of a trial cannot be trained `together`; None if they can."""
        if (key := (trial.data, trial.model, together)) not in self._obstacles:
            isolated = self.catalog.isolated_process
            data = self.inputs.data(trial) if isolated is None else None  # what fails there is no obstacle
            try:
                if isolated is not None:
                    self._obstacles[key] = isolated.query("obstacle", trial, together)
                elif data is not None:
                    self._obstacles[key] = self._difference(trial, together, data)
            except Exception as error:  # whatever torch.vmap says of operations that it does not know
                self._obstacles[key] = str(error) if isolated is not None else str(error).partition("\n")[0]
        return self._obstacles[key]

    def _difference(self, trial: Trial, together: Together, data: DataSet) -> str | None:
        """What is different when two networks like that of a trial are trained `together`; None if nothing is."""
        # with the network's own initial weights: steps from others may diverge, which would show nothing
        trials = [dataclasses.replace(trial, seed=seed, init="own") for seed in (0, 1)]
        spread = torch.linspace(0, len(data.train.targets) - 1, PROBE).long().to(self.device)
        inputs, targets = (tensor[spread.to(tensor.device)] for tensor in data.train)
        examples = data.normalised(inputs)
        with random_state(0):
            apart, joint = ([self.inputs.model(trial) for trial in trials] for _ in range(2))
            prepare_layout([*apart, *joint], examples)
            if together == "branches":
                return draws_at_random(joint, examples, targets)
            return difference(apart, joint, examples, targets)

    def _finish(self, made: Pruned, history: History, engine: Engine, lanes: int = 1) -> Record:
        """The record of a network that was trained by `engine`, beside others in `lanes`."""
        trial, model, links = made.trial, made.model, made.connectivity
        dense = self.inputs.model(trial) if trial.structured else model  # of which its mask is
        inputs, cost = self.inputs, made.cost
        if history.diverged is not None:
            return self.failure(trial, DivergedError(history.diverged))
        test_loss, test_accuracy = stages.final_test(inputs, made, history)
        why = None
        if made.skips_training and links is not None:
            why = f"no path from input to output, cut first in {links.first_cut}; not trained"
        return self._record(
            trial,
            "disconnected" if made.skips_training else "done",
            lanes=lanes,
            engine=engine,
            channels_last=bool(channels_last_weights(model)),
            error=why,
            pruning=dataclasses.replace(
                summarize_mask(dense, made.mask, links, inputs.flops(trial, dense), inputs.prunable(trial, dense)),
                score_seconds=cost.seconds if cost else None,
                score_peak_bytes=cost.peak_bytes if cost else None,
                batch_norm=inputs.batch_norm(trial, dense),
            ),
            training=Training(
                train_seconds=history.seconds,
                images_per_second=history.images_per_second,
                curve=tuple(map(_epoch_record, history.epochs)),
            ),
            evaluation=Evaluation(test_accuracy=test_accuracy, test_loss=_finite(test_loss)),
        )

    def provenance(self) -> dict[str, Any]:
        """The command, the state of the code that runs it, and the time, which tells the newer of two versions."""
        revision, dirty = commit()
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        return {"command": self.command, "commit": revision, "dirty": dirty, "finished": now}

    def _record(
        self,
        trial: Trial,
        status: str,
        *,
        lanes: int = 1,
        engine: Engine = ENGINE,
        channels_last: bool | None = None,
        pruning: Pruning | None = None,
        training: Training | None = None,
        evaluation: Evaluation | None = None,
        error: str | None = None,
        traceback: str | None = None,
    ) -> Record:
        data = self.inputs.loaded(trial)
        unclear = trial.model.unclear if trial.prunable is None else ()
        epochs = 0 if status == "disconnected" else trial.protocol.passes(data.train_size(trial.train_fraction))
        return Record(
            identity=trial.identity,
            trial=trial.configuration(),
            status=status,  # type: ignore[arg-type]
            error=error,
            traceback=traceback,
            device=self.device.type,
            pruning=dataclasses.replace(pruning or Pruning(), not_scored=unclear),
            training=dataclasses.replace(training or Training(), epochs=epochs),
            evaluation=dataclasses.replace(
                evaluation or Evaluation(),
                chance_loss=self.inputs.chance_loss(trial),
                chance_accuracy=self.inputs.chance_accuracy(trial),
            ),
            environment=Environment(**describe(self.device)),
            provenance=TrialProvenance(
                **self.provenance(),
                workers=self.workers,
                lanes=lanes,
                together=engine.together if lanes > 1 else None,
                channels_last=channels_last,
                compiled=engine.compile,
                data=UsedData(
                    label=data.label,
                    checksum=data.checksum,
                    shape=tuple(data.input_shape),
                    classes=data.num_classes,
                    train=len(data.train.targets),
                    test=len(data.test.targets),
                ),
            ),
        )


def identities(trials: Sequence[Trial]) -> list[str]:
    """Those of some trials."""
    return [trial.identity for trial in trials]


def network_and_method(trial: Trial) -> tuple[DataSource, ModelSource, str]:
    """What decides whether a trial is too large."""
    return trial.data, trial.model, trial.method


def _epoch_record(epoch: Epoch) -> EpochRecord:
    train_loss, test_loss = _finite(epoch.train_loss), _finite(epoch.test_loss)
    return EpochRecord(epoch=epoch.epoch, train_loss=train_loss, test_loss=test_loss, test_accuracy=epoch.test_accuracy)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def forget_frames(error: BaseException | None) -> None:
    """Clear the local variables in the traceback of `error`, and of the errors before it."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
