"""SET and RigL: what is dropped and grown, weight by weight, by lists and loops from their definition."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from pai_criteria.set_rigl import SET, RigL
from torch import Tensor, nn

import pai_bench as pb
from pai_bench.scoring import Timeline
from tests.criteria.plain_moments import moment

LINE = Timeline(1000, 10, 1.0, (0.5,))


def share(step: int, end: float, alpha: float, anneal: str) -> float:
    """f(t)."""
    return alpha if anneal == "constant" else alpha / 2 * (1 + math.cos(math.pi * step / end))


def exchanged(weight: Tensor, active: Tensor, wanted: Tensor, f: float, *, signed: bool = False) -> set[int]:
    """The active places of a layer after its exchange, by their indices."""
    values, wants = weight.flatten().tolist(), wanted.flatten().tolist()
    there = active.flatten().nonzero().flatten().tolist()
    if len(there) == len(values):
        return set(there)
    kept = set(there)
    parts = [there] if not signed else [[i for i in there if values[i] > 0], [i for i in there if values[i] < 0]]
    for part in parts:
        ascending = sorted(part, key=lambda i: (abs(values[i]), -i))  # of equal ones the higher index goes first
        kept -= set(ascending[: int(f * len(part))])
    free = sorted(set(range(len(values))) - kept, key=lambda i: (-wants[i], i))
    return kept | set(free[: len(there) - len(kept)])


def case(seed: int, *, ties: bool) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Masks, weights and gradients of three layers, the second whole; with `ties`, of few different values."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"a": (7, 11), "b": (3, 4), "c": (2, 3, 3, 3)}
    masks = {name: torch.rand(shape, generator=draw) < (1 if name == "b" else 0.4) for name, shape in shapes.items()}
    weights, gradients = ({n: torch.randn(s, generator=draw) for n, s in shapes.items()} for _ in range(2))
    if ties:
        weights = {name: (2 * weight).round() / 2 for name, weight in weights.items()}
        gradients = {name: gradient.round() for name, gradient in gradients.items()}
    return masks, {name: weight * masks[name] for name, weight in weights.items()}, gradients


def changed(text: str, step: int, case: tuple[Any, Any, Any], line: Timeline = LINE) -> Mapping[str, Tensor]:
    criterion = pb.get_criterion(text)
    assert isinstance(criterion, SET)
    masks, weights, gradients = case
    return criterion.change(moment(step, line, masks, weights, gradients=gradients)).mask


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("options", "signed"), [("", False), (":anneal=constant:alpha=0.5", False), (":drop=signed", True)]
)
def test_exact_sets(options: str, *, signed: bool, ties: bool) -> None:
    alpha, anneal = (0.5, "constant") if "constant" in options else (0.3, "cosine")
    differ = 0
    for seed in range(20):
        masks, weights, gradients = made = case(seed, ties=ties)
        step = 50 * (seed % 14 + 1)
        f = share(step, 750, alpha, anneal)
        for name, mask in changed("rigl" + options, step, made).items():
            expected = exchanged(weights[name], masks[name], gradients[name].abs(), f, signed=signed)
            assert set(mask.flatten().nonzero().flatten().tolist()) == expected, (seed, name)
            assert int(mask.sum()) == int(masks[name].sum())
            differ += not torch.equal(mask, masks[name])
        draw = torch.Generator().manual_seed(step)  # SET: one draw after the other, of all places of each layer
        for name, mask in changed("set" + options, step, made).items():
            wanted = torch.rand(masks[name].shape, generator=draw, dtype=torch.float64)
            expected = exchanged(weights[name], masks[name], wanted, f, signed=signed)
            assert set(mask.flatten().nonzero().flatten().tolist()) == expected, (seed, name)
    assert differ > 10


def test_what_is_dropped_may_grow_at_once() -> None:
    """Half of four active weights go; of these, the second has the largest gradient of all that are inactive then."""
    mask, weight = torch.tensor([True] * 4 + [False] * 4), torch.tensor([4.0, 0.5, 3.0, -1.0, 0, 0, 0, 0])
    gradient = torch.tensor([9.0, -5, 9, 0, 1, 2, 0, 0])
    new = changed("rigl:anneal=constant:alpha=0.5", 100, ({"w": mask}, {"w": weight}, {"w": gradient}))
    assert new["w"].nonzero().flatten().tolist() == [0, 1, 2, 5]


def test_numbers_are_truncated() -> None:
    """f(500) of T_end = 750 is 0.075: of 13 active weights, none; of 14, one; of 26, 1.95, one."""
    for active, moved in ((13, 0), (14, 1), (26, 1), (27, 2)):
        mask = torch.arange(60) < active
        gradient = (torch.arange(60) >= active).float()
        new = changed("rigl", 500, ({"w": mask}, {"w": mask * 1.0}, {"w": gradient}))
        assert int((mask & ~new["w"]).sum()) == moved == int((new["w"] & ~mask).sum())
        assert new["w"][active : active + moved].all()  # of equal gradients, the lower index


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("rigl", LINE, [100, 200, 300, 400, 500, 600, 700]),
        ("set:until=0.7", LINE, [100, 200, 300, 400, 500, 600]),  # 700 is no longer before T_end
        ("set:every=epoch:until=0.05", LINE, [10, 20, 30, 40]),
        ("set:every=epoch:until=0.047", LINE, [10, 20, 30, 40]),
        ("rigl", Timeline(100, 10, 0.1), [10, 20, 30, 40, 50, 60, 70]),
        ("rigl:every=4", Timeline(9, 3, 0.1), [1, 2, 3, 4, 5, 6]),  # one step at least
        ("rigl:until=1:every=3", Timeline(9, 3), [3, 6]),
        ("rigl:until=1:every=8", Timeline(9, 3), [8]),
        ("rigl", Timeline(0, 3), []),
    ],
)
def test_times(text: str, line: Timeline, expected: list[int]) -> None:
    criterion = pb.get_criterion(text)
    assert isinstance(criterion, SET)
    assert criterion.checked_moments(line) == expected


def test_a_training_without_a_change_is_refused() -> None:
    with pytest.raises(
        pb.UserError, match="rigl: no change comes, the first after 100 steps, the last before 75: give"
    ):
        RigL().moments(Timeline(100, 10))


def test_the_share_falls_to_zero_at_the_end_of_the_changes() -> None:
    cosine = pb.get_criterion("set:until=0.8:alpha=0.4")
    assert isinstance(cosine, SET)
    assert [cosine.fraction(t, LINE) for t in (0, 400, 800)] == pytest.approx([0.4, 0.2, 0])
    assert cosine.fraction(200, LINE) == pytest.approx(0.2 * (1 + math.sqrt(0.5)))
    assert SET(anneal="constant", alpha=0.4).fraction(700, LINE) == 0.4


def network() -> tuple[nn.Module, pb.Batch]:
    layers = nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 20), nn.ReLU(), nn.Linear(20, 3)
    return nn.Sequential(*layers), pb.Batch(torch.rand(6, 1, 6, 6), torch.arange(6) % 3)


SIZES, SUMS = [54, 1920, 60], [6 + 1 + 3 + 3, 96 + 20, 20 + 3]


@pytest.mark.parametrize(
    ("options", "sparsity", "expected"),
    [
        # 203 in all; ERK gives 13, 116 and 23 of 152: 17.4, 154.9, 30.7
        ("", 0.9, [17, 155, 31]),
        # 1,017: ERK gives more than they have to the first and the last, which are whole; the second has the rest
        ("", 0.5, [54, 903, 60]),
        ("", 0.85, [26, 233, 46]),
        (":layers=uniform", 0.5, [27, 960, 30]),
        (":layers=uniform:first-layer=dense", 0.5, [54, 934, 29]),  # (1,017 - 54) / 1,980 of 1,920 and of 60
        (":first-layer=dense", 0.9, [54, 124, 25]),  # 149 as 116 to 23
    ],
)
def test_counts_of_layers_at_the_start(options: str, sparsity: float, expected: list[int]) -> None:
    count = round((1 - sparsity) * sum(SIZES))
    assert sum(expected) == count
    for name in ("set", "rigl"):
        mask = pb.prune(*network(), name + options, sparsity)
        assert list(mask.kept_per_layer().values()) == expected
    if not options and sparsity > 0.8:
        assert expected == pytest.approx([count * one / sum(SUMS) for one in SUMS], abs=0.5)


def test_a_first_layer_that_has_no_room_is_refused() -> None:
    """It would take all connections from the others."""
    model, batch = network()
    mask = pb.prune(model, batch, "set:first-layer=dense", 0.98)
    weights = {name: model.get_parameter(name).detach() * keep for name, keep in mask.items()}
    with pytest.raises(pb.UserError, match="has more weights than are to be kept in all: it cannot be dense"):
        SET(first_layer="dense").change(moment(100, LINE, mask, weights))


def test_new_weights_begin_at_zero_or_as_another_draw() -> None:
    masks, weights, _ = case(0, ties=False)
    drawn = {name: torch.full_like(weight, 0.5) for name, weight in weights.items()}
    for text, expected in (("zero", None), ("random", drawn)):
        change = SET(grow_init=text).change(moment(100, LINE, masks, weights, initial=lambda: drawn))  # type: ignore[arg-type]
        assert change.weights is expected


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("set:alpha=0", "alpha=0 is outside (0, 1]: it is a share"),
        ("set:until=1.5", "until=1.5 is outside (0, 1]: it is a share"),
        ("rigl:every=0", "every=0 must be at least 1, or epoch"),
        ("rigl:every=week", "every=week is neither a whole number nor epoch"),
        ("rigl:grow=fast", "grow=fast is not one of random, gradient"),
    ],
)
def test_options_out_of_range_are_refused(text: str, error: str) -> None:
    with pytest.raises(pb.UserError) as raised:
        pb.get_criterion(text)
    assert error in str(raised.value)
