"""Wide residual networks (Zagoruyko & Komodakis 2016, arXiv:1605.07146)."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from pai_bench.models.create import Builder, InputShape, image_shape
from pai_bench.support.initialise import initialise
from pai_bench.support.registry import model

SOURCE = "Zagoruyko & Komodakis 2016, arXiv:1605.07146"

SIZES = ((16, 8), (16, 10), (22, 8))
"""Depth, and widening of the 16, 32 and 64 channels."""


class PreactivatedBlock(nn.Module):
    """BN and ReLU before each of two 3x3 convolutions, around a shortcut: a 1x1 convolution where the width changes."""

    def __init__(self, channels: int, features: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, features, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.shortcut = None
        if channels != features:
            self.shortcut = nn.Conv2d(channels, features, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        result: Tensor = out + (x if self.shortcut is None else self.shortcut(active))
        return result


def wide_resnet(depth: int, widening: int) -> Builder:
    """A builder of WRN-`depth`-`widening`, without dropout: a 3x3 stem, three groups of blocks, average pooling."""

    def build(input_shape: InputShape, num_classes: int) -> nn.Module:
        channels = image_shape(input_shape)[0]
        layers: dict[str, nn.Module] = {"conv": nn.Conv2d(channels, 16, 3, padding=1, bias=False)}
        channels = 16
        for group, base in enumerate((16, 32, 64), 1):
            for block in range(1, (depth - 4) // 6 + 1):
                stride = 2 if group > 1 and block == 1 else 1
                layers[f"block{group}_{block}"] = PreactivatedBlock(channels, base * widening, stride)
                channels = base * widening
        layers |= {"bn": nn.BatchNorm2d(channels), "relu": nn.ReLU(), "pool": nn.AdaptiveAvgPool2d(1)}
        layers |= {"flatten": nn.Flatten(), "fc": nn.Linear(channels, num_classes)}
        return initialise(nn.Sequential(OrderedDict(layers)), "vs-h")

    build.__name__ = f"wrn-{depth}-{widening}"
    build.__doc__ = f"Three groups of {(depth - 4) // 6} pre-activated blocks, {widening} times as wide as ResNet-20."
    return build


for _depth, _widening in SIZES:
    model(f"wrn-{_depth}-{_widening}", source=SOURCE)(wide_resnet(_depth, _widening))
