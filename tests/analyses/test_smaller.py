"""What is measured of smaller networks: which passes and steps, of which networks, and what is stored of them."""

from typing import Any

import pytest
import torch
from torch import nn

from pai_bench.analyses import smaller as module
from pai_bench.analyses.cost import measure_cost
from pai_bench.analyses.smaller import measure_smaller
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.groups import GroupMask
from pai_bench.results import BesideDense, Cost
from pai_bench.support.timing import Timing
from tests.experiment.test_runner import sweep


def half(runner: Runner) -> GroupMask:
    """The first half of the 16 hidden units is removed."""
    trial = runner.catalog.trials[1]
    groups = runner.inputs.groups(trial, runner.inputs.model(trial))
    return GroupMask(groups, torch.arange(16) >= 8)


def test_passes_and_steps_of_both_networks_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(resolve(sweep(criteria=["snap"], seeds=1, epochs=0)))
    seen: list[tuple[int, int, bool, bool]] = []
    asked: list[dict[str, Any]] = []
    forward = nn.Linear.forward

    def linear(self: nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
        if self.in_features == 5:
            seen.append((len(inputs), self.out_features, self.training, torch.is_grad_enabled()))
        return forward(self, inputs)

    def repeat(work: Any, _device: torch.device, *, floor: Any, **options: Any) -> Timing:
        seen.clear()
        floor()
        work()
        asked.append({"seen": list(seen), **options})
        return Timing((1.0, 2.0, 3.0, 4.0), (5.0, 7.0, 9.0, 11.0), cold=len(asked) == 1)

    monkeypatch.setattr(nn.Linear, "forward", linear)
    monkeypatch.setattr(module, "repeat", repeat)
    found = measure_smaller(runner, runner.catalog.trials[1], half(runner), rounds=4, budget=9.0)
    assert [one["seen"] for one in asked] == [
        [(1, 16, False, False), (1, 8, False, False)],
        [(128, 16, False, False), (128, 8, False, False)],
        [(32, 16, True, True), (32, 8, True, True)],
    ]
    assert all((one["rounds"], one["budget"]) == (4, 9.0) for one in asked)
    values: dict[str, Any] = {"rounds": 4, "seconds": 2.5, "iqr": 1.5, "dense_seconds": 8.0, "dense_iqr": 3.0}
    assert found.forward_1 == BesideDense(cold=True, **values)
    assert found.forward_128 == found.training_step == BesideDense(cold=False, **values)
    # of 16 units, (5 + 3) x 16 weights, each in one product
    assert (found.node_sparsity, found.weight_sparsity, found.flop_sparsity) == (0.5, 0.5, 0.5)


def test_costs_of_structured_criteria_alone_hold_the_smaller_network() -> None:
    runner = Runner(resolve(sweep(criteria=["snap", "snip"], seeds=1)))
    snap, snip = (measure_cost(runner, trial, 0.25, rounds=2, budget=1.0) for trial in runner.catalog.trials[1:])
    assert snip.smaller is None
    assert "smaller" not in snip.to_json()
    assert snap.smaller is not None
    assert snap.smaller.forward_1.rounds == 2
    assert min(snap.smaller.training_step.seconds, snap.smaller.training_step.dense_seconds) > 0
    assert Cost.from_json(snap.to_json()) == snap
