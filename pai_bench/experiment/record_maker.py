"""From what a trial has given to its record."""

import dataclasses
import logging
import math
from datetime import UTC, datetime
from typing import Any

from pai_bench.experiment import stages
from pai_bench.experiment.examples import epoch_size
from pai_bench.experiment.inputs import Inputs
from pai_bench.experiment.mask_summary import summarize_mask
from pai_bench.experiment.stages import Pruned
from pai_bench.experiment.training_cost import ChangeLog
from pai_bench.experiment.trial import Trial
from pai_bench.results import Environment, EpochRecord, Evaluation, Pruning, Record, Training, TrialProvenance, UsedData
from pai_bench.support.environment import commit, describe, without_paths
from pai_bench.support.failures import described, traceback_of
from pai_bench.training.layout import channels_last_weights
from pai_bench.training.loop import Epoch, History
from pai_bench.training.trainer import ENGINE, DivergedError, Engine

logger = logging.getLogger(__name__)


class RecordMaker:
    """Makes the records of trials that `command` runs, in one of so many `workers`."""

    def __init__(self, inputs: Inputs, command: str | None, *, workers: int) -> None:
        self.inputs, self.command, self.workers = inputs, command, workers

    def record(self, made: Pruned, history: History, log: ChangeLog | None, engine: Engine, lanes: int = 1) -> Record:
        """The record of a network that was trained by `engine`, beside others in `lanes`.

        `log` is what is known of the changes of its mask; None if it was not trained.
        """
        trial, model, links = made.trial, made.model, made.connectivity
        dense = self.inputs.model(trial) if trial.structured else model  # of which its mask is
        inputs, cost = self.inputs, made.cost
        if history.diverged is not None:
            return self.failure(trial, DivergedError(history.diverged))
        test_loss, test_accuracy = stages.final_test(inputs, made, history)
        why = None
        if made.skips_training and links is not None:
            why = f"no path from input to output, cut first in {links.first_cut}; not trained"
        return self._make(
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
                curve=tuple(_epoch_record(epoch, log) for epoch in history.epochs),
                **_changes(history, log),
                **_levels(made, history, log),
            ),
            evaluation=Evaluation(test_accuracy=test_accuracy, test_loss=_finite(test_loss)),
        )

    def provenance(self) -> dict[str, Any]:
        """The command, the state of the code that runs it, and the time, which tells the newer of two versions."""
        revision, dirty = commit()
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        return {"command": self.command, "commit": revision, "dirty": dirty, "finished": now}

    def _make(
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
        epochs = 0 if status == "disconnected" else trial.protocol.passes(epoch_size(trial, data))
        return Record(
            identity=trial.identity,
            trial=trial.configuration(),
            status=status,  # type: ignore[arg-type]
            error=error,
            traceback=traceback,
            device=self.inputs.device.type,
            pruning=dataclasses.replace(pruning or Pruning(), not_scored=unclear),
            training=dataclasses.replace(training or Training(), epochs=epochs),
            evaluation=dataclasses.replace(
                evaluation or Evaluation(),
                chance_loss=self.inputs.chance_loss(trial),
                chance_accuracy=self.inputs.chance_accuracy(trial),
            ),
            environment=Environment(**describe(self.inputs.device)),
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

    def failure(self, trial: Trial, error: Exception) -> Record:
        """The record of a trial that an error has ended."""
        logger.debug("trial %s failed", trial.identity, exc_info=error)
        message = described(error).encode("utf-8", "replace").decode()  # halves of characters could not be stored
        return self._make(trial, "failed", error=without_paths(message), traceback=traceback_of(error))


def _changes(history: History, log: ChangeLog | None) -> dict[str, Any]:
    """What a record says of the operations of training, and of the changes of the mask meanwhile."""
    if log is None:
        return {}
    found: dict[str, Any] = {"training_flops": log.training_flops()}
    if log.events:
        found |= {"events": len(log.events), "event_steps": tuple(log.events), "event_seconds": history.event_seconds}
    return found


def _levels(made: Pruned, history: History, log: ChangeLog | None) -> dict[str, Any]:
    """What all trainings up to a level of iterative pruning have cost."""
    if made.beginning is None:
        return {}
    cost = made.beginning.cost.plus(log.training_flops() if log else 0.0, history.seconds)
    return {"trainings": cost.trainings, "total_training_flops": cost.flops, "total_train_seconds": cost.seconds}


def _epoch_record(epoch: Epoch, log: ChangeLog | None) -> EpochRecord:
    train_loss, test_loss = _finite(epoch.train_loss), _finite(epoch.test_loss)
    return EpochRecord(
        epoch=epoch.epoch,
        train_loss=train_loss,
        test_loss=test_loss,
        test_accuracy=epoch.test_accuracy,
        sparsity=log.sparsity_after(epoch.epoch) if log is not None and log.events else None,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
