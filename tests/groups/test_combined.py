"""One threshold for single weights and groups, beside plain loops over all thresholds; and what is left by it."""

from typing import Any

import pytest
import torch
from torch import Tensor

import pai_bench as pb
from pai_bench.groups import CombinedMask, GroupMask, Groups
from pai_bench.groups.combined import composed, keep_items, keep_weights
from pai_bench.support import transfers
from tests.groups.made import made

NAMES = ["mlp", "convolutions and flatten", "identity shortcut", "projected shortcut", "depthwise", "grouped"]


def drawn(groups: Groups, seed: int = 0, *, levels: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """Random scores of groups and weights, groups a little higher; with `levels`, with so many values, many equal."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(groups.count, generator=generator, dtype=torch.float64) + 0.2
    weights = {n: torch.rand(groups.shapes[n], generator=generator, dtype=torch.float64) for n in groups.weights}
    if levels:
        scores, weights = (scores * levels).floor(), {n: (w * levels).floor() for n, w in weights.items()}
    return scores, weights


def groups_of(groups: Groups, name: str, place: tuple[int, ...]) -> list[int]:
    """The groups in which a weight lies."""
    found = [int(of[place[axis.dim]]) for axis, of in groups.by_axis.items() if axis.name == name]
    return [group for group in found if group >= 0]


Item = tuple[float, str, tuple[int, ...]]
"""A weight: its score, name and place."""


def listed(groups: Groups, weights: dict[str, Tensor]) -> list[tuple[Item, list[int]]]:
    """All weights in order of position, and the groups in which each lies."""
    return [
        ((float(weights[name][tuple(place)]), name, tuple(place)), groups_of(groups, name, tuple(place)))
        for name in groups.weights
        for place in torch.ones(groups.shapes[name]).nonzero().tolist()
    ]


def best_of_layers(groups: Groups, scores: Tensor) -> set[int]:
    """The groups that always stay."""
    found = set()
    for axis in groups.roots:
        of = groups.by_axis.get(axis)
        if of is not None and bool((of >= 0).all()):
            found.add(max(of.unique().tolist(), key=lambda group: (float(scores[group]), -group)))
    return found


def by_brute_force(groups: Groups, scores: Tensor, weights: dict[str, Tensor], count: int) -> tuple[set[int], set[Any]]:
    """The groups and weights that are kept: every threshold is tried, the largest that leaves enough is taken."""
    everything, always = listed(groups, weights), best_of_layers(groups, scores)
    for threshold in sorted({*scores.tolist(), *(item[0] for item, _ in everything)}, reverse=True):
        kept = {g for g in range(groups.count) if scores[g] >= threshold or g in always}
        left = [item for item, of in everything if item[0] >= threshold and kept.issuperset(of)]
        if len(left) >= count:
            return kept, {item[1:] for item in sorted(left, key=lambda item: -item[0])[:count]}  # a stable order
    raise AssertionError


def kept_by(mask: CombinedMask) -> tuple[set[int], set[Any]]:
    weights = {(name, tuple(place)) for name, kept in mask.items() for place in kept.nonzero().tolist()}
    return set(mask.kept_groups.nonzero().flatten().tolist()), weights


@pytest.mark.parametrize("levels", [0, 5])
@pytest.mark.parametrize("name", NAMES)
def test_the_largest_threshold_and_an_exact_number(name: str, levels: int) -> None:
    _, groups, _ = made(name)
    scores, weights = drawn(groups, levels=levels)
    size = sum(weight.numel() for weight in weights.values())
    for density in (0.95, 0.6, 0.3, 0.1, 0.01):
        mask = keep_weights(groups, scores, weights, round(density * size))
        assert kept_by(mask) == by_brute_force(groups, scores, weights, round(density * size))
        assert mask.kept == round(density * size)
        assert 0 < int(mask.kept_groups.sum()) <= groups.count
    assert keep_weights(groups, scores, weights, size).kept_groups.all()


@pytest.mark.parametrize("levels", [0, 5])
@pytest.mark.parametrize("name", NAMES)
def test_the_published_number_is_of_weights_and_groups(name: str, levels: int) -> None:
    _, groups, _ = made(name)
    scores, weights = drawn(groups, levels=levels)
    everything, always = listed(groups, weights), best_of_layers(groups, scores)
    for density in (0.95, 0.6, 0.3, 0.1):
        count = round(density * (len(everything) + groups.count))
        ranking: list[Any] = [(item[0], item[1:]) for item, _ in everything]
        ranking += [(float("inf") if g in always else float(scores[g]), g) for g in range(groups.count)]
        best = {what for _, what in sorted(ranking, key=lambda entry: -entry[0])[:count]}
        kept = {g for g in range(groups.count) if g in best or g in always}
        expected = {item[1:] for item, of in everything if item[1:] in best and kept.issuperset(of)}
        mask = keep_items(groups, scores, weights, count)
        assert kept_by(mask) == (kept, expected)
        assert mask.kept < density * len(everything)


def test_weights_that_have_gone_do_not_return() -> None:
    _, groups, _ = made("mlp")
    scores, weights = drawn(groups)
    alive = {name: weight < 0.5 for name, weight in weights.items()}
    for chosen in (keep_weights(groups, scores, weights, 30, alive), keep_items(groups, scores, weights, 40, alive)):
        assert all(not bool((kept & ~alive[name]).any()) for name, kept in chosen.items())
    assert keep_weights(groups, scores, weights, 30, alive).kept == 30


def test_nothing_and_everything() -> None:
    _, groups, _ = made("mlp")
    scores, weights = drawn(groups)
    nothing = keep_weights(groups, scores, weights, 0)
    assert nothing.kept == 0
    assert set(nothing.kept_groups.nonzero().flatten().tolist()) == best_of_layers(groups, scores)
    assert keep_items(groups, scores, weights, 0).kept_groups.equal(nothing.kept_groups)


@pytest.mark.parametrize("name", [*NAMES, "padded shortcut", "LSTM, 2 layers, 2 directions", "attention"])
def test_the_smaller_network_computes_what_the_masked_one_does(name: str) -> None:
    network, groups, inputs = made(name, 4)
    scores, weights = drawn(groups)
    mask = keep_weights(groups, scores, weights, sum(w.numel() for w in weights.values()) // 3)
    assert not mask.kept_groups.all()
    small, single = pb.shrink(network, mask), mask.shrunk()
    whole = pb.shrink(network, GroupMask(groups, mask.kept_groups))
    parameters = dict(small.named_parameters())
    assert single.kept == mask.kept < single.size < mask.size
    assert list(single) == list(mask)
    for key, kept in single.items():
        assert torch.equal(parameters[key], whole.get_parameter(key) * kept)
    assert set(parameters) - set(single)  # biases, which only groups remove
    masked = mask.apply_(network)
    torch.testing.assert_close(small(inputs), masked(inputs), rtol=1e-10, atol=1e-12)
    for key, kept in mask.items():
        assert not masked.get_parameter(key)[~kept].any()


def test_a_mask_on_what_another_mask_leaves() -> None:
    network, groups, inputs = made("projected shortcut", 4)
    first = keep_weights(groups, *drawn(groups), 200)
    remaining = first.remaining()
    scores, weights = drawn(remaining, 1)
    second = keep_weights(remaining, scores, weights, 90, first.shrunk())
    both = composed(first, second)
    assert isinstance(both, CombinedMask)
    assert both.kept == second.kept == 90
    assert all(not bool((kept & ~first[name]).any()) for name, kept in both.items())
    assert int(both.kept_groups.sum()) == int(second.kept_groups.sum()) < remaining.count < groups.count
    smaller, again = pb.shrink(network, both), pb.shrink(pb.shrink(network, first), second)
    torch.testing.assert_close(smaller(inputs), again(inputs), rtol=0, atol=0)
    for name, parameter in smaller.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))


def test_masks_say_what_they_hold() -> None:
    _, groups, _ = made("mlp")
    mask = keep_weights(groups, *drawn(groups), 40)
    assert repr(mask) == f"CombinedMask({int(mask.kept_groups.sum())} of 15 groups, 40 of {mask.size} weights)"
    moved = mask.to("cpu")
    assert isinstance(moved, CombinedMask)
    assert kept_by(moved) == kept_by(mask)
    assert GroupMask(groups, mask.kept_groups).shrunk() is None
    shorter, without = {name: kept[1:] for name, kept in mask.items()}, {"2.weight": mask["2.weight"]}
    for wrong, message in (
        ({}, "at least one tensor"),
        (shorter, r"'0\.weight' is missing, or of another shape"),
        (without, r"'0\.weight' is missing, or of another shape"),
    ):
        with pytest.raises(pb.UserError, match=message):
            CombinedMask(groups, mask.kept_groups, wrong)


@pytest.mark.parametrize("name", ["mlp", "projected shortcut", "attention"])
def test_files_of_masks_and_of_smaller_networks(name: str) -> None:
    network, groups, inputs = made(name, 4)
    scores, weights = drawn(groups)
    mask = keep_weights(groups, scores, weights, sum(w.numel() for w in weights.values()) // 3)
    mask.save("mask.safetensors")
    read = CombinedMask.load("mask.safetensors")
    assert kept_by(read) == kept_by(mask)
    assert list(read) == list(mask)
    assert all(torch.equal(kept, mask[key]) for key, kept in pb.Mask.load("mask.safetensors").items())
    with pytest.raises(
        pb.UserError, match=r"not those of its groups; pai_bench\.groups\.CombinedMask\.load reads both"
    ):
        GroupMask.load("mask.safetensors")
    small = pb.shrink(network, mask)
    pb.save_shrunk(small, mask, "small.safetensors")
    assert torch.equal(pb.load_shrunk("small.safetensors", network)(inputs), small(inputs))
    with pytest.raises(pb.UserError, match="it holds a smaller network, not which of its single weights are kept"):
        CombinedMask.load("small.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_on_a_device_the_choice_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, groups, _ = made(name)
    scores, weights = drawn(groups, levels=7)
    alive = {key: weight > 0 for key, weight in weights.items()}
    count = sum(weight.numel() for weight in weights.values()) // 4
    ways: Any = [(chosen, living) for chosen in (keep_weights, keep_items) for living in (None, alive)]
    near = [chosen(groups, scores, weights, count, living) for chosen, living in ways]
    monkeypatch.setattr(transfers, "on_host", lambda *_tensors: False)
    far = [chosen(groups, scores, weights, count, living) for chosen, living in ways]
    assert [kept_by(mask) for mask in far] == [kept_by(mask) for mask in near]
