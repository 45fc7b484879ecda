"""Operations of whole trainings, and sparsities after epochs, summed by hand over all steps.

A step of a batch of 10 costs three forward passes of ten examples; a multiplication and an addition are two operations.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import nn

from pai_bench.experiment.training_cost import ChangeLog, forward_flops
from pai_bench.graph.flops import Flops
from pai_bench.masks import Mask
from pai_bench.results import Record
from pai_bench.scoring import Timeline
from tests.experiment.plain_training import divided, mlp, normed, runner_of

STEPS, BATCH, SIZES = 24, 10, [36 * 12, 12 * 8, 8 * 3]
DENSE = 2 * sum(SIZES)


def record(criterion: str, network: Callable[..., nn.Module] = mlp, **keys: Any) -> Record:
    """Of the only pruned trial, or of the dense reference."""
    runner, trials = runner_of(["random" if criterion == "dense" else criterion], network, **keys)
    made = runner.run(trials[criterion != "dense"])
    assert made.status == "done", made.error
    return made


def sparsities(made: Record) -> list[float | None]:
    return [epoch.sparsity for epoch in made.training.curve]


def test_a_mask_that_stays_costs_three_passes_a_step() -> None:
    assert record("dense").training.training_flops == 3 * DENSE * BATCH * STEPS
    made = record("snip")
    kept = [layer.kept for layer in made.pruning.layers]
    assert made.training.training_flops == pytest.approx(3 * 2 * sum(kept) * BATCH * STEPS)
    assert made.training.events is None
    assert sparsities(made) == [None] * 6


def test_convolutions_count_each_place_of_their_output() -> None:
    """A kernel's weight multiplies at 4 x 4 places, one of the linear layer once."""
    assert record("dense", normed).training.training_flops == 3 * 2 * (36 * 16 + 64 * 3) * BATCH * STEPS
    made = record("magnitude", normed)
    kernel, linear = (layer.kept for layer in made.pruning.layers)
    assert made.training.training_flops == pytest.approx(3 * 2 * (kernel * 16 + linear) * BATCH * STEPS)


def test_gmp_step_by_step() -> None:
    """After step t of 5 to 18, and constant from then on."""
    made, total, left = record("gmp"), 0, []
    for done in range(STEPS):  # a step begins with the mask after those before it
        progress = Fraction(min(max(done - 5, 0), 13), 13)
        kept = round((1 - Fraction("0.8") * (1 - (1 - progress) ** 3)) * sum(SIZES))
        assert sum(divided(kept, SIZES)) == kept
        total += 3 * 2 * kept * BATCH
        left.append(kept)
    assert made.training.training_flops == pytest.approx(total)
    assert made.training.event_steps == tuple(range(5, 19))
    assert made.training.events == 14
    ends = [left[done] for done in (4, 8, 12, 16, 20)] + [left[-1]]
    assert sparsities(made) == pytest.approx([1 - kept / sum(SIZES) for kept in ends])
    assert made.pruning.achieved_sparsity == pytest.approx(1 - round(0.2 * 552) / 552)


def test_snip_it_cut_by_cut() -> None:
    made = record("snip-it:when=during:delay=0:every=1", schedule="halving:steps=1")
    kept = [552] * 4 + [276] * 4 + [193] * 4 + [110] * 12  # 0.35 of 552 is 193.2, 0.2 are 110.4
    assert made.training.training_flops == pytest.approx(sum(3 * 2 * BATCH * one for one in kept))
    assert made.training.event_steps == (4, 8, 12)
    assert sparsities(made) == pytest.approx([1 - one / 552 for one in (276, 193, 110, 110, 110, 110)])


def test_pruning_after_the_last_step_costs_a_dense_training() -> None:
    made = record("magnitude", prune_at="100%")
    assert made.training.training_flops == 3 * DENSE * BATCH * STEPS
    assert sparsities(made) == pytest.approx([0] * 5 + [1 - 110 / 552])
    made = record("magnitude", prune_at="5")
    assert made.training.training_flops == pytest.approx(3 * BATCH * (5 * DENSE + 19 * 2 * 110))


@pytest.mark.parametrize("text", ["rigl:every=4", "rigl:every=4:replace-step=false"])
def test_rigl_as_the_formula_says(text: str) -> None:
    """(3 d (T - U) + U (2 d + 1)) / (3 T) of a dense training, d the share of operations, U changes in T steps.

    With U = T / (D + 1), that is (3 d D + 2 d + 1) / (3 (D + 1)).
    """
    made = record(text)
    d, changes = sum(layer.kept for layer in made.pruning.layers) / 552, 4
    assert d == 110 / 552
    relative = (3 * d * (STEPS - changes) + changes * (2 * d + 1)) / (3 * STEPS)
    assert made.training.training_flops == pytest.approx(relative * 3 * DENSE * BATCH * STEPS)
    assert made.training.event_steps == ((5, 9, 13, 17) if text == "rigl:every=4" else (4, 8, 12, 16))
    assert sparsities(made) == pytest.approx([1 - d] * 6)
    steps, every = 20, 4  # of which a fifth are changes
    counted = (3 * d * (steps - 4) + 4 * (2 * d + 1)) / (3 * steps)
    assert counted == pytest.approx((3 * d * every + 2 * d + 1) / (3 * (every + 1)))


def test_rigl_where_layers_cost_differently() -> None:
    """Counts per layer are constant, so that each step has the same sparse pass."""
    made = record("rigl:every=4", normed)
    kernel, linear = (layer.kept for layer in made.pruning.layers)
    sparse, dense = 2 * (kernel * 16 + linear), 2 * (36 * 16 + 64 * 3)
    assert made.training.training_flops == pytest.approx(BATCH * (20 * 3 * sparse + 4 * (2 * sparse + dense)))


def test_set_costs_what_is_left() -> None:
    made = record("set:every=4")
    assert made.training.training_flops == pytest.approx(3 * 2 * 110 * BATCH * STEPS)
    assert made.training.event_steps == (4, 8, 12, 16)


def test_smaller_networks_cost_their_own_operations() -> None:
    """Of 20 units 16, 12, 8 are left; which ones is in the mask after each cut."""
    keys: dict[str, Any] = {"schedule": "linear:steps=3", "sparsities": [0.6], "sparsity_of": "nodes"}
    made = record("snap-it:when=during:delay=0:every=1", **keys)
    curve = [epoch.sparsity for epoch in made.training.curve]
    assert all(share is not None for share in curve)
    left = [round(552 * (1 - (share or 0))) for share in curve[:3]]  # weights, each of which multiplies once
    assert left == sorted(left, reverse=True)
    assert len({552, *left}) == 4
    total = 3 * 2 * BATCH * (4 * 552 + 4 * left[0] + 4 * left[1] + 12 * left[2])
    assert made.training.training_flops == pytest.approx(total)
    assert left[2] == sum(layer.kept for layer in made.pruning.layers)


def test_units_and_single_weights() -> None:
    made = record("cnip-it:when=during:delay=0:every=1", schedule="halving:steps=1", sparsities=[0.9])
    kept = [552] * 4 + [276] * 4 + [166] * 4 + [55] * 12
    assert made.training.training_flops == pytest.approx(sum(3 * 2 * BATCH * one for one in kept))
    assert sparsities(made) == pytest.approx([1 - one / 552 for one in (276, 166, 55, 55, 55, 55)])


def test_a_network_that_cannot_be_followed_has_no_count() -> None:
    log = ChangeLog(Timeline(8, 4), 10, None)
    log.note(0, None, None)
    assert log.training_flops() is None
    assert log.sparsity_after(1) == 0
    assert log.events == []


def test_operations_that_no_weight_has_stay() -> None:
    """Such as products of activations."""
    mask = Mask({"a": torch.arange(4) == 0, "b": torch.ones(2, dtype=torch.bool)})
    assert forward_flops(mask, Flops(1000, {"a": 400, "b": 200}, {})) == 1000 - 400 * 3 / 4
    assert forward_flops(None, Flops(1000, {"a": 400}, {})) == 1000
