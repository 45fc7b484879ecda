"""What a `DataSet` is made of, and what its parts hold: sizes, scales, draws, names."""

from typing import Any

import pytest
import torch
from torch import Tensor

import pai_bench as pb
from pai_bench.data import Split, dataset


def data(count: int = 10, classes: int = 2, **keys: Any) -> pb.DataSet:
    """Images of one pixel, whose value is their place."""
    inputs = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1)
    split = Split(inputs, torch.arange(count) % classes)
    return pb.DataSet(**{"name": "places", "train": split, "test": split} | keys)


def places(found: pb.DataSet | Split) -> list[int]:
    inputs = found.train.inputs if isinstance(found, pb.DataSet) else found.inputs
    return [int(value) for value in inputs.flatten()]


PIXELS, LABELS = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"name": ""}, "a data set needs a name, a text, not ''"),
        ({"name": 3}, "a data set needs a name, a text, not 3"),
        ({"train": (PIXELS,)}, "data set mine: train must be a pair"),
        ({"test": (PIXELS, LABELS, LABELS)}, "data set mine: test must be a pair"),
        ({"train": (PIXELS[:, 0, 0, 0], LABELS)}, r"uint8 images need the shape \(N, channels, ...\)"),
        ({"train": (PIXELS[:, :, 0, 0], LABELS), "test": (PIXELS[:, :, 0, 0], LABELS)}, None),
        ({"train": (torch.tensor(1.0), LABELS)}, r"train needs one class index for each input, got \(\) inputs, \(4,"),
        ({"train": (PIXELS, LABELS[:, None])}, r"needs one class index for each input, got .* \(4, 1\) targets"),
        ({"train": (PIXELS, LABELS.float())}, "train needs one class index for each input"),
        ({"test": (PIXELS.float(), LABELS)}, "training and test inputs differ in shape or type"),
        ({"test": (PIXELS[:, :, 1:], LABELS)}, "training and test inputs differ in shape or type"),
        ({"num_classes": 1}, "the labels are 0, 1 with num_classes=1; class indices"),
        ({"test": (PIXELS, LABELS + 1)}, None),
        ({"test": (PIXELS, LABELS + 2)}, None),
        ({"test": (PIXELS, LABELS + 3)}, r"the labels are 0, 1, 3, 4; class .*, or give num_classes= where"),
        ({"num_classes": 2, "test": (PIXELS, LABELS + 1)}, "the labels are 0, 1, 2 with num_classes=2"),
        ({"num_classes": 9, "test": (PIXELS, LABELS + 3)}, None),
    ],
)
def test_what_is_a_data_set(keys: dict[str, Any], message: str | None) -> None:
    whole = {"name": "mine", "train": (PIXELS, LABELS), "test": (PIXELS, LABELS)} | keys
    if message is None:
        assert pb.DataSet(**whole).num_classes == keys.get("num_classes", int(whole["test"][1].max()) + 1)
        return
    with pytest.raises(pb.UserError, match=message):
        pb.DataSet(**whole)


def test_names_sizes_and_checksums() -> None:
    one = data()
    assert (one.label, data(label="Places").label, one.num_classes, one.input_shape) == (
        "places",
        "Places",
        2,
        (1, 1, 1),
    )
    assert one.nbytes == 2 * (10 + 10 * 8)  # pixels of one byte, labels of eight
    split = one.train
    others = [
        Split(split.inputs.view(10, 1, 1), split.targets),
        Split(split.inputs.to(torch.int8), split.targets),
        Split(split.inputs, 1 - split.targets),
        Split(split.inputs.flip(0), split.targets),
    ]
    sums = [pb.DataSet("other", other, other).checksum for other in (split, *others)]
    assert sums[0] == one.checksum
    assert len(set(sums)) == 5
    assert pb.DataSet("other", split, others[2]).checksum not in sums


@pytest.mark.parametrize(("share", "size"), [(1e-9, 1), (0.04, 1), (0.26, 3), (0.5, 5), (0.99, 10), (1.0, 10)])
def test_a_part_of_the_training_set(share: float, size: int) -> None:
    one = data()
    found = one.subset(share, seed=3)
    assert one.train_size(share) == size == len(found.train.targets)
    assert places(found) == sorted(places(found))
    assert found.train.targets.tolist() == [place % 2 for place in places(found)]
    assert len(found.test.targets) == 10
    assert (one.chosen(share, 3) is None) == (share == 1.0)
    assert share in (0.99, 1.0) or len({tuple(places(one.subset(share, seed))) for seed in range(30)}) > 5


def test_a_balanced_part_has_its_share_of_each_class_and_those_of_smaller_parts() -> None:
    sizes = [90, 60, 31, 5]
    targets = torch.repeat_interleave(torch.arange(4), torch.tensor(sizes))
    split = Split(torch.arange(186, dtype=torch.uint8).view(-1, 1, 1, 1), targets)
    one, before = pb.DataSet("uneven", split, split), set[int]()
    for fraction in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.9, 1.0):
        found = one.subset(fraction, seed=3, balanced=True)
        counts = torch.bincount(found.train.targets, minlength=4).tolist()
        assert sum(counts) == one.train_size(fraction)
        assert all(abs(count - sum(counts) * size / 186) < 1 for count, size in zip(counts, sizes, strict=True))
        assert before <= set(places(found))
        before = set(places(found))
    assert torch.bincount(one.subset(0.02, 3, balanced=True).train.targets).tolist() == [2, 1, 1]  # none of class 3
    assert len({tuple(places(one.subset(0.02, seed, balanced=True))) for seed in range(20)}) == 20
    assert one.chosen(1.0, 3, balanced=True) is None


def test_what_noise_has_replaced_goes_with_the_examples() -> None:
    one = data(20, 4)
    noisy = one.noisy(0.5, 1, law="exact")
    assert noisy.noise is not None
    assert torch.equal(noisy.noise.true_targets, one.train.targets)
    assert int(noisy.noise.drawn.sum()) == 10
    assert torch.equal(noisy.test.targets, one.test.targets)
    chosen = torch.tensor([3, 17, 4])
    part = noisy.only(chosen).to("cpu").noise
    assert part is not None
    assert [tensor.tolist() for tensor in part] == [tensor[chosen].tolist() for tensor in noisy.noise]
    assert noisy.checksum == pb.DataSet("other", noisy.train, noisy.test).checksum
    held = noisy.held_out(0.1)
    assert held.noise is not None
    assert held.noise.true_targets.tolist() == [place % 4 for place in places(held)]


def test_noise_among_some_examples_counts_and_changes_these_alone() -> None:
    one, among = data(20, 4), torch.tensor([1, 5, 9, 12, 13, 18])
    others = torch.ones(20, dtype=torch.bool)
    others[among] = False
    for noise, count in ((0.5, 3), ("permute", 6)):
        found = one.noisy(noise, 2, law="exact", among=among)  # type: ignore[arg-type]
        assert found.noise is not None
        assert int(found.noise.drawn.sum()) == int(found.noise.drawn[among].sum()) == count
        assert torch.equal(found.train.targets[others], one.train.targets[others])
    assert sorted(found.train.targets[among].tolist()) == sorted(one.train.targets[among].tolist())


@pytest.mark.parametrize(("share", "out"), [(0.1, 1), (0.26, 3), (0.94, 9)])
def test_what_is_held_out(share: float, out: int) -> None:
    found = data().held_out(share)
    held = places(found.test)
    assert len(held) == out
    assert sorted(held + places(found)) == list(range(10))
    assert (held, places(found)) == (sorted(held), sorted(places(found)))
    assert found.test.targets.tolist() == [place % 2 for place in held]
    assert found.label == f"places, tested on {100 * share:.4g} % of its training set"


@pytest.mark.parametrize("share", [0.0, 0.05, 0.96, 1.0])
def test_neither_part_is_empty(share: float) -> None:
    with pytest.raises(
        pb.UserError, match=f"validation {share:g} of 10 training examples of places leaves one part em"
    ):
        data().held_out(share)


@pytest.mark.parametrize("at_once", [1, 7, 2**18])
def test_scales_do_not_depend_on_how_many_images_are_looked_at_together(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "IN_CACHE", at_once)
    inputs = torch.randint(0, 256, (11, 2, 3, 2), dtype=torch.uint8)
    split = Split(inputs, torch.arange(11) % 2)
    mean, std = pb.DataSet("noise", split, split).mean_and_std()
    torch.testing.assert_close(mean, inputs.double().mean((0, 2, 3)), rtol=1e-14, atol=0)
    torch.testing.assert_close(std, inputs.double().std((0, 2, 3), correction=0), rtol=1e-13, atol=0)


def test_what_is_normalised_is_a_copy() -> None:
    """A network may begin with an operation in place."""
    for inputs in (torch.ones(4, 3), torch.ones(4, 3, dtype=torch.float64), torch.ones(4, 3, dtype=torch.int64)):
        one = pb.DataSet("ones", Split(inputs, LABELS), Split(inputs, LABELS))
        one.normalised(one.train.inputs).zero_()
        assert one.train.inputs.all()
    assert one.example().shape == (1, 3)


def test_score_batches() -> None:
    one = data(30, classes=3)

    def drawn(size: int, **keys: Any) -> tuple[list[int], Tensor]:
        found = one.score_batch(size, seed=1, **keys)
        mean, std = one.scale
        return [round(float(x * std + mean)) for x in found.inputs.flatten()], found.targets

    for keys in ({}, {"balanced": False}, {"label": 2}, {"label": 2, "balanced": False}):
        values, targets = drawn(9, **keys)
        assert len(set(values)) == 9
        assert [value % 3 for value in values] == targets.tolist()
        assert not keys.get("label") or targets.tolist() == [2] * 9
    assert torch.bincount(drawn(9)[1]).tolist() == [3, 3, 3]
    assert sorted(torch.bincount(drawn(10)[1]).tolist()) == [3, 3, 4]
    assert len(drawn(10, label=0)[0]) == 10
    with pytest.raises(
        pb.UserError, match="a score batch of 11 does not fit 10 training examples of class 0 of places"
    ):
        drawn(11, label=0)
    with pytest.raises(pb.UserError, match="a score batch of 0 does not fit 30 training examples of places"):
        drawn(0)
    assert len(drawn(1)[0]) == 1


def test_a_channel_that_never_changes_becomes_zero_and_no_other_is_scaled_by_it() -> None:
    inputs = torch.stack([torch.full((8, 3, 3), 7), torch.arange(72).reshape(8, 3, 3)], 1).to(torch.uint8)
    found = pb.DataSet("d", Split(inputs, torch.arange(8) % 2), Split(inputs + 1, torch.arange(8) % 2))
    assert not found.normalised(found.train.inputs)[:, 0].any()
    assert torch.equal(found.normalised(found.test.inputs)[:, 0], torch.ones(8, 3, 3))  # one above it, over 1
    assert found.normalised(found.train.inputs)[:, 1].std(correction=0).item() == pytest.approx(1)


def test_a_training_set_of_one_pixel() -> None:
    pixel = torch.full((1, 1, 1, 1), 7, dtype=torch.uint8)
    one = pb.DataSet("one", Split(pixel, torch.tensor([0])), Split(pixel + 2, torch.tensor([1])))
    assert [float(value) for value in one.mean_and_std()] == [7, 1]
    assert one.normalised(one.test.inputs).item() == 2
    assert one.score_batch(1, seed=0).inputs.item() == 0


def test_what_is_held_out_is_the_same_for_ever() -> None:
    """Stored results depend on it: those of `torch.randperm`, whose numbers do not change, with seed 0."""
    assert places(data().held_out(0.3).test) == sorted(torch.randperm(10, generator=seeded(0))[:3].tolist())


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_inputs_go_to_a_device_or_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    one = data()
    monkeypatch.setattr(pb.DataSet, "__post_init__", lambda _self: None)  # labels on "meta" cannot be looked at
    for options, expected in (({}, "meta"), ({"inputs": False}, "cpu")):
        there = one.to("meta", **options)
        for split in (there.train, there.test):
            assert (split.inputs.device.type, split.targets.device.type) == (expected, "meta")
