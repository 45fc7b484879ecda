"""What trials are made of is kept as long as it is needed, and goes to a device if it has room."""

import gc
import logging
import time
import weakref
from typing import Any

import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.analyses.collapse import Search, Settings
from pai_bench.data import DataSet
from pai_bench.experiment import inputs, scoring_probe
from pai_bench.experiment.inputs import Inputs, class_shares
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.graph.connectivity import Connections
from pai_bench.support.timing import Measurement
from tests.experiment.measured_scores import noted_scores
from tests.experiment.test_runner import sweep


def test_data_stay_on_the_device_until_they_are_released() -> None:
    worker = Runner(resolve(sweep(seeds=1)))
    trial = worker.catalog.trials[0]
    model = worker.inputs.model(trial)
    first, traced = worker.inputs.whole(trial), worker.inputs.connections(trial, model)
    assert worker.inputs.whole(trial) is first
    assert worker.inputs.connections(trial, model) is traced is not None
    worker.inputs.release()
    assert worker.inputs.whole(trial) is not first
    assert worker.inputs.connections(trial, model) is not traced


@pytest.mark.parametrize(("more", "fits"), [(0, False), (2, True)])
def test_data_are_resident_if_they_take_less_than_half_of_what_is_free(
    more: int, fits: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Runner(resolve(sweep(seeds=1)))
    asked: list[tuple[Any, bool]] = []

    def to(self: DataSet, device: Any, *, inputs: bool = True) -> DataSet:
        asked.append((device, inputs))
        return self

    worker.inputs.device = torch.device("cuda")
    data = worker.catalog.data["blobs"]
    monkeypatch.setattr(inputs, "free_bytes", lambda _device: 2 * data.nbytes + more)
    monkeypatch.setattr(DataSet, "to", to)
    assert worker.inputs.whole(worker.catalog.trials[0]) is data
    assert asked == [(torch.device("cuda"), fits)]
    with caplog.at_level(logging.WARNING):
        assert ("blobs is larger than half of the device's free memory" in caplog.text) != fits


def test_the_last_network_stays_traced_unless_it_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Runner(resolve(sweep(seeds=2)))
    first, *_, other = worker.catalog.trials
    traced = {trial.identity: worker.inputs.connections(trial, worker.inputs.model(trial)) for trial in (first, other)}
    assert traced[first.identity] is not traced[other.identity] is not None
    assert worker.inputs.connections(other, nn.Identity()) is traced[other.identity]
    monkeypatch.setattr(inputs, "LARGE_TRACE", 100)
    again = worker.inputs.connections(first, worker.inputs.model(first))
    assert again is not worker.inputs.connections(first, worker.inputs.model(first))


def test_what_comes_before_scoring_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, asked = Inputs.score_batch, list[Any]()

    def slow(self: Inputs, trial: Any) -> Any:
        asked.append(trial)
        time.sleep(0.3)
        return drawn(self, trial)

    monkeypatch.setattr(Inputs, "score_batch", slow)
    worker = Runner(resolve(sweep(criteria=["random"], seeds=1)))
    _, cost = worker.probe.mask(worker.catalog.trials[1], worker.inputs.model(worker.catalog.trials[1]))
    assert cost is not None
    assert asked
    assert cost.seconds < 0.25


def test_operations_are_counted_once_also_where_they_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Runner(resolve(sweep(seeds=1)))
    trial = worker.catalog.trials[0]
    model = worker.inputs.model(trial)
    found = worker.inputs.flops(trial, model)
    assert found is not None
    assert found.by_weight == {"1.weight": 2 * 5 * 16, "3.weight": 2 * 16 * 3}
    traced = worker.inputs.connections(trial, model)
    assert worker.inputs.connections(trial, model) is traced  # that of the count
    assert worker.inputs.flops(trial, nn.Identity()) is found
    other, asked = Runner(resolve(sweep(seeds=1))), list[nn.Module]()

    def refuse(model: nn.Module, _example: torch.Tensor) -> None:
        asked.append(model)
        raise pb.UserError("it cannot be followed")

    monkeypatch.setattr(inputs, "Connections", refuse)
    assert [other.inputs.flops(trial, other.inputs.model(trial)) for _ in range(2)] == [None, None]
    assert len(asked) == 1


def test_networks_of_other_purposes_and_kept_layers() -> None:
    worker = Runner(resolve(sweep(seeds=1, keep_first=True, train_fraction=0.5, score_batch=6, score_batches=2)))
    trial = worker.catalog.trials[1]
    one, same, other = (worker.inputs.model(trial, *purpose) for purpose in ((), ("weights",), ("redraw",)))
    assert torch.equal(one.get_parameter("1.weight"), same.get_parameter("1.weight"))
    assert not torch.equal(one.get_parameter("1.weight"), other.get_parameter("1.weight"))
    assert torch.equal(worker.inputs.draw(trial)(7).get_parameter("1.weight"), other.get_parameter("1.weight"))
    assert worker.inputs.prunable(trial, one) == ["3.weight"]
    assert worker.inputs.prunable(trial, one, biases=True) == ["3.weight", "3.bias"]
    batch = worker.inputs.score_batch(trial)
    assert (len(batch.targets), batch.batches) == (12, 2)
    assert torch.bincount(batch.targets).tolist() == [4, 4, 4]
    assert worker.inputs.example(trial).shape == (1, 5)
    chosen = worker.inputs.chosen(trial)
    assert chosen is not None
    assert len(chosen) == 120


def test_shares_of_classes() -> None:
    assert class_shares(torch.tensor([2, 0, 2, 2])).tolist() == [0.25, 0.0, 0.75]
    assert class_shares(torch.tensor([1])).dtype == torch.float64


def test_a_score_batch_of_one_class() -> None:
    worker = Runner(resolve(sweep(seeds=1, score_sampling="class-2", score_batch=7)))
    trial = worker.catalog.trials[1]
    assert worker.inputs.score_batch(trial).targets.tolist() == [2] * 7
    assert isinstance(worker.inputs.data(trial), pb.DataSet)


def test_one_network_is_traced_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two traces of a large one need not have room."""
    worker, trace, kept = Runner(resolve(sweep(seeds=2))), Connections, list[bool]()
    first, *_, other = worker.catalog.trials
    earlier = weakref.ref(worker.inputs.connections(first, worker.inputs.model(first)))

    def traced(*given: Any) -> Any:
        gc.collect()
        kept.append(earlier() is not None)
        return trace(*given)

    monkeypatch.setattr(inputs, "Connections", traced)
    assert worker.inputs.connections(other, worker.inputs.model(other)) is not None
    assert kept == [False]


def test_scoring_is_measured_after_a_warm_up_and_its_memory_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory of two cuts, which is that of all, since the time is to be that of memory at hand."""
    notes = noted_scores(monkeypatch, scoring_probe, *(Measurement(1.0, peak) for peak in (70, None, None)))
    worker = Runner(resolve(sweep(criteria=["magnitude"], schedule="linear:steps=3", seeds=2)))
    dense, one, _, other = worker.catalog.trials
    assert worker.probe.mask(dense, worker.inputs.model(dense)) == (None, None)
    found = [worker.probe.mask(trial, worker.inputs.model(trial))[1] for trial in (one, other)]
    timed = [("begin", None), *["score"] * 3, "end"]
    assert notes == ["score", ("begin", True), "score", "score", "end", *timed, *timed]
    assert found == [Measurement(1.0, 70)] * 2


def test_paths_are_not_counted_where_nobody_reads_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take half as long again."""
    monkeypatch.setattr(Connections, "_paths", lambda *_given: 1 // 0)
    worker = Runner(resolve(sweep(seeds=1)))
    assert {worker.run(trial).status for trial in worker.catalog.trials} == {"done"}
    search = Search(worker, worker.catalog.trials[1], Settings(3))
    assert list(search.steps())
    assert search.result(1.0).connected_until is not None
