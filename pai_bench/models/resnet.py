"""Residual networks for small images (He et al. 2016, arXiv:1512.03385)."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from pai_bench.models.create import Builder, InputShape, image_shape
from pai_bench.support.initialise import initialise
from pai_bench.support.registry import model

SOURCE = "He et al. 2016, arXiv:1512.03385"


class PaddedShortcut(nn.Module):
    """Option A: take every `stride`-th pixel and append zero channels. It has no weights."""

    def __init__(self, extra_channels: int, stride: int) -> None:
        super().__init__()
        self.extra_channels, self.stride = extra_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra_channels))


def shortcut(channels: int, features: int, stride: int, *, padded: bool) -> nn.Module:
    """The identity where nothing changes; else option A, `padded`, or option B, a 1x1 convolution with batch norm."""
    if stride == 1 and channels == features:
        return nn.Identity()
    if padded:
        return PaddedShortcut(features - channels, stride)
    return nn.Sequential(nn.Conv2d(channels, features, 1, stride, bias=False), nn.BatchNorm2d(features))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut."""

    GROWTH = 1

    def __init__(self, channels: int, features: int, stride: int, *, padded: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, features, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.shortcut = shortcut(channels, features, stride, padded=padded)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution with batch norm around a shortcut; the last has four times the channels."""

    GROWTH = 4

    def __init__(self, channels: int, features: int, stride: int, *, padded: bool) -> None:
        super().__init__()
        wide = self.GROWTH * features
        self.conv1 = nn.Conv2d(channels, features, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.conv3 = nn.Conv2d(features, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.shortcut = shortcut(channels, wide, stride, padded=padded)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


def resnet(
    blocks: tuple[int, ...],
    widths: tuple[int, ...],
    *,
    padded: bool,
    kind: type[BasicBlock] | type[Bottleneck] = BasicBlock,
) -> Builder:
    """A builder: a 3x3 stem of stride 1, groups of so many `blocks` of the given `widths`, average pooling, linear."""

    def build(input_shape: InputShape, num_classes: int) -> nn.Module:
        channels = image_shape(input_shape)[0]
        layers: dict[str, nn.Module] = {
            "conv": nn.Conv2d(channels, widths[0], 3, padding=1, bias=False),
            "bn": nn.BatchNorm2d(widths[0]),
            "relu": nn.ReLU(),
        }
        channels = widths[0]
        for group, (count, features) in enumerate(zip(blocks, widths, strict=True), 1):
            for block in range(1, count + 1):
                stride = 2 if group > 1 and block == 1 else 1
                layers[f"block{group}_{block}"] = kind(channels, features, stride, padded=padded)
                channels = kind.GROWTH * features
        layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(channels, num_classes)}
        return initialise(nn.Sequential(OrderedDict(layers)), "vs-h")

    return build


CODES = "with the shortcuts of OpenLTH and of Tanaka et al. 2020, arXiv:2006.05467"
DOUBLE = "with the width and shortcuts of Wang et al. 2020, arXiv:2002.07376"


def for_cifar(depth: int, times: int, *, padded: bool) -> None:
    """Register a residual network of three groups, so many `times` as wide; `padded`, with shortcuts without weights.

    The names without more stood for those until their version 1; the published codes have convolutions.
    """
    build = resnet((depth // 6,) * 3, tuple(times * width for width in (16, 32, 64)), padded=padded)
    build.__name__ = f"resnet-{depth}" + "-double" * (times == 2) + "-identity" * padded
    channels = f"{16 * times}, {32 * times} and {64 * times} channels"
    kind = "shortcuts without parameters (option A)" if padded else "1x1 convolutions with batch norm as shortcuts"
    build.__doc__ = f"Three groups of {depth // 6} blocks, {channels}, {kind}."
    wide = ", twice as wide" * (times == 2)
    source = f"{SOURCE}, section 4.2{wide}" if padded else f"{SOURCE}, section 4.2, {CODES if times == 1 else DOUBLE}"
    model(build.__name__, source=source, version=1 if padded else 2)(build)


for _depth in (20, 32, 56):
    for _times in (1, 2):
        for _padded in (False, True):
            for_cifar(_depth, _times, padded=_padded)

for _depth, _blocks, _kind in (
    (18, (2, 2, 2, 2), BasicBlock),
    (34, (3, 4, 6, 3), BasicBlock),
    (50, (3, 4, 6, 3), Bottleneck),
):
    _build = resnet(_blocks, (64, 128, 256, 512), padded=False, kind=_kind)
    _build.__name__ = f"resnet-{_depth}"
    _build.__doc__ = f"Four groups of {sum(_blocks)} blocks, 1x1 shortcuts; a 3x3 stem without pooling."
    model(_build.__name__, source=f"{SOURCE}, with the stem for small images")(_build)
