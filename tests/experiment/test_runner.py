"""Trials are paired, resumed, and fail without harm."""

import logging
import math
import random
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.data import Split
from pai_bench.execution import Listener, run_catalog
from pai_bench.experiment import runner as runner_module
from pai_bench.experiment import stages
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.results import Record, Store
from pai_bench.scoring import MaskedModel, prunable_parameters
from pai_bench.training import trainer


def tiny(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Two layers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0], 16), nn.ReLU(), nn.Linear(16, classes))


def blobs() -> pb.DataSet:
    """Three classes, well apart, 5 features."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(300) % 3
    inputs = torch.randn(300, 5, generator=generator) + 4 * nn.functional.one_hot(targets, 5)
    return pb.DataSet("blobs", Split(inputs[:240], targets[:240]), Split(inputs[240:], targets[240:]))


@dataclass(frozen=True)
class Fails(pb.Criterion):
    """A criterion that always fails."""

    def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
        raise RuntimeError("no score today")


def sweep(**changes: Any) -> pb.Sweep:
    """A small sweep."""
    keys: dict[str, Any] = {"criteria": ["snip", "random"], "models": [tiny], "data": [blobs()], "sparsities": [0.5]}
    keys["protocol"] = "short"
    return pb.Sweep(**keys | {"seeds": 2, "epochs": 3, "device": "cpu"} | changes)


class Count(Listener):
    """Notes the trials that run."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def on_finish(self, trial: Trial, record: Record, seconds: float) -> None:
        self.ran.append(trial.identity)


def test_a_sweep_gives_a_row_for_each_trial() -> None:
    frame = pb.run(sweep(), out="r")
    assert len(frame) == 2 * (1 + 2)
    assert (frame.status == "done").all()
    assert (frame[frame.criterion == "dense"].test_accuracy > 0.95).all()
    assert frame[frame.criterion != "dense"].achieved_sparsity.tolist() == [0.5] * 4  # 64 of 128 weights
    assert frame[frame.criterion == "dense"].achieved_sparsity.tolist() == [0.0] * 2
    assert frame.epochs.tolist() == [3] * 6
    assert (frame.train_seconds > 0).all()
    assert frame[frame.criterion != "dense"].score_seconds.notna().all()
    assert sorted(pb.read_results("r").identity) == sorted(frame.identity)


def test_records_hold_the_loss_and_the_accuracy_of_chance() -> None:
    """Of the labels in use: three classes with 10, 20 and 30 training examples, and 1, 1 and 2 test examples."""
    targets = torch.repeat_interleave(torch.arange(3), torch.tensor([10, 20, 30]))
    test = torch.tensor([0, 1, 2, 2])
    data = pb.DataSet("uneven", Split(torch.randn(60, 5), targets), Split(torch.randn(4, 5), test))
    frame = pb.run(sweep(data=[data], criteria=["random"], seeds=1, epochs=1, score_batch=10, batch_size=10), out="r")
    by_hand = math.log(6) / 6 + math.log(3) / 3 + math.log(2) / 2
    assert frame.chance_loss.tolist() == pytest.approx([by_hand] * 2)
    assert frame.chance_accuracy.tolist() == [0.5] * 2
    assert frame.classes.tolist() == [3, 3]
    assert frame.test_examples.tolist() == [4, 4]


@pytest.mark.parametrize("changes", [{"label_noise": 0.5}, {"train_fraction": 0.3}])
def test_the_loss_of_chance_is_that_of_the_labels_in_use(changes: dict[str, Any]) -> None:
    worker = Runner(resolve(sweep(**changes)))
    for trial in worker.catalog.trials:
        labels = worker.inputs.data(trial, noisy=True).train.targets
        shares = np.bincount(labels.numpy()) / len(labels)
        assert worker.inputs.chance_loss(trial) == pytest.approx(-(shares * np.log(shares)).sum())
    assert len({worker.inputs.chance_loss(trial) for trial in worker.catalog.trials}) == 2  # one for each seed


def test_the_same_sweep_again_runs_only_what_is_missing() -> None:
    first, second, third = Count(), Count(), Count()
    run_catalog(resolve(sweep()), "r", listener=first)
    assert len(first.ran) == 6
    run_catalog(resolve(sweep()), "r", listener=second)
    assert second.ran == []
    (Store("r").trials / f"{first.ran[3]}.json").unlink()
    records = run_catalog(resolve(sweep(seeds=3)), "r", listener=third)
    assert third.ran[0] == first.ran[3]
    assert len(third.ran) == 1 + 3
    assert len(records) == 9


def test_the_same_seed_gives_the_same_result_and_another_seed_another() -> None:
    one, two = (pb.run(sweep(), out=out) for out in ("a", "b"))
    columns = ["test_accuracy", "test_loss", "achieved_sparsity"]
    assert one[columns].equals(two[columns])
    assert one.test_loss.nunique() == 6


def test_seeds_are_paired() -> None:
    """For one seed all trials share initial weights, score batch and the order of training; seeds differ in all."""
    seen: list[tuple[float, float]] = []

    @dataclass(frozen=True)
    class Spy(pb.Criterion):
        which: int = 0

        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
            seen.append((float(model.weights()["1.weight"].sum()), float(batch.inputs.sum())))
            return model.weights()

    catalog = resolve(sweep(criteria=[Spy(), Spy(which=1)], sparsities=[0.0, 0.5]))
    worker = Runner(catalog)
    losses = {}
    for trial in catalog.trials:
        seen.clear()
        record = worker.run(trial)
        assert len(set(seen)) <= 1
        losses[trial.seed, trial.criterion_name, trial.sparsity] = record.evaluation.test_loss
        if seen:
            assert seen[0] == SHARED.setdefault(trial.seed, seen[0])
    assert SHARED[0][0] != SHARED[1][0]
    assert SHARED[0][1] != SHARED[1][1]
    for seed in (0, 1):  # nothing pruned is the dense network, to the last bit: same weights, same order
        assert losses[seed, "Spy", 0.0] == losses[seed, "Spy:which=1", 0.0] == losses[seed, "dense", 0.0]
    assert losses[0, "dense", 0.0] != losses[1, "dense", 0.0]


SHARED: dict[int, tuple[float, float]] = {}


def test_the_weights_that_were_scored_are_the_weights_that_are_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[torch.Tensor] = []
    trained: list[torch.Tensor] = []
    real_prune, real_train = pb.prune, trainer.train

    def prune(model: nn.Module, *rest: Any, **options: Any) -> Any:
        scored.append(prunable_parameters(model)["1.weight"].detach().clone())
        return real_prune(model, *rest, **options)

    def train(model: nn.Module, *rest: Any, **options: Any) -> Any:
        trained.append(prunable_parameters(model)["1.weight"].detach().clone())
        return real_train(model, *rest, **options)

    monkeypatch.setattr(stages, "prune", prune)
    monkeypatch.setattr(stages, "train", train)
    catalog = resolve(sweep(seeds=1))
    for trial in catalog.trials[1:]:
        Runner(catalog).run(trial)
    for before, start in zip(scored[1::2], trained, strict=True):  # each is pruned twice: for memory, and for time
        assert torch.equal(before, start)


def test_a_failed_trial_is_a_record_and_the_sweep_goes_on() -> None:
    count = Count()
    frame = pb.run(sweep(criteria=[Fails(), "snip"]), out="r")
    assert frame.status.tolist() == ["done", "failed", "done"] * 2
    assert re.fullmatch(r"RuntimeError: no score today \(test_runner.py, line \d+, in score\)", frame.error[1])
    run_catalog(resolve(sweep(criteria=[Fails(), "snip"])), "r", listener=count)
    assert count.ran == []  # failures are tried again only when asked
    pb.run(sweep(criteria=[Fails(), "snip"]), out="r", listener=count)
    assert count.ran == []
    run_catalog(resolve(sweep(criteria=[Fails(), "snip"])), "r", listener=count, retry_failed=True)
    assert len(count.ran) == 2


def test_divergence_is_a_failure() -> None:
    frame = pb.run(sweep(learning_rate=1e20, seeds=1), out="r")
    assert (frame.status == "failed").all()
    assert frame.error.str.contains("diverged at step [23]: the training loss is").all()


def test_an_interrupt_keeps_what_is_finished() -> None:
    class Interrupt(Count):
        def on_finish(self, trial: Trial, record: Record, seconds: float) -> None:
            super().on_finish(trial, record, seconds)
            if len(self.ran) == 2:
                raise KeyboardInterrupt

    count = Count()
    with pytest.raises(KeyboardInterrupt):
        run_catalog(resolve(sweep()), "r", listener=Interrupt())
    run_catalog(resolve(sweep()), "r", listener=count)
    assert len(count.ran) == 4


def test_a_fraction_of_the_training_set() -> None:
    catalog = resolve(sweep(train_fraction=0.25))
    worker = Runner(catalog)
    first, again, other = (worker.inputs.data(t) for t in (catalog.trials[0], catalog.trials[1], catalog.trials[-1]))
    assert len(first.train.targets) == 60
    assert len(first.test.targets) == 60
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert not torch.equal(first.train.inputs, other.train.inputs)


def test_records_hold_what_is_needed_to_believe_them() -> None:
    pb.run(sweep(seeds=1), out="r")
    record = next(r for r in Store("r") if r.trial["criterion"])
    assert record.trial["protocol"]["epochs"] == 3
    assert dict(record.trial["criterion"]["options"]) == {"bn": "eval", "seed": None}
    assert {"python", "torch", "pai-bench"} <= set(record.environment.versions)
    assert record.provenance.data.checksum == blobs().checksum
    assert [layer.size for layer in record.pruning.layers] == [80, 48]
    assert sum(layer.kept for layer in record.pruning.layers) == 64
    assert [epoch.epoch for epoch in record.training.curve] == [1, 2, 3]
    assert record.training.curve[-1].test_accuracy == record.evaluation.test_accuracy


def test_training_is_seeded_down_to_dropout() -> None:
    def dropping(shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(nn.Linear(shape[0], 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, classes))

    frame = pb.run(sweep(models=[dropping], sparsities=[0.0]), out="r")
    torch.manual_seed(123)
    again = pb.run(sweep(models=[dropping], sparsities=[0.0]), out="s")
    assert frame.test_loss.tolist() == again.test_loss.tolist()
    assert frame[frame.seed == 0].test_loss.nunique() == 1  # nothing pruned is the dense network
    assert frame.test_loss.nunique() == 2


def test_builders_that_draw_from_numpy_are_paired() -> None:
    def drawn(shape: tuple[int, ...], classes: int) -> nn.Module:
        model = nn.Linear(shape[0], classes)
        with torch.no_grad():
            model.weight.copy_(torch.from_numpy(np.random.randn(classes, shape[0])) * random.random())
        return model

    frame = pb.run(sweep(models=[drawn], sparsities=[0.0]), out="r")
    assert frame[frame.seed == 0].test_loss.nunique() == 1
    assert frame.test_loss.nunique() == 2


def test_a_network_that_calls_view_on_a_feature_map_trains() -> None:
    class View(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(2, 4, 3), nn.Linear(64, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            maps = self.conv(x)
            logits: torch.Tensor = self.fc(maps.view(x.size(0) * 4, -1).view(x.size(0), -1))
            return logits

    def viewing(_shape: tuple[int, ...], _classes: int) -> nn.Module:
        return View()

    split = Split(torch.randn(60, 2, 6, 6), torch.arange(60) % 3)
    frame = pb.run(sweep(models=[viewing], data=[pb.DataSet("maps", split, split)], batch_size=20), out="r")
    assert (frame.status == "done").all()


def test_a_network_that_begins_in_place_does_not_change_the_data() -> None:
    def in_place(shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(nn.ReLU(inplace=True), nn.Linear(shape[0], classes))

    data = blobs()
    before = data.checksum
    pb.run(sweep(models=[in_place], data=[data], criteria=["snip-it"], sparsities=[0.9]), out="r")
    assert blobs().checksum == before
    assert torch.equal(data.test.inputs, blobs().test.inputs)
    assert torch.equal(data.train.inputs, blobs().train.inputs)


def test_results_on_other_data_of_the_same_name_are_refused() -> None:
    pb.run(sweep(), out="r")
    other = pb.DataSet("blobs", Split(blobs().train.inputs + 1, blobs().train.targets), blobs().test)
    with pytest.raises(pb.UserError, match=r"r holds results on blobs with checksum .*--out"):
        pb.run(sweep(data=[other]), out="r")


def test_a_loss_that_explodes_in_the_last_step_is_a_failure() -> None:
    frame = pb.run(sweep(epochs=1, batch_size=240, learning_rate=1e38, seeds=1), out="r")
    assert frame.error.str.contains("diverged at step 1: the test loss after it").all()


@pytest.mark.parametrize("probability", [0.0, 0.5])
def test_two_seeds_draw_different_dropout(probability: float) -> None:
    """Weights and the only batch are the same for all seeds, and so are the results without dropout."""

    class Drops(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = nn.functional.dropout(torch.ones(5), probability, self.training)
            return super().forward(x * kept)

    def dropping(shape: tuple[int, ...], classes: int) -> nn.Module:
        model = Drops(shape[0], classes)
        with torch.no_grad():
            model.weight.copy_(torch.linspace(-1, 1, model.weight.numel()).view_as(model.weight))
            model.bias.zero_()
        return model

    frame = pb.run(sweep(models=[dropping], sparsities=[0.0], batch_size=240, learning_rate=0.1), out="r")
    one, other = (frame[frame.seed == seed].test_loss for seed in (0, 1))
    assert one.nunique() == other.nunique() == 1  # the same for dense, snip and random
    assert (abs(one.iloc[0] - other.iloc[0]) < 1e-5) == (probability == 0)


@pytest.mark.parametrize(
    ("compile", "skips", "compiled"), [(True, False, True), (True, True, False), (False, 0, False)]
)
def test_what_is_not_trained_is_not_compiled(
    compile: bool, skips: bool, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(stages, "train", lambda *given, **named: asked.append((given[2].epochs, named)))
    made = Runner(resolve(sweep(seeds=1)))
    trial = made.catalog.trials[0]
    network = stages.Pruned(trial, nn.Linear(5, 3), None, None, bool(skips))
    stages.train_alone(made.inputs, network, lambda *_: None, trainer.Engine(compile=compile))
    ((epochs, named),) = asked
    assert (epochs, named["engine"].compile) == (0 if skips else 3, compiled)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_memory_of_what_failed_together_is_given_back(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error holds the tensors of its calls, and torch what they give back."""
    freed: list[Any] = []
    monkeypatch.setattr(Runner, "device", torch.device(device))
    monkeypatch.setattr(runner_module, "forget_frames", freed.append)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append("cache"))
    made, error = Runner(resolve(sweep(seeds=1))), torch.OutOfMemoryError("CUDA out of memory")
    smaller: Any = made._smaller
    part = list("abcde")
    assert smaller(part, error) == [["a", "b"], ["c", "d", "e"]]
    assert freed == ([error, "cache"] if device == "cuda" else [])
    assert smaller(part[:1], error) == []
    assert smaller(part[:2], RuntimeError("other")) == [["a"], ["b"]]


def test_the_level_debug_names_trials(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    made = Runner(resolve(sweep(criteria=[Fails()], seeds=1)))
    trial = made.catalog.trials[1]
    made.run(trial)
    assert [message for message in caplog.messages if "trial" in message] == [
        f"trial {trial.identity}",
        f"trial {trial.identity} failed",
    ]
    assert "no score today" in caplog.text
