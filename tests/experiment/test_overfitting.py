"""Random labels, labels of the score batch, little data and its length, from a sweep's settings to what is trained."""

import dataclasses
import io
from typing import Any

import pandas as pd
import pytest
import torch

import pai_bench as pb
from pai_bench.analyses.collapse import Settings
from pai_bench.data import Split
from pai_bench.evaluation import measure
from pai_bench.execution.measure import evaluation_steps, training_steps
from pai_bench.experiment.examples import epoch_size
from pai_bench.experiment.kept_networks import decode
from pai_bench.experiment.masks import remake_mask
from pai_bench.experiment.moments import moments, timeline
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.report import metrics
from pai_bench.report.summary import comparisons
from pai_bench.results import Record
from pai_bench.scoring import MaskedModel
from tests.experiment.test_levels import Networks
from tests.experiment.test_runner import sweep

SETTINGS: tuple[dict[str, Any], ...] = (
    {"label_noise": 0.5},
    {"label_noise": 0.5, "label_law": "exact"},
    {"label_noise": "permute"},
    {"label_noise": 0.5, "score_labels": "noisy"},
    {"train_fraction": 0.5},
    {"train_fraction": 0.5, "subset": "balanced"},
    {"train_fraction": 0.5, "length": "steps"},
    {"train_fraction": 0.5, "subset": "balanced", "label_noise": "permute", "score_labels": "noisy"},
)


def trials_of(**changes: Any) -> list[Trial]:
    """The dense and the pruned trial of each seed."""
    return resolve(sweep(**{"criteria": ["snip"], **changes})).trials


def identities(**changes: Any) -> list[str]:
    return [trial.identity for trial in trials_of(**changes)]


def test_each_setting_gives_results_of_its_own() -> None:
    found = [identities(**settings) for settings in ({}, *SETTINGS)]
    pruned = [names[1] for names in found]
    assert len(set(pruned)) == len(pruned)
    assert identities(label_noise=0.5)[0] == identities(label_noise=0.5, score_labels="noisy")[0]  # the dense network


@pytest.mark.parametrize(
    ("idle", "beside"),
    [
        ({"subset": "balanced"}, {"train_fraction": 1.0}),
        ({"length": "steps"}, {}),
        ({"label_law": "exact"}, {"label_noise": 0}),
        ({"score_labels": "noisy"}, {"train_fraction": 0.5}),
    ],
)
def test_a_setting_that_changes_nothing_is_in_no_identity(idle: dict[str, Any], beside: dict[str, Any]) -> None:
    assert identities(**idle, **beside) == identities(**beside)


def test_a_protocol_of_a_part_of_the_training_set_has_subsets() -> None:
    (balanced, *_), (plain, *_) = (
        trials_of(protocol="snip-mnist-adam", **changes) for changes in ({"subset": "balanced"}, {})
    )
    assert (balanced.train_fraction, balanced.subset) == (0.9, "balanced")
    assert balanced.identity != plain.identity


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_trials_together_are_those_alone(settings: dict[str, Any]) -> None:
    made = sweep(criteria=["snip"], epochs=1, **settings)
    runner = Runner(resolve(made))
    trials = runner.catalog.trials
    alone = [runner.run(trial) for trial in trials]
    ((_, lanes),) = Runner(resolve(made)).run_together(trials, lambda _trial, _epoch: None)
    assert [record.provenance.lanes for record in lanes] == [len(trials)] * len(trials)
    for one, other in zip(alone, lanes, strict=True):
        assert one.status == other.status == "done"
        (epoch,), (same,) = one.training.curve, other.training.curve
        assert epoch.train_loss == pytest.approx(same.train_loss, rel=1e-4)
        assert {key: one.row()[key] for key in settings if key != "score_labels"}.items() <= settings.items()
        assert one.row().keys() >= settings.keys()


def test_a_sweep_is_stored_read_and_reported() -> None:
    for settings in SETTINGS:
        pb.run(sweep(criteria=["snip"], epochs=1, seeds=1, **settings), out="r")
    rows = pb.read_results("r")
    assert len(rows) == 2 * len(SETTINGS) - 1  # the labels of score batches are of no dense network
    assert (rows.status == "done").all()
    titles = [one.title.removeprefix("tiny on blobs, ") for one in comparisons(rows)]
    random, part = "training labels random with probability 0.5", "50 % of the training set"
    assert sorted(titles) == sorted(
        [
            random,
            f"{random}, exactly this share of them",
            "training labels permuted",
            part,
            f"{part}, balanced by class",
            f"{part}, trained for as many steps as with all of it",
            f"{part}, balanced by class, training labels permuted",
        ]
    )
    (both,) = (one for one in comparisons(rows) if one.title.endswith(random))
    assert both.methods == ("snip, scored on noisy labels", "snip, scored on true labels")
    table = pd.read_csv(io.StringIO(metrics.as_csv(comparisons(rows))))
    assert len(table) == len(rows)


def in_use(changes: dict[str, Any]) -> list[tuple[pb.DataSet, pb.DataSet]]:
    """The training data of each seed with noisy and with true labels."""
    runner = Runner(resolve(sweep(criteria=["snip"], **changes)))
    dense = runner.catalog.trials[::2]
    return [(runner.inputs.data(trial, noisy=True), runner.inputs.data(trial)) for trial in dense]


@pytest.mark.parametrize(("fraction", "count"), [(1.0, 60), (0.35, 21)])
def test_an_exact_share_is_of_the_examples_in_use(fraction: float, count: int) -> None:
    (one, true), (other, _) = in_use({"label_noise": 0.25, "label_law": "exact", "train_fraction": fraction})
    for data in (one, other):
        assert data.noise is not None
        assert int(data.noise.drawn.sum()) == count == round(0.25 * len(data.train.targets))
    assert one.noise is not None
    assert torch.equal(one.noise.true_targets, true.train.targets)
    assert torch.equal(one.noise.true_targets[~one.noise.drawn], one.train.targets[~one.noise.drawn])
    assert torch.equal(one.test.targets, true.test.targets)


@pytest.mark.parametrize("changes", [{}, {"train_fraction": 0.35, "subset": "balanced"}, {"validation": 0.25}])
def test_labels_in_use_are_permuted_and_those_tested_on_stay_true(changes: dict[str, Any]) -> None:
    for noisy, true in in_use({"label_noise": "permute", **changes}):
        assert torch.equal(*(torch.bincount(data.train.targets) for data in (noisy, true)))
        assert not torch.equal(noisy.train.targets, true.train.targets)
        assert torch.equal(noisy.test.targets, noisy.test.inputs[:, :3].argmax(1))  # three classes, well apart
        assert "train_fraction" not in changes or torch.bincount(noisy.train.targets).tolist() == [28, 28, 28]


def test_the_loss_of_chance_is_that_of_the_labels_in_use() -> None:
    for settings in SETTINGS:
        runner = Runner(resolve(sweep(criteria=["snip"], **settings)))
        trial = runner.catalog.trials[0]
        labels = runner.inputs.data(trial, noisy=True).train.targets
        shares = torch.bincount(labels).double() / len(labels)
        assert runner.inputs.chance_loss(trial) == pytest.approx(float(torch.special.entr(shares).sum()))


SEEN: list[pb.Batch] = []


@dataclasses.dataclass(frozen=True)
class Sees(pb.Criterion):
    """Notes the batches that it scores."""

    def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
        SEEN.append(batch)
        return {name: weight.abs() for name, weight in model.weights().items()}


@pytest.mark.parametrize(("labels", "sampling"), [("true", "balanced"), ("noisy", "balanced"), ("noisy", "class-1")])
def test_a_criterion_sees_the_labels_that_are_asked_for(labels: str, sampling: str) -> None:
    SEEN.clear()
    keys: dict[str, Any] = {"label_noise": "permute", "score_labels": labels, "score_sampling": sampling}
    runner = Runner(resolve(sweep(criteria=[Sees()], seeds=1, score_batch=30, **keys)))
    trial = runner.catalog.trials[1]
    runner.probe.mask(trial, runner.inputs.model(trial))
    data = runner.inputs.data(trial, noisy=labels == "noisy")
    of_input = {tuple(x.tolist()): int(y) for x, y in zip(*data.train, strict=True)}
    for batch in SEEN:
        assert [of_input[tuple(x.tolist())] for x in batch.inputs] == batch.targets.tolist()
        own = torch.bincount(batch.targets, minlength=3).tolist()
        assert own == ([0, 30, 0] if sampling == "class-1" else [10, 10, 10])
    assert SEEN


def test_a_score_batch_of_one_class_is_counted_by_its_labels() -> None:
    split = Split(torch.randn(40, 5), torch.tensor([0] * 35 + [1] * 5))
    keys: dict[str, Any] = {"data": [pb.DataSet("rare", split, split)], "score_sampling": "class-1", "score_batch": 6}
    with pytest.raises(pb.UserError, match="rare has 5 training examples of class 1, less than a score batch"):
        resolve(sweep(label_noise=1.0, **keys))
    assert resolve(sweep(label_noise=1.0, score_labels="noisy", **keys)).trials


def test_a_search_for_collapse_depends_on_noise_that_is_scored() -> None:
    plain, noisy, scored, part, longer = (
        Settings().configuration(trials_of(**changes)[1])
        for changes in (
            {},
            {"label_noise": 0.5, "label_law": "exact"},
            {"label_noise": 0.5, "label_law": "exact", "score_labels": "noisy"},
            {"train_fraction": 0.5, "subset": "balanced"},
            {"train_fraction": 0.5, "subset": "balanced", "length": "steps"},
        )
    )
    assert plain == noisy
    assert scored.keys() - plain.keys() == {"label_noise", "label_law", "score_labels"}
    assert part == longer
    assert part["subset"] == "balanced"


def run_all(criterion: Any, **changes: Any) -> list[Record]:
    """The records of one seed, levels among them."""
    runner = Runner(resolve(sweep(criteria=[criterion], seeds=1, **changes)), networks=Networks())
    return [runner.run(trial) for trial in runner.catalog.trials]


def steps_of(record: Record) -> int:
    """How many batches of 32 images it was trained on."""
    assert record.training.images_per_second
    assert record.training.train_seconds
    return round(record.training.images_per_second * record.training.train_seconds / 32)


LITTLE = {"train_fraction": 0.2, "length": "steps"}  # one batch of 48 examples


@pytest.mark.parametrize(("budget", "steps"), [(1.0, 21), (0.4, 7)])
@pytest.mark.parametrize("criterion", ["snip", "gmp", "imp:p=0.3", "snip-it:when=during:delay=0:every=1"])
def test_as_many_steps_as_with_all_of_the_training_set(criterion: str, budget: float, steps: int) -> None:
    """Epochs, and the times of methods, too."""
    keys: dict[str, Any] = {"budget": budget} | ({"schedule": "linear:steps=2"} if "snip-it" in criterion else {})
    whole, little = run_all(criterion, **keys), run_all(criterion, **keys, **LITTLE)
    assert {record.status for record in (*whole, *little)} == {"done"}
    first = 1 if "imp" in criterion else 0
    assert [steps_of(record) for record in little] == [steps, *[steps - first] * (len(little) - 1)]
    for one, other in zip(whole, little, strict=True):
        assert steps_of(one) == steps_of(other)
        assert one.training.epochs == other.training.epochs == len(other.training.curve)
        assert one.training.event_steps == other.training.event_steps
        assert one.training.training_flops == other.training.training_flops
    assert steps_of(run_all("random", **keys, train_fraction=0.2)[0]) < steps


def test_what_is_planned_is_counted_alike() -> None:
    for changes, steps, epochs in (({}, 21, 3), ({"train_fraction": 0.2}, 3, 3), (LITTLE, 21, 3)):
        catalog = resolve(sweep(criteria=["gmp"], seeds=1, **changes))
        trial, data = catalog.trials[1], catalog.data["blobs"]
        assert training_steps(trial, data) == steps
        assert evaluation_steps(trial, data) == pytest.approx(epochs * 60 / 32 / 3)
        line = timeline(trial, epoch_size(trial, data))
        assert (line.steps, line.epoch) == (steps, steps // 3)
        assert moments(trial, epoch_size(trial, data))[-1] == round(0.75 * steps)


def test_memorisation_of_a_network_of_a_sweep() -> None:
    """A network that is trained for long on a few examples knows their labels, and not the true ones."""
    keys: dict[str, Any] = {"train_fraction": 0.05, "batch_size": 12, "epochs": 300, "score_batch": 6}
    runner = Runner(resolve(sweep(label_noise=1.0, seeds=1, **keys)), networks=(networks := Networks()))
    trial = dataclasses.replace(runner.catalog.trials[0], keeps=(runner.catalog.trials[0].identity,))
    runner.run(trial)
    model = decode(networks[trial.identity], trial.identity, runner.device).load_into(runner.inputs.model(trial))
    found = measure(model, runner.inputs.data(trial, noisy=True), ["memorisation"])["memorisation"]
    assert found["train"] >= 11 / 12
    assert found["true"] < 0.8


def test_a_mask_of_noisy_labels_and_a_balanced_part_is_made_again() -> None:
    keys: dict[str, Any] = {"models": ["lenet-300-100"], "data": ["digits"], "train_fraction": 0.5, "epochs": 0}
    made = sweep(criteria=["snip"], seeds=1, **keys, subset="balanced", label_noise="permute", score_labels="noisy")
    runner = Runner(resolve(made))
    record = runner.run(runner.catalog.trials[1])
    mask = remake_mask(record)
    other = pb.prune(
        runner.inputs.model(runner.catalog.trials[1]), runner.inputs.score_batch(runner.catalog.trials[1]), "snip", 0.5
    )
    assert all(torch.equal(mask[name], other[name]) for name in mask)
