"""What goes into the record of a trial, field by field: trained alone or with others, failed, or cut in two."""

import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.results.stored import plain
from pai_bench.scoring import MaskedModel
from pai_bench.support.environment import commit
from tests.experiment.test_runner import Fails, blobs, sweep


def normed(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Two layers with batch norm between them."""
    layers = nn.Linear(shape[0], 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, classes)
    return nn.Sequential(*layers)


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_record_field_by_field(lanes: int) -> None:
    catalog = resolve(sweep(models=[normed], seeds=1, sparsities=[0.75], epochs=2, batch_size=60))
    worker = Runner(catalog, "pai-bench run", workers=4)
    epochs_seen: list[tuple[str, int]] = []
    on_epoch: Any = lambda trial, epoch: epochs_seen.append((trial.criterion_name, epoch))  # noqa: E731
    trials = catalog.trials
    together = [trials] if lanes == 3 else [[trial] for trial in trials]
    parts = (records for cell in together for _, records in worker.run_together(cell, on_epoch))
    dense, snip, drawn = (record for records in parts for record in records)
    assert sorted(epochs_seen) == [(name, epoch) for name in ("dense", "random", "snip") for epoch in (0, 1, 2)]
    for trial, record in zip(trials, (dense, snip, drawn), strict=True):
        assert (record.identity, record.trial) == (trial.identity, trial.configuration())
        assert (record.status, record.error, record.traceback) == ("done", None, None)
        assert (record.training.epochs, record.device, record.pruning.connected, record.pruning.first_cut) == (
            2,
            "cpu",
            True,
            None,
        )
        assert [epoch.epoch for epoch in record.training.curve] == [1, 2]
        assert (record.evaluation.test_loss, record.evaluation.test_accuracy) == (
            record.training.curve[-1].test_loss,
            record.training.curve[-1].test_accuracy,
        )
        assert record.training.train_seconds is not None
        assert record.training.images_per_second is not None
        assert 0 < record.training.train_seconds < 600
        assert record.training.images_per_second * record.training.train_seconds == pytest.approx(2 * 240)
        assert record.evaluation.chance_accuracy == pytest.approx(1 / 3)
        assert record.pruning.not_scored == ()
        assert record.pruning.not_prunable == 2 * 16 + 3
        assert [(one.name, one.size, one.shape, one.flops) for one in record.pruning.layers] == [
            ("0.weight", 80, (16, 5), 160),
            ("3.weight", 48, (3, 16), 96),
        ]
        assert record.pruning.flops is not None
        assert record.pruning.flops >= 256
        origin = plain(record.provenance)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", origin.pop("finished"))
        shapes = {"shape": [5], "classes": 3, "train": 240, "test": 60}
        assert origin == {
            **{"command": "pai-bench run", "workers": 4, "lanes": lanes, "channels_last": False, "compiled": False},
            **dict(zip(("commit", "dirty"), commit(), strict=True)),
            "together": "stacked" if lanes == 3 else None,
            "data": {"label": "blobs", "checksum": blobs().checksum, **shapes},
        }
    assert [one.pruning.batch_norm for one in (dense, snip, drawn)] == [None, "eval", None]  # of what sees data
    assert (dense.pruning.mask, dense.pruning.score_seconds, dense.pruning.score_peak_bytes) == (None, None, None)
    assert (dense.pruning.achieved_sparsity, dense.pruning.effective_sparsity) == (0.0, 0.0)
    for record in (snip, drawn):
        assert sum(one.kept for one in record.pruning.layers) == 32
        assert record.pruning.achieved_sparsity == 0.75
        assert record.pruning.effective_sparsity == 1 - sum(one.effective or 0 for one in record.pruning.layers) / 128
        assert record.pruning.mask is not None
        assert record.pruning.score_seconds is not None


def test_records_of_what_failed_and_of_what_is_cut_in_two() -> None:
    @dataclass(frozen=True)
    class Cuts(pb.Criterion):
        """Keeps the first layer alone."""

        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
            return {name: torch.full_like(w, float(name == "0.weight")) for name, w in model.weights().items()}

    catalog = resolve(sweep(models=[normed], criteria=[Fails()], seeds=1))
    failed = Runner(catalog).run(catalog.trials[1])
    assert (failed.status, failed.training.epochs, failed.training.curve, failed.pruning.mask) == (
        "failed",
        3,
        (),
        None,
    )
    assert (failed.evaluation.test_accuracy, failed.training.train_seconds, failed.pruning.batch_norm) == (
        None,
        None,
        None,
    )
    assert failed.traceback is not None
    assert "RuntimeError: no score today\n" in failed.traceback
    assert (failed.provenance.channels_last, failed.provenance.lanes) == (None, 1)
    for train_disconnected, epochs in ((False, 0), (True, 3)):
        keys: dict[str, Any] = {"criteria": [Cuts()], "models": [normed], "seeds": 1, "sparsities": [0.5]}
        catalog = resolve(sweep(**keys, train_disconnected=train_disconnected))
        record = Runner(catalog).run(catalog.trials[1])
        assert (record.training.epochs, len(record.training.curve), record.pruning.connected) == (epochs, epochs, False)
        assert (record.provenance.lanes, record.provenance.workers) == (1, 1)
        assert (record.pruning.first_cut, record.pruning.dead_layers) == ("3.weight", ("0.weight", "3.weight"))
        assert [(one.kept, one.effective) for one in record.pruning.layers] == [(64, 0), (0, 0)]
        why = "no path from input to output, cut first in 3.weight; not trained"
        assert (record.status, record.error) == (("done", None) if train_disconnected else ("disconnected", why))
        assert record.evaluation.test_accuracy is not None
        assert (record.training.train_seconds or 0) > 0 or not train_disconnected
