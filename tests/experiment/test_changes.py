"""Whole trainings whose masks change, beside trainings by hand: the same weights, masks and running statistics."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest
import torch
from pai_criteria.gmp import GMP
from torch import Tensor, nn

from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.scoring import Change, Moment
from pai_bench.support.identity import stream
from tests.criteria.plain_moments import first_of
from tests.criteria.test_set_rigl import exchanged, share
from tests.experiment.plain_training import (
    Named,
    PlainTraining,
    divided,
    flat,
    highest,
    mlp,
    normed,
    prepared,
    runner_of,
    same,
    trained,
)

STEPS = 24
NETWORKS = pytest.mark.parametrize("network", [mlp, normed])


def compare(runner: Runner, trial: Trial, plain: PlainTraining) -> None:
    """The same network and mask; removed weights are exactly zero."""
    (found,) = trained(runner, [trial])
    same(found.model, plain.run())
    assert found.mask is not None
    for name, keep in plain.mask.items():
        assert torch.equal(found.mask[name], keep), name
        assert not found.model.get_parameter(name)[~keep].any()


def plan_gmp(plain: PlainTraining, *, returns: bool, layerwise: bool) -> tuple[list[int], list[int]]:
    """Cuts after steps 5 to 18 of 24, every one; gives how many weights are kept after each, and how many return."""
    sizes, counts, came = [keep.numel() for keep in plain.mask.values()], list[int](), list[int]()
    stored = {name: torch.zeros(keep.shape) for name, keep in plain.mask.items()}

    def cut(step: int) -> None:
        s = Fraction("0.8") * (1 - (1 - Fraction(step - 5, 13)) ** 3)
        count = round((1 - s) * sum(sizes))
        values = {name: weight + stored[name] for name, weight in plain.weights().items()}
        among = {name: torch.ones_like(keep) for name, keep in plain.mask.items()} if returns else plain.mask
        magnitudes = {name: value.abs() for name, value in values.items()}
        new = highest(magnitudes, count, among)
        if layerwise:
            parts = zip(magnitudes, divided(count, sizes), strict=True)
            new = {name: first_of(magnitudes[name], part, among[name]) for name, part in parts}
        came.append(int((flat(new) & ~flat(plain.mask)).sum()))
        if returns:
            stored.update({name: value * ~new[name] for name, value in values.items()})
        plain.replace(new, values if returns else None)
        counts.append(int(flat(new).sum()))

    for step in range(5, 19):
        plain.after[step] = lambda step=step: cut(step)  # type: ignore[misc]
    return counts, came


@NETWORKS
@pytest.mark.parametrize("scope", ["layerwise", "global"])
@pytest.mark.parametrize("returns", [False, True])
def test_gmp(network: Callable[..., nn.Module], scope: str, *, returns: bool) -> None:
    runner, (_, trial) = runner_of([f"gmp:returns={returns}"], network, scope=scope)
    plain = PlainTraining(runner, trial)
    counts, came = plan_gmp(plain, returns=returns, layerwise=scope == "layerwise")
    compare(runner, trial, plain)
    assert len(counts) == 14
    assert counts[0] == flat(plain.mask).numel()
    assert counts[-1] == round(0.2 * flat(plain.mask).numel())
    assert bool(sum(came)) == returns


@NETWORKS
def test_snip_it_during_training(network: Callable[..., nn.Module]) -> None:
    """Cuts after 1, 2 and 3 epochs, by |w g / L| of the weights of that time."""
    runner, (_, trial) = runner_of(["snip-it:when=during:delay=0:every=1"], network, schedule="halving:steps=1")
    plain = PlainTraining(runner, trial)
    size = flat(plain.mask).numel()
    for step, sparsity in ((4, "0.5"), (8, "0.65"), (12, "0.8")):

        def cut(sparsity: str = sparsity) -> None:
            products = plain.products()
            scores = {name: (products[name] / plain.loss.detach()).abs() for name in plain.mask}
            plain.replace(highest(scores, round((1 - Fraction(sparsity)) * size), plain.mask))

        plain.after[step] = cut
    compare(runner, trial, plain)


@NETWORKS
@pytest.mark.parametrize(
    ("criterion", "cuts"), [("snip", ["0.8"]), ("snip:bn=train", ["0.8"]), ("snip-it", ["0.5", "0.65", "0.8"])]
)
def test_pruning_after_some_steps(network: Callable[..., nn.Module], criterion: str, cuts: list[str]) -> None:
    """All cuts of a schedule after a quarter of the training."""
    keys: dict[str, Any] = {"schedule": "halving:steps=1"} if criterion == "snip-it" else {}
    runner, (_, trial) = runner_of([criterion], network, prune_at="25%", **keys)
    plain = PlainTraining(runner, trial)

    def prune() -> None:
        for sparsity in cuts:
            products = plain.products()
            scores = {name: products[name].abs() for name in plain.mask}
            count = round((1 - Fraction(sparsity)) * flat(plain.mask).numel())
            plain.replace(highest(scores, count, plain.mask))

    plain.after[6] = prune
    compare(runner, trial, plain)


def test_pruning_after_the_last_step() -> None:
    runner, (_, trial) = runner_of(["magnitude"], prune_at="100%")
    plain = PlainTraining(runner, trial)
    plain.after[STEPS] = lambda: plain.replace(
        highest({name: weight.abs() for name, weight in plain.weights().items()}, round(0.2 * 552), plain.mask)
    )
    compare(runner, trial, plain)


def plan_exchanges(plain: PlainTraining, options: str, initial: Callable[[int], Named]) -> list[int]:
    """Exchanges after steps 4, 8, 12, 16 of 24: those of RigL take the place of the next step, on its batch.

    Gives how many weights are others after each.
    """
    grows_by_gradient, moved = "rigl" in options, list[int]()
    signed, drawn = "drop=signed" in options, "grow-init=random" in options
    anneal, alpha = ("constant", 0.5) if "constant" in options else ("cosine", 0.3)

    def exchange(step: int, gradients: Named | None = None) -> None:
        f, new, weights = share(step, 18, alpha, anneal), {}, plain.weights()
        draw = torch.Generator().manual_seed(stream(plain.trial.seed, f"change-{step}"))
        for name, active in plain.mask.items():
            wanted = None if gradients is None else gradients[name].abs()
            if wanted is None:
                wanted = torch.rand(active.shape, generator=draw, dtype=torch.float64)
            places = exchanged(weights[name], active, wanted, f, signed=signed)
            new[name] = torch.tensor([i in places for i in range(active.numel())]).view_as(active)
        moved.append(int((flat(new) & ~flat(plain.mask)).sum()))
        plain.replace(new, initial(step) if drawn else None)

    for step in (4, 8, 12, 16):
        if grows_by_gradient:
            plain.instead[step] = lambda gradients, step=step: exchange(step, gradients)  # type: ignore[misc]
        else:
            plain.after[step] = lambda step=step: exchange(step)  # type: ignore[misc]
    return moved


@NETWORKS
@pytest.mark.parametrize(
    "text",
    [
        "rigl:every=4",
        "set:every=epoch",
        "rigl:every=4:anneal=constant:alpha=0.5:layers=uniform",
        "set:drop=signed:grow-init=random:every=epoch:anneal=constant:alpha=0.5",
    ],
)
def test_dynamic_sparse_training(network: Callable[..., nn.Module], text: str) -> None:
    """Running statistics move in the steps whose place an exchange takes, too; biases and all momentum stay."""
    runner, (_, trial) = runner_of([text], network)
    made = prepared(runner, trial)
    assert made.mask is not None
    assert made.mask.kept == round(0.2 * made.mask.size)
    plain = PlainTraining(runner, trial, made.mask)
    drawn = [
        {name: p.detach() for name, p in runner.inputs.model(trial, f"change-{t}").named_parameters()}
        for t in range(24)
    ]
    moved = plan_exchanges(plain, text, drawn.__getitem__)
    compare(runner, trial, plain)
    assert len(moved) == 4
    assert sum(moved) > 5


def test_rigl_beside_the_optimisers_step() -> None:
    """With ``replace_step=false``, by the gradients of the step just taken, at the weights before it."""
    runner, (_, trial) = runner_of(["rigl:every=4:replace-step=false"])
    mask = prepared(runner, trial).mask
    plain, seen = PlainTraining(runner, trial, mask), dict[int, Named]()
    real = plain.gradients

    def gradients(inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        seen[plain.step] = found = real(inputs, targets)
        return found

    plain.gradients = gradients  # type: ignore[method-assign]
    for step in (4, 8, 12, 16):

        def exchange(step: int = step) -> None:
            new, f = {}, 0.15 * (1 + math.cos(math.pi * step / 18))
            for name, active in plain.mask.items():
                places = exchanged(plain.weights()[name], active, seen[step - 1][name].abs(), f)
                new[name] = torch.tensor([i in places for i in range(active.numel())]).view_as(active)
            plain.replace(new)

        plain.after[step] = exchange
    compare(runner, trial, plain)


@pytest.mark.parametrize("lanes", [1, 2])
def test_the_optimiser_begins_anew_at_each_cut_where_asked(lanes: int) -> None:
    runner, (_, trial) = runner_of(["gmp:optimizer-state=reset"], mlp)
    plain = PlainTraining(runner, trial)
    plan_gmp(plain, returns=False, layerwise=True)
    for step, cut in list(plain.after.items()):

        def act(cut: Callable[[], None] = cut) -> None:
            cut()
            plain.optimizer.state.clear()

        plain.after[step] = act
    found = trained(runner, [trial] * lanes)
    expected = plain.run()
    for network in found:
        same(network.model, expected)
    assert trial.training_kind == "gmp:optimizer-state=reset"  # not together with others


@pytest.mark.parametrize(
    ("criterion", "keys"),
    [
        ("gmp:biases=true", {}),
        ("snip-it:biases=true:when=during:delay=0:every=1", {"schedule": "linear:steps=3"}),
        ("snip:biases=true", {"prune_at": "5"}),
    ],
)
def test_biases_are_pruned_too_where_asked(criterion: str, keys: dict[str, Any]) -> None:
    runner, (_, trial) = runner_of([criterion], mlp, **keys)
    (found,) = trained(runner, [trial])
    assert found.mask is not None
    assert sorted(found.mask) == sorted(name for name, _ in found.model.named_parameters())
    assert found.mask.kept == round(0.2 * found.mask.size)


@dataclass(frozen=True)
class Timid(GMP):
    """Keeps all."""

    def change(self, moment: Moment) -> Change:
        return Change(moment.mask)


def test_a_method_that_leaves_another_number_of_connections_fails() -> None:
    runner, (_, trial) = runner_of([Timid()], mlp)
    record = runner.run(trial)
    assert record.status == "failed"
    assert "Timid: 552 of 552 connections are kept at the end, not 110" in (record.error or "")


@dataclass(frozen=True)
class Forgetful(GMP):
    """Gives nothing."""

    def change(self, moment: Moment) -> Any:
        return None


def test_a_method_that_gives_no_mask_is_named() -> None:
    runner, (_, trial) = runner_of([Forgetful()], mlp)
    assert "Forgetful: a change gives None, and not a mask" in (runner.run(trial).error or "")


class Spare(nn.Sequential):
    """Does not use its last layer."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.Sequential(*list(self)[:-1])(input)  # type: ignore[no-any-return]


@pytest.mark.parametrize("lanes", [1, 2])
def test_rigl_takes_no_gradient_of_an_unused_layer_for_zero(lanes: int) -> None:
    def spare(shape: tuple[int, ...], classes: int) -> nn.Module:
        return Spare(*mlp(shape, classes), nn.Linear(4, 4).double())  # type: ignore[misc]

    runner, (_, trial) = runner_of(["rigl:every=4:layers=uniform"], spare)
    before = prepared(runner, trial).mask
    for found in trained(runner, [trial] * lanes):
        assert found.mask is not None
        assert before is not None
        assert found.mask.kept_per_layer() == before.kept_per_layer()
