"""Pruning when the weights of a network have settled: distances and times by hand."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.stability import Stability, checks, relative_distance
from pai_bench.support.identity import stream
from pai_bench.training.events import Event, Pause
from pai_bench.training.trainer import train
from tests.experiment.test_runner import sweep


def line(value: float) -> nn.Module:
    """Two weights of the same value, and a bias of one."""
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.fill_(value)
        layer.bias.fill_(1.0)
    return layer


def test_the_relative_distance() -> None:
    """sqrt(2 * 1 / (2 * 2**2 + 1))."""
    assert float(relative_distance(line(3.0), line(2.0))) == pytest.approx((2 / 9) ** 0.5)


def test_the_times_at_which_it_is_decided() -> None:
    assert checks(100) == [5, 10, 15, 20, 25, 30, 35, 40, 45, 50]
    assert checks(21) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert checks(3) == [1, 2]
    assert checks(1) == [1]


@pytest.mark.parametrize(
    ("values", "settled"),
    [
        ([3.0, 4.0, 5.0], None),  # as fast as at first
        ([3.0, 4.0, 4.05], 2),
        ([3.0, 3.05], 1),
        ([3.0, 2.0], 1),  # nearer to the start
        ([3.0, 3.2, 3.4], None),
    ],
)
def test_weights_have_settled_when_the_distance_hardly_grows(values: list[float], settled: int | None) -> None:
    state: dict[str, Any] = {}
    found = [Stability(state).has_settled(line(value), line(2.0)) for value in values]
    assert (found.index(True) if True in found else None) == settled


@pytest.mark.parametrize("criterion", ["magnitude", "snap"])
def test_a_network_is_pruned_once_when_it_settles(criterion: str) -> None:
    """At the step that the distances of a dense training give; at the latest after half of the steps."""
    catalog = resolve(sweep(criteria=[criterion], seeds=1, epochs=12, prune_when="stable"))
    dense, trial = catalog.trials
    record, inputs, distances = Runner(catalog).run(trial), Runner(catalog).inputs, list[float]()
    assert record.status == "done", record.error

    def note(pause: Pause) -> None:
        distances.append(float(relative_distance(pause.models[0], inputs.model(dense))))

    times = checks(12 * 7)
    events = [Event(step, note) for step in times]
    train(inputs.model(dense), inputs.data(dense), dense.protocol, seed=stream(0, "order"), events=events)
    settled = [after - before < 0.1 * distances[0] for before, after in pairwise(distances)]
    expected = times[1 + settled.index(True)] if True in settled else times[-1]
    assert record.training.event_steps == (expected,)
    assert record.pruning.achieved_sparsity == pytest.approx(0.5, abs=0.1)


def test_what_is_refused() -> None:
    for keys, message in (
        ({"prune_at": "5"}, "prune-at 5 and prune-when stable both say when to prune: give one"),
        ({"criteria": ["rigl:every=3"]}, "prune-when stable is for criteria that prune at once: rigl:every=3 has its"),
        ({"criteria": ["imp:p=0.5"]}, r"prune-when stable is for criteria that prune at once: imp:p=0\.5 has its own"),
    ):
        with pytest.raises(pb.UserError, match=message):
            resolve(sweep(**{"criteria": ["snip"], "prune_when": "stable"} | keys))
