"""From a trial to its record, and from a sweep to a results folder."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pai_bench.catalog import Catalog, resolve
from pai_bench.data import DataSet, Split
from pai_bench.environment import commit, describe, without_paths
from pai_bench.errors import UserError
from pai_bench.identity import stream
from pai_bench.models import create_model
from pai_bench.plan import Sweep, Trial
from pai_bench.pruning import Batch, Connectivity, Mask, Scorer, get_schedule, prunable_parameters, prune
from pai_bench.pruning.connectivity import connectivity
from pai_bench.pruning.guard import BATCH_NORMS
from pai_bench.randomness import random_state
from pai_bench.store import EpochRecord, Layer, Record, Store, as_frame
from pai_bench.timing import Measurement, measured
from pai_bench.training.trainer import History, evaluate, train

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


class Listener:
    """What is told of a sweep's progress. Every method may be overridden; the default listens to nothing."""

    def begin(self, runner: "Runner", total: int, missing: list[Trial]) -> None:
        """The sweep has `total` trials, of which `missing` are to be run."""

    def start(self, trial: Trial) -> None:
        """A trial begins."""

    def epoch(self, trial: Trial, epoch: int) -> None:
        """A trial has finished `epoch` epochs of training; 0 when training begins."""

    def finish(self, trial: Trial, record: Record, seconds: float) -> None:
        """A trial has ended, well or not, and is stored."""

    def skip(self, trial: Trial) -> None:
        """A trial that was to be run has been stored by another process meanwhile."""

    def end(self) -> None:
        """The sweep is over, finished or not."""


def run(
    sweep: Sweep,
    out: str | Path = "results",
    *,
    retry_failed: bool = False,
    listener: Listener | None = None,
    command: str | None = None,
) -> "pd.DataFrame":
    """Run what is missing of `sweep` in the results folder `out`; returns one row for each of its trials."""
    return as_frame(run_catalog(resolve(sweep), out, retry_failed=retry_failed, listener=listener, command=command))


def run_catalog(
    catalog: Catalog,
    out: str | Path,
    *,
    retry_failed: bool = False,
    listener: Listener | None = None,
    command: str | None = None,
) -> list[Record]:
    """The records of the catalog's trials, in their order, after running those that the folder `out` lacks."""
    store, listener = Store(out, create=True), listener or Listener()
    records = {trial.identity: store.read(trial.identity) for trial in catalog.trials}
    missing = []
    for trial in catalog.trials:
        record = records[trial.identity]
        refuse_other_data(record, catalog.data[trial.data], store)
        if record is None or run_again(record, catalog, retry_failed=retry_failed):
            missing.append(trial)
    runner = Runner(catalog, command)
    listener.begin(runner, len(catalog.trials), missing)
    try:
        for trial in missing:
            if (record := store.read(trial.identity)) is not None and records[trial.identity] is None:
                records[trial.identity] = record  # another process on the same folder was faster
                listener.skip(trial)
                continue
            listener.start(trial)
            start = time.perf_counter()
            record = runner.run(trial, lambda epoch, trial=trial: listener.epoch(trial, epoch))  # type: ignore[misc]
            store.write(record)
            records[trial.identity] = record
            listener.finish(trial, record, time.perf_counter() - start)
    finally:
        listener.end()
    return [record for record in records.values() if record is not None]


def run_again(record: Record, catalog: Catalog, *, retry_failed: bool) -> bool:
    """Whether a trial is to be run although it is stored."""
    return {"failed": retry_failed, "disconnected": catalog.train_disconnected}.get(record.status, False)


def refuse_other_data(record: Record | None, data: DataSet, store: Store) -> None:
    """A stored result of a data set that has the same name, but not the same content, is not this trial's."""
    found = record.provenance["data"]["checksum"] if record else data.checksum
    if found != data.checksum:
        raise UserError(
            f"{store.path} holds results on {data.name} with checksum {found}, but now it has {data.checksum}; "
            "give another folder with --out"
        )


class Runner:
    """Runs trials one at a time on the catalog's device, the data resident there."""

    def __init__(self, catalog: Catalog, command: str | None = None) -> None:
        self.catalog, self.device, self.command = catalog, catalog.device, command
        self._resident: dict[str, DataSet] = {}
        self._warm: set[tuple[str, str, str]] = set()

    def run(self, trial: Trial, on_epoch: Callable[[int], None] = lambda _epoch: None) -> Record:
        """The record of `trial`; an error makes a record too, with status ``failed``."""
        logger.debug("trial %s", trial.identity)
        try:
            return self._attempt(trial, on_epoch)
        except Exception as error:
            logger.debug("trial %s failed", trial.identity, exc_info=True)
            message = " ".join(f"{type(error).__name__}: {error}".split())
            return self._record(trial, "failed", error=without_paths(message))

    def _attempt(self, trial: Trial, on_epoch: Callable[[int], None]) -> Record:
        data = self.data(trial)
        model = self.model(trial)
        mask, score = self.mask(trial, model, data)
        links = self.links(model, mask, data)
        if trial.criterion and self.catalog.variants[trial.variant].redraws:
            model = self.model(trial, "reinit")
        cut = mask is not None and links is not None and not links.connected and not self.catalog.train_disconnected
        if cut and mask is not None:
            mask.apply_(model)
        on_epoch(0)
        with random_state(stream(trial.seed, "training")):  # dropout and the like
            history = train(
                model,
                data,
                trial.protocol.lasting(0) if cut else trial.protocol,
                mask=mask,
                seed=stream(trial.seed, "order"),
                on_epoch=lambda epoch: on_epoch(epoch.epoch),
            )
        test_loss, test_accuracy = self._final(model, data, history)
        why = f"no path from input to output, cut first in {links.first_cut}; not trained" if cut and links else None
        return self._record(
            trial,
            "disconnected" if cut else "done",
            error=why,
            test_accuracy=test_accuracy,
            test_loss=_finite(test_loss),
            **self._connectivity(model, mask, links),
            score_seconds=score.seconds if score else None,
            score_peak_bytes=score.peak_bytes if score else None,
            train_seconds=history.seconds,
            images_per_second=history.images_per_second,
            batch_norm=self._batch_norm(trial, model),
            curve=tuple(
                EpochRecord(
                    epoch=e.epoch,
                    train_loss=_finite(e.train_loss),
                    test_loss=_finite(e.test_loss),
                    test_accuracy=e.test_accuracy,
                )
                for e in history.epochs
            ),
        )

    def links(self, model: nn.Module, mask: Mask | None, data: DataSet) -> Connectivity | None:
        """What the mask leaves of the network's paths; None for a network that has no paths of its own."""
        mask = Mask.whole(prunable_parameters(model)) if mask is None else mask
        try:
            return connectivity(model, mask, torch.zeros(1, *data.input_shape), paths=False)
        except Exception as error:  # whatever a network does, it can be trained all the same
            logger.warning("connectivity is not known: %s: %s", type(error).__name__, error)
            return None

    def _connectivity(self, model: nn.Module, mask: Mask | None, links: Connectivity | None) -> dict[str, Any]:
        """The fields of a record that say what is left of the network."""
        weights = prunable_parameters(model)
        sizes = {name: tensor.numel() for name, tensor in (mask or weights).items()}
        kept = mask.kept_per_layer() if mask else sizes
        effective = {layer.name: layer.effective for layer in links.layers} if links else dict.fromkeys(sizes)
        return {
            "achieved_sparsity": 1 - sum(kept.values()) / sum(sizes.values()),
            "effective_sparsity": links.effective_sparsity if links else None,
            "connected": links.connected if links else None,
            "dead_layers": tuple(n for n in sizes if n in weights and not (kept[n] if links is None else effective[n])),
            "first_cut": links.first_cut if links else None,
            "severed_shortcuts": links.severed_shortcuts if links else (),
            "layers": tuple(Layer(name=n, size=sizes[n], kept=kept[n], effective=effective[n]) for n in sizes),
        }

    def data(self, trial: Trial) -> DataSet:
        """The trial's data on the device."""
        if trial.data not in self._resident:
            self._resident[trial.data] = self.catalog.data[trial.data].to(self.device)
        return self._resident[trial.data].subset(trial.train_fraction, stream(trial.seed, "fraction"))

    def model(self, trial: Trial, purpose: str = "weights") -> nn.Module:
        """The trial's network with the initial weights of its seed, which are the same on every device.

        Another `purpose` gives another draw.
        """
        data = self.catalog.data[trial.data]
        builder = self.catalog.models[trial.model]
        seed = stream(trial.seed, purpose)
        return create_model(builder, input_shape=data.input_shape, num_classes=data.num_classes, seed=seed).to(
            self.device
        )

    def mask(self, trial: Trial, model: nn.Module, data: DataSet) -> tuple[Mask | None, Measurement | None]:
        """The trial's mask and what it cost, after a warm-up; nothing for the dense reference."""
        if trial.criterion is None:
            return None, None
        criterion = self.catalog.criteria[trial.criterion.name]
        batch, draw = self.score_batch(trial, data), self.draw(trial)
        if (key := (trial.data, trial.model, str(criterion))) not in self._warm:
            with Scorer(criterion, model, draw=draw) as scorer:
                scorer.score(batch)  # unmeasured: libraries load, caches fill
            self._warm.add(key)
        with measured(self.device) as score:
            mask = prune(
                model,
                batch,
                criterion,
                trial.sparsity,
                schedule=get_schedule(trial.criterion.schedule),
                scope=trial.scope,
                variant=self.catalog.variants[trial.variant],
                target=trial.target,
                min_per_layer=trial.min_per_layer,
                repair=trial.repair,
                draw=draw,
                seed=stream(trial.seed, "scores"),
            )
        return mask, score

    def score_batch(self, trial: Trial, data: DataSet) -> Batch:
        """The examples that the trial's criterion sees, the same for all criteria and sparsities of a seed."""
        size, balanced = trial.score_batch * trial.score_batches, trial.score_sampling == "balanced"
        examples = data.score_batch(size, stream(trial.seed, "batch"), balanced=balanced)
        return Batch(*examples, batches=trial.score_batches)

    def draw(self, trial: Trial) -> Callable[[int], nn.Module]:
        """How the trial's network is drawn again for scoring."""
        return lambda _seed: self.model(trial, "redraw")

    def _final(self, model: nn.Module, data: DataSet, history: History) -> tuple[float, float]:
        """Test loss and accuracy after the last epoch."""
        if history.epochs:
            return history.epochs[-1].test_loss, history.epochs[-1].test_accuracy
        return evaluate(model, data, data.test)

    def _batch_norm(self, trial: Trial, model: nn.Module) -> str | None:
        """The statistics that batch norm used while scoring, where that made a difference."""
        criterion = self.catalog.criteria[trial.criterion.name] if trial.criterion else None
        has_one = any(isinstance(module, BATCH_NORMS) for module in model.modules())
        return criterion.bn if criterion is not None and criterion.uses_data and has_one else None

    def step_seconds(self, trial: Trial) -> float:
        """Seconds of one training step of the trial's network and data, measured after one step of warm-up."""
        data = self.data(trial)
        model = self.model(trial)
        count = 2 * trial.protocol.batch_size
        few = dataclasses.replace(data, train=_head(data.train, count), test=_head(data.test, 2))
        train(model, few, trial.protocol.lasting(1))
        return train(model, few, trial.protocol.lasting(1)).seconds / 2

    def provenance(self) -> dict[str, Any]:
        """The command, and the state of the code that runs it."""
        revision, dirty = commit()
        return {"command": self.command, "commit": revision, "dirty": dirty}

    def _record(self, trial: Trial, status: str, **measured_values: Any) -> Record:
        data = self.catalog.data[trial.data]
        return Record(
            identity=trial.identity,
            trial=trial.configuration(),
            status=status,  # type: ignore[arg-type]
            epochs=0 if status == "disconnected" else trial.protocol.passes(data.train_size(trial.train_fraction)),
            device=self.device.type,
            environment=describe(self.device),
            provenance={
                **self.provenance(),
                "data": {
                    "label": data.label,
                    "checksum": data.checksum,
                    "train": len(data.train.targets),
                    "test": len(data.test.targets),
                },
            },
            **measured_values,
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _head(split: Split, count: int) -> Split:
    return Split(*(t.repeat(-(-count // len(t)), *(1,) * (t.dim() - 1))[:count] for t in split))
