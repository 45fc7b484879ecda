"""Residual networks for small images (He et al. 2016, arXiv:1512.03385)."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from pai_bench.models.create import InputShape, image_shape
from pai_bench.models.initialise import kaiming
from pai_bench.registry import model

SOURCE = "He et al. 2016, arXiv:1512.03385"


class PaddedShortcut(nn.Module):
    """Option A: take every `stride`-th pixel and append zero channels. It has no weights."""

    def __init__(self, extra_channels: int, stride: int) -> None:
        super().__init__()
        self.extra_channels, self.stride = extra_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra_channels))


def projection(channels: int, features: int, stride: int) -> nn.Module:
    """Option B: a 1x1 convolution with batch norm."""
    return nn.Sequential(nn.Conv2d(channels, features, 1, stride, bias=False), nn.BatchNorm2d(features))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut."""

    def __init__(self, channels: int, features: int, stride: int, *, padded: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, features, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != features:
            self.shortcut = (
                PaddedShortcut(features - channels, stride) if padded else projection(channels, features, stride)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def resnet(
    input_shape: InputShape, num_classes: int, *, widths: tuple[int, ...], blocks: int, padded: bool
) -> nn.Module:
    """A 3x3 stem of stride 1, groups of `blocks` basic blocks of the given `widths`, average pooling, linear."""
    channels = image_shape(input_shape)[0]
    layers: dict[str, nn.Module] = {
        "conv": nn.Conv2d(channels, widths[0], 3, padding=1, bias=False),
        "bn": nn.BatchNorm2d(widths[0]),
        "relu": nn.ReLU(),
    }
    channels = widths[0]
    for group, features in enumerate(widths, 1):
        for block in range(1, blocks + 1):
            stride = 2 if group > 1 and block == 1 else 1
            layers[f"block{group}_{block}"] = BasicBlock(channels, features, stride, padded=padded)
            channels = features
    layers |= {
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(channels, num_classes),
    }
    return kaiming(nn.Sequential(OrderedDict(layers)))


@model("resnet-20", source=f"{SOURCE}, section 4.2")
def resnet_20(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Three groups of three blocks, 16, 32 and 64 channels, option A shortcuts."""
    return resnet(input_shape, num_classes, widths=(16, 32, 64), blocks=3, padded=True)


@model("resnet-18", source=f"{SOURCE}, with the stem for small images")
def resnet_18(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Four groups of two blocks, 64 to 512 channels, 1x1 shortcuts; a 3x3 stem without pooling."""
    return resnet(input_shape, num_classes, widths=(64, 128, 256, 512), blocks=2, padded=False)
