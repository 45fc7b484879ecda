"""A small vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) for small images."""

from functools import partial

import torch
from torch import Tensor, nn

from pai_bench.models.create import InputShape, image_shape
from pai_bench.support.registry import model

FEATURES, HEADS, HIDDEN, LAYERS = 128, 4, 256, 6

PATCHES = 8
"""Patches along a side of an image, at least, where its size allows it."""


class SmallViT(nn.Module):
    """Patches with learnt places, encoder layers with normalisation first, and a linear layer on their mean."""

    def __init__(self, channels: int, height: int, width: int, num_classes: int) -> None:
        super().__init__()
        patch = patch_side(height), patch_side(width)
        self.patches = nn.Conv2d(channels, FEATURES, patch, patch)
        self.places = nn.Parameter(torch.empty(height // patch[0] * (width // patch[1]), FEATURES))
        nn.init.trunc_normal_(self.places, std=0.02)
        # not nn.TransformerEncoder: its layers would begin as copies of one
        layer = partial(nn.TransformerEncoderLayer, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.layers = nn.Sequential(*(layer(FEATURES, HEADS, HIDDEN) for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(FEATURES)
        self.head = nn.Linear(FEATURES, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        logits: Tensor = self.head(self.norm(self.layers(tokens)).mean(1))
        return logits


def patch_side(side: int) -> int:
    """The largest divisor of `side` that leaves at least `PATCHES` patches."""
    return max(size for size in range(1, max(1, side // PATCHES) + 1) if side % size == 0)


@model("vit-small", source="Dosovitskiy et al. 2021, arXiv:2010.11929; the size is our own")
def vit_small(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Six layers of four heads, 128 features, 256 hidden; patches of about an eighth of the image's sides."""
    return SmallViT(*image_shape(input_shape), num_classes)
