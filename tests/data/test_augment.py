"""Augmentation: which shifts and mirror images come up how often, and torchvision on the same parameters."""

import pytest
import torch
from scipy.stats import chisquare
from torchvision.transforms.v2 import functional as V

import pai_bench as pb
from pai_bench.data import Split
from pai_bench.data.augment import draw_flips_and_shifts, flip_crop
from pai_bench.training.batches import Batches, Order
from pai_bench.training.protocol import PADDING, get_protocol


def pictures(count: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (count, *shape), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 5, 7)])
def test_the_same_as_torchvision_on_the_same_parameters(shape: tuple[int, ...]) -> None:
    images = pictures(200, *shape)
    flips, shifts = draw_flips_and_shifts(200, PADDING, torch.Generator().manual_seed(1))
    found = flip_crop(images, flips, shifts, PADDING)
    assert found.dtype == torch.uint8
    for image, flip, (row, column), one in zip(images, flips, shifts, found, strict=True):
        expected = V.horizontal_flip(image) if flip else image
        expected = V.crop(V.pad(expected, [PADDING]), int(row), int(column), *shape[1:])
        assert torch.equal(one, expected)


def test_the_middle_shift_changes_nothing() -> None:
    images = pictures(9, 3, 8, 8)
    still = torch.full((9, 2), PADDING)
    assert torch.equal(flip_crop(images, torch.zeros(9, dtype=torch.bool), still, PADDING), images)


def test_flips_and_shifts_are_equally_likely_and_independent() -> None:
    count = 81_000
    flips, shifts = draw_flips_and_shifts(count, PADDING, torch.Generator().manual_seed(3))
    places = 9 * shifts[:, 0] + shifts[:, 1]
    both = torch.bincount(2 * places + flips, minlength=2 * 81)
    assert len(both) == 2 * 81
    assert chisquare(both.numpy()).pvalue > 1e-3


def batches(seeds: list[int]) -> list[torch.Tensor]:
    images = pictures(20, 1, 6, 6)
    data = pb.DataSet("pictures", Split(images, torch.arange(20) % 2), Split(images, torch.arange(20) % 2))
    protocol = get_protocol("synflow-cifar", epochs=1, batch_size=10)
    return [inputs for inputs, _ in Batches(data, [Order(seed) for seed in seeds], protocol).epoch()]


def test_a_trial_sees_the_same_whoever_is_beside_it() -> None:
    alone, beside = batches([5]), batches([4, 5, 6])
    assert [tuple(one.shape) for one in beside] == [(3, 10, 1, 6, 6)] * 2
    for one, three in zip(alone, beside, strict=True):
        assert torch.equal(one[0], three[1])
        assert not torch.equal(three[0], three[1])


@pytest.mark.parametrize(
    ("inputs", "shape"),
    [
        (torch.zeros(20, 8), r"torch.float32 of shape \(8,\)"),
        (torch.zeros(20, 1, 2, 2), r"torch.float32 of shape \(1, 2, 2\)"),
        (torch.zeros(20, 1, 2, dtype=torch.uint8), r"torch.uint8 of shape \(1, 2\)"),
    ],
)
def test_only_images_can_be_mirrored(inputs: torch.Tensor, shape: str) -> None:
    split = Split(inputs, torch.arange(20) % 2)
    for name, augmentation in (("synflow-cifar", "flip-crop"), ("snip-it", "flip-0.2")):
        with pytest.raises(pb.UserError, match=rf"augmentation {augmentation} is for images.*rows has {shape}"):
            Batches(pb.DataSet("rows", split, split), [Order(0)], get_protocol(name, batch_size=10))


def test_images_in_batches_are_shifted() -> None:
    """All but one of 81 shifts move black pixels into white images."""
    split = Split(torch.full((2000, 1, 3, 3), 255, dtype=torch.uint8), torch.arange(2000) % 2)
    data = pb.DataSet("white", split, split)
    for name, share in (("synflow-cifar", 80 / 81), ("snip-it", 0)):
        protocol = get_protocol(name, epochs=1, batch_size=1000)
        seen = torch.cat([inputs[0] for inputs, _ in Batches(data, [Order(0)], protocol).epoch()])
        assert (seen.flatten(1) < 0).any(1).float().mean().item() == pytest.approx(share, abs=0.012)
