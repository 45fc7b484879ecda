"""Trials whose masks change, trained together with others, resumed from checkpoints, and in worker processes."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pytest
import torch
from pai_criteria.gmp import GMP
from torch import nn

import pai_bench as pb
from pai_bench.execution.catalog_run import cells
from pai_bench.experiment import record_maker
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.stages import Pruned
from pai_bench.experiment.trial import Trial
from pai_bench.results import Record
from pai_bench.scoring import Change, Criterion, Moment
from pai_bench.training.checkpoints import Saver
from pai_bench.training.trainer import Engine, Together
from tests.experiment.plain_training import mlp, normed, runner_of, same, sweep, trained

BEGINS_AT_ONCE = "gmp:begin=0:first=0.3"
MIXED = ["gmp", BEGINS_AT_ONCE, "set:every=4", "set:every=epoch:grow=gradient", "snip-it:when=during:delay=0:every=1"]


def mixed(network: Callable[..., nn.Module]) -> tuple[Runner, list[Trial]]:
    """The dense reference, several methods, and a criterion that prunes after some steps, of two seeds."""
    runner, trials = runner_of([*MIXED, "snip"], network, schedule=None, seeds=2, epochs=8)
    assert runner.catalog.trials is trials
    return runner, [dataclasses.replace(t, prune_at="5") if t.criterion_name == "snip" else t for t in trials]


@pytest.mark.parametrize("together", ["stacked", "branches"])
@pytest.mark.parametrize("network", [mlp, normed])
def test_several_methods_beside_the_dense_reference(network: Callable[..., nn.Module], together: Together) -> None:
    runner, trials = mixed(network)
    assert len({trial.training_kind for trial in trials}) == 1
    assert cells(trials, lambda _: 99) == [trials]
    check_together(runner, trials, together)


@pytest.mark.parametrize("together", ["stacked", "branches"])
@pytest.mark.parametrize("network", [mlp, normed])
def test_trials_of_rigl(network: Callable[..., nn.Module], together: Together) -> None:
    """Which take the place of steps, so that they are trained with their like alone."""
    runner, trials = runner_of(["rigl:every=4", "snip"], network, sparsities=[0.5, 0.8], seeds=2)
    apart = cells(trials, lambda _: 99)
    assert sorted(len(cell) for cell in apart) == [4, 6]
    (rigl,) = [cell for cell in apart if len(cell) == 4]
    assert {trial.criterion_name for trial in rigl} == {"rigl:every=4"}
    check_together(runner, rigl, together)


def check_together(runner: Runner, trials: Sequence[Trial], together: Together) -> None:
    for trial, found in zip(trials, trained(runner, trials, together), strict=True):
        (alone,) = trained(runner, [trial])
        same(found.model, alone.model)
        assert (found.mask is None) == (alone.mask is None) == (trial.criterion is None)
        for name, keep in (alone.mask or {}).items():
            assert found.mask is not None
            assert torch.equal(found.mask[name], keep), (trial.criterion_name, name)
            assert not found.model.get_parameter(name)[~keep].any()


def test_trials_that_become_smaller_are_trained_alone() -> None:
    _, trials = runner_of(["snap-it:when=during:delay=0:every=1", "snap"], seeds=2, epochs=8)
    assert sorted(len(cell) for cell in cells(trials, lambda _: 99)) == [1, 1, 2, 2]


class Stored:
    """A folder of checkpoints in memory, which keeps all that are written, and gives one."""

    def __init__(self, content: bytes | None = None) -> None:
        self.content, self.written = content, list[bytes]()

    def write(self, _trials: Sequence[str], content: bytes) -> None:
        self.written.append(content)

    def read(self, _trials: Sequence[str]) -> bytes | None:
        return self.content

    def holds(self, _trials: Sequence[str]) -> bool:
        return self.content is not None

    def remove(self, _trials: Sequence[str]) -> None:
        raise AssertionError("the folder's own matter")

    def claimed(self, trials: Iterable[str]) -> frozenset[str]:
        return frozenset(trials)

    def set_aside(self, _trials: Sequence[str], why: str) -> None:
        raise AssertionError(why)


def outcome(
    criteria: Sequence[str | Criterion], store: Stored, monkeypatch: pytest.MonkeyPatch, **keys: Any
) -> list[Any]:
    """Weights, buffers, masks and what else is measured of the pruned trials, run in one program."""
    ended, real = list[Pruned](), record_maker.RecordMaker.record

    def noting(maker: Any, made: Pruned, *arguments: Any) -> Record:
        ended.append(made)
        return real(maker, made, *arguments)

    monkeypatch.setattr(record_maker.RecordMaker, "record", noting)
    catalog = resolve(sweep(criteria, normed, checkpoint_every="1h", **keys))
    trials = [trial for trial in catalog.trials if trial.criterion is not None]
    runs = Runner(catalog, checkpoints=store).run_together(trials, lambda *_: None, Engine())
    records = [record for _, records in runs for record in records]
    monkeypatch.setattr(record_maker.RecordMaker, "record", real)
    found = list[Any]()
    for made, record in zip(ended, records, strict=True):
        assert record.status == "done", record.error
        assert made.mask is not None
        tensors = {**made.model.state_dict(), **{f"mask of {name}": keep for name, keep in made.mask.items()}}
        training = dataclasses.replace(record.training, train_seconds=0, images_per_second=0, event_seconds=0)
        found.append(({name: tensor.tolist() for name, tensor in tensors.items()}, training, record.evaluation))
    return found


DURING = ":when=during:delay=0:every=1"


@dataclass(frozen=True)
class Backwards(GMP):
    """Gives its masks from the last layer to the first."""

    def change(self, moment: Moment) -> Change:
        return Change(dict(reversed(list(super().change(moment).mask.items()))))


@pytest.mark.parametrize(
    ("criteria", "keys"),
    [
        (["gmp"], {"epochs": 3}),
        (["gmp:returns=true"], {"epochs": 3}),
        (["gmp:begin=0:first=0.3:end=1"], {"epochs": 3}),
        (["rigl:every=3"], {"epochs": 3}),
        (["set:every=epoch:grow-init=random"], {"epochs": 3}),
        ([f"snip-it{DURING}"], {"epochs": 4, "schedule": "halving:steps=1"}),
        ([f"snap-it{DURING}"], {"epochs": 4, "schedule": "halving:steps=1", "sparsities": [0.6]}),
        ([f"cnip-it{DURING}"], {"epochs": 4, "schedule": "halving:steps=1"}),
        (["snip"], {"epochs": 3, "prune_at": "5"}),
        (["snap"], {"epochs": 3, "prune_at": "5", "sparsities": [0.6]}),
        (["gmp:returns=true", "set:every=3", "magnitude"], {"epochs": 3}),
        (["rigl:every=3"], {"epochs": 3, "seeds": 2}),
        ([Backwards()], {"epochs": 3}),
    ],
    ids=lambda value: "+".join(map(str, value)) if isinstance(value, list) else "",
)
def test_it_resumes_from_every_step_as_if_nothing_had_been(
    criteria: list[str | Criterion], keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: before, at and after each change."""
    expected = outcome(criteria, Stored(), monkeypatch, **keys)
    saved = Stored()
    with monkeypatch.context() as patch:
        patch.setattr(Saver, "is_due", lambda _: True)
        assert outcome(criteria, saved, patch, **keys) == expected
    assert len(saved.written) == 4 * keys["epochs"]
    assert all(training.events or "magnitude" in criteria for _, training, _ in expected)
    for content in saved.written:
        assert outcome(criteria, Stored(content), monkeypatch, **keys) == expected


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize(
    ("criterion", "keys"),
    [
        (f"snip-it{DURING}", {"schedule": "linear:steps=3"}),
        ("snip", {"prune_at": "3"}),
        ("snip", {"prune_at": "1"}),  # the loss was finite, and the weights after it are not
        (f"snap-it{DURING}", {"schedule": "linear:steps=3", "sparsities": [0.5]}),
    ],
)
def test_a_training_that_diverges_before_a_change_says_that(
    criterion: str, keys: dict[str, Any], seeds: int, caplog: pytest.LogCaptureFixture
) -> None:
    """And not that nothing can be ranked by its scores, which are NaN."""
    runner, trials = runner_of([criterion], seeds=seeds, learning_rate=1e200, **keys)
    pruned = [trial for trial in trials if trial.criterion is not None]
    for cell in cells(pruned, lambda _: seeds):
        for _, records in runner.run_together(cell, lambda *_: None):
            assert all("diverged at step" in (record.error or "") for record in records)
    assert caplog.messages == []


@pytest.mark.slow
def test_two_worker_processes_give_the_same_records() -> None:
    criteria = ["gmp:returns=true", "set:every=10", "rigl:every=10", "snap-it:when=during:delay=0:every=1"]
    keys: dict[str, Any] = {"models": ["lenet-300-100"], "sparsities": [0.5], "seeds": 2, "epochs": 2, "device": "cpu"}
    one = pb.run(pb.Sweep(criteria=criteria, lanes=1, workers=1, **keys), out="one")
    two = pb.run(pb.Sweep(criteria=criteria, lanes=2, workers=2, **keys), out="two")
    columns = ["identity", "achieved_sparsity", "status", "events", "training_flops"]
    pd.testing.assert_frame_equal(one[columns], two[columns])
    pd.testing.assert_series_equal(one.test_loss, two.test_loss, rtol=1e-3)
