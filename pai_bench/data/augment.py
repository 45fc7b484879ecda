"""Augmentation of a batch of images in one operation, on the device that they are on."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pai_bench.support.errors import UserError


def flip_crop(images: Tensor, flips: Tensor, shifts: Tensor, padding: int) -> Tensor:
    """`images` (N, C, H, W), mirrored where `flips` (N,) says so, and then shifted with zeros moving in.

    `shifts` (N, 2) are the row and the column, in 0 ... 2 `padding`, at which each image is cut out of its padded self:
    at `padding`, it stays where it is. On images as they are stored, the zeros are black pixels.
    """
    mirrored = flip(images, flips)
    height, width = images.shape[-2:]
    # all places that an image can be cut out at, as a view: (N, C, rows, columns, H, W)
    places = F.pad(mirrored, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    rows, columns = shifts.unbind(1)
    return places[torch.arange(len(images), device=images.device), :, rows, columns]


def flip(images: Tensor, flips: Tensor) -> Tensor:
    """`images` (N, C, H, W), mirrored where `flips` (N,) says so."""
    return torch.where(flips.view(-1, 1, 1, 1), images.flip(-1), images)


def draw_flips(count: int, probability: float, generator: torch.Generator) -> Tensor:
    """Which of `count` images are mirrored, each with a `probability`."""
    return torch.rand(count, generator=generator) < probability


def draw_flips_and_shifts(count: int, padding: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Flips (`count`,) with probability one half, and shifts (`count`, 2), each of 2 `padding` + 1 equally likely."""
    flips = draw_flips(count, 0.5, generator)
    return flips, torch.randint(0, 2 * padding + 1, (count, 2), generator=generator)


def check_images(inputs: Tensor, name: str, augmentation: str = "flip-crop") -> None:
    """Refuse to mirror and shift what is no image."""
    if inputs.dim() != 4 or inputs.dtype != torch.uint8:
        shape = f"{inputs.dtype} of shape {tuple(inputs.shape[1:])}"
        raise UserError(
            f"augmentation {augmentation} is for images, uint8 of (channels, height, width); {name} has {shape}"
        )
