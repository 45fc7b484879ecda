"""Initial weights, label noise and validation sets, from a sweep's settings to what is trained and tested."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pai_bench as pb
from pai_bench.analyses.collapse import Settings
from pai_bench.data import Split
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.settings import ScoringSettings, TrainingSettings, completed, names
from pai_bench.experiment.sweep import Sweep
from pai_bench.support.spec import identity_fields
from pai_bench.training.batches import Batches, Order
from pai_bench.training.protocol import get_protocol
from pai_bench.training.trainer import train
from tests.experiment.test_runner import sweep


def test_identities_change_with_a_setting_and_stay_without() -> None:
    plain = {trial.identity for trial in resolve(sweep()).trials}
    same = {trial.identity for trial in resolve(sweep(init="own", label_noise=0, validation=0.0)).trials}
    assert plain == same
    for other in ({"init": "vs-x"}, {"label_noise": 0.1}, {"validation": 0.1}):
        assert not plain & {trial.identity for trial in resolve(sweep(**other)).trials}


@pytest.mark.parametrize(
    ("declaring", "first"),
    [(ScoringSettings, {"scope", "score_batch", "score_sampling"}), (TrainingSettings, {"train_fraction"})],
)
def test_settings_of_the_first_results_are_always_stored_and_others_completed(declaring: Any, first: set[str]) -> None:
    """At its default, each is either stored or added when a result is read, never both."""
    assert set(identity_fields(declaring(), declaring)) == first
    assert completed({}).keys() & set(names(declaring)) == set(names(declaring)) - first
    other = dict.fromkeys(names(declaring), "another")
    assert completed(other) == completed({}) | other


def test_criteria_see_true_labels_and_networks_the_noisy_ones_of_their_seed() -> None:
    clean, noisy = (Runner(resolve(sweep(criteria=["snip"], label_noise=noise))) for noise in (0.0, 1.0))
    for one, other in zip(clean.catalog.trials, noisy.catalog.trials, strict=True):
        masks = [runner.probe.mask(t, runner.inputs.model(t))[0] for runner, t in ((clean, one), (noisy, other))]
        assert (masks[0] is None) == (masks[1] is None)
        assert masks[0] is None or all(torch.equal(keep, masks[1][name]) for name, keep in masks[0].items())  # type: ignore[index]
        labels = noisy.inputs.labels(other)
        assert labels is not None
        assert clean.inputs.labels(one) is None
        assert torch.equal(labels, noisy.inputs.data(other, noisy=True).train.targets)
        assert not torch.equal(labels, noisy.inputs.data(other).train.targets)
    seeds = {t.seed: noisy.inputs.labels(t) for t in noisy.catalog.trials}
    assert not torch.equal(seeds[0], seeds[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_noisy_labels_in_lanes_are_those_of_each_trial_alone(fraction: float) -> None:
    made = sweep(criteria=["snip"], seeds=3, label_noise=0.7, train_fraction=fraction)
    apart, together = Runner(resolve(made)), Runner(resolve(made))
    trials = apart.catalog.trials
    alone = [apart.run(trial) for trial in trials]
    ((_, lanes),) = together.run_together(trials, lambda _trial, _epoch: None)
    assert [record.provenance.lanes for record in lanes] == [len(trials)] * len(trials)
    for one, other in zip(alone, lanes, strict=True):
        losses = ([epoch.train_loss for epoch in record.training.curve] for record in (one, other))
        assert next(losses) == pytest.approx(next(losses), rel=1e-4)


def test_lanes_with_and_without_labels_of_their_own() -> None:
    inputs = torch.arange(6.0)[:, None]
    data = pb.DataSet("six", Split(inputs, torch.arange(6) % 2), Split(inputs, torch.arange(6) % 2))
    orders = [Order(0), Order(1, labels=torch.full((6,), 1))]
    _, targets = next(Batches(data, orders, get_protocol("quick", batch_size=6)).epoch())
    assert targets[0].sum() == 3
    assert targets[1].sum() == 6


def test_networks_are_tested_on_what_is_held_out() -> None:
    record = Runner(resolve(sweep(criteria=["snip"], validation=0.25))).run(
        resolve(sweep(criteria=["snip"], validation=0.25)).trials[0]
    )
    data = record.provenance.data
    assert (data.train, data.test) == (180, 60)
    assert data.label == "blobs, tested on 25 % of its training set"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init": "xavier"}, "init=xavier is not one of own, vs-x, vs-h, vs, rn, tn"),
        ({"label_noise": 1.5}, "label-noise 1.5 is outside"),
        ({"validation": 1}, "validation 1 is outside"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, float], message: str) -> None:
    with pytest.raises(pb.UserError, match=message):
        Sweep(**settings)  # type: ignore[arg-type]


def test_a_search_for_collapse_depends_on_what_its_score_batch_is_drawn_from() -> None:
    found = [
        Settings().configuration(resolve(sweep(criteria=["snip"], **changes)).trials[1])
        for changes in ({}, {"train_fraction": 0.5}, {"label_noise": 0.5}, {"epochs": 7})
    ]
    assert found[0] == found[2] == found[3] != found[1]
    assert "train_fraction" not in found[0]
    assert found[1]["train_fraction"] == 0.5


def test_a_network_that_cannot_be_copied_is_trained_as_it_is() -> None:
    class Locked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()
            self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 10)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.head(self.conv(x).mean((2, 3)))
            return found

    history = train(Locked(), pb.load_data("digits"), get_protocol("quick"))
    assert len(history.epochs) == 1


def test_an_error_with_half_a_character_is_stored() -> None:
    def breaks(_shape: tuple[int, ...], _classes: int) -> nn.Module:
        return nn.Linear(5, 3)

    runner = Runner(resolve(sweep(models=[breaks], criteria=["random"])))
    record = runner.failure(runner.catalog.trials[0], RuntimeError("half \ud800"))
    assert type(record).from_json(record.to_json()).error == "RuntimeError: half ?"
