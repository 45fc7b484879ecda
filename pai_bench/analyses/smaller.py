"""What a smaller network takes: forward passes and a training step, measured by turns with those of the dense one."""

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

import torch

from pai_bench.execution.measure import training_step
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.groups import GroupMask, shrink
from pai_bench.groups.budget import sparsities
from pai_bench.results import BesideDense, SmallerNetwork
from pai_bench.support.precision import arithmetic
from pai_bench.support.timing import interquartile_range, repeat
from pai_bench.training.batches import Batches, Order
from pai_bench.training.trainer import ENGINE


def measure_smaller(
    runner: Runner, trial: Trial, mask: GroupMask, *, rounds: int | None = None, budget: float = 30.0
) -> SmallerNetwork:
    """Forward passes and a training step of the trial's network without what `mask` removes, and of the dense one.

    Each is measured by turns, `rounds` times, by default as often as `repeat` says, within about `budget` seconds.
    """

    def by_turns(small: Callable[[], Any], dense: Callable[[], Any]) -> BesideDense:
        timing = repeat(small, runner.device, floor=dense, rounds=rounds, budget=budget)
        return BesideDense(
            rounds=len(timing.seconds),
            cold=timing.cold,
            seconds=timing.median,
            iqr=timing.iqr,
            dense_seconds=statistics.median(timing.floors),
            dense_iqr=interquartile_range(timing.floors),
        )

    data, model = runner.inputs.data(trial), runner.inputs.model(trial).eval()
    networks = shrink(model, mask), model

    def forward(examples: int) -> BesideDense:
        places = torch.arange(examples) % len(data.train.targets)
        inputs = data.normalised(data.train.inputs[places.to(data.train.inputs.device)])
        with torch.no_grad(), arithmetic("fp32", runner.device):
            return by_turns(*((lambda network=network: network(inputs)) for network in networks))

    def step() -> BesideDense:
        lasting = dataclasses.replace(trial, protocol=trial.protocol.lasting(1))  # one of no epochs has a step, too
        with arithmetic(lasting.protocol.precision, runner.device):
            batch = next(Batches(data, [Order(0)], lasting.protocol).endless())
            return by_turns(*(training_step(runner, lasting, network, ENGINE, batch) for network in networks))

    removed = sparsities(mask)
    return SmallerNetwork(
        node_sparsity=removed["nodes"],
        weight_sparsity=removed["weights"],
        flop_sparsity=removed["flops"],
        forward_1=forward(1),
        forward_128=forward(128),
        training_step=step(),  # last, since it changes the networks
    )
