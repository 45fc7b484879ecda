"""Residual networks for small images: He et al. 2016, and wide ones (Zagoruyko & Komodakis 2016)."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

from torch import Tensor, nn
from torch.nn import functional as F

from pai_bench.models.create import InputShape, convolution, image_shape, sequential, variant

SOURCE = "He et al. 2016, arXiv:1512.03385"
CODES = "with the shortcuts of OpenLTH and of Tanaka et al. 2020, arXiv:2006.05467"
DOUBLE = "with the width and shortcuts of Wang et al. 2020, arXiv:2002.07376"
WIDE_SOURCE = "Zagoruyko & Komodakis 2016, arXiv:1605.07146"
RIGL = "Evci et al. 2020, arXiv:1911.11134"


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


class PreactivatedBlock(nn.Module):
    """BN and ReLU before each of two 3x3 convolutions, around a shortcut: a 1x1 convolution where the width changes.

    With a probability of `dropout`, an input of the second convolution is left out.
    """

    def __init__(self, channels: int, features: int, stride: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, features, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(channels, features, 1, stride, bias=False) if channels != features else None
        self.dropout = nn.Dropout(dropout) if dropout else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        inner = F.relu(self.bn2(self.conv1(active)))
        out = self.conv2(inner if self.dropout is None else self.dropout(inner))
        result: Tensor = out + (x if self.shortcut is None else self.shortcut(active))
        return result


def groups(
    blocks: Sequence[int],
    widths: Sequence[int],
    channels: int,
    make: Callable[[int, int, int], nn.Module],
    growth: int = 1,
) -> dict[str, nn.Module]:
    """Groups of so many `blocks` of the `widths`, the first of each group but the first with a stride of 2.

    `make` builds a block from its input channels, width and stride; it puts out `growth` times its width.
    """
    layers: dict[str, nn.Module] = {}
    for group, (count, width) in enumerate(zip(blocks, widths, strict=True), 1):
        for block in range(1, count + 1):
            layers[f"block{group}_{block}"] = make(channels, width, 2 if group > 1 and block == 1 else 1)
            channels = growth * width
    return layers


def resnet(
    name: str,
    description: str,
    source: str,
    *,
    blocks: Sequence[int],
    widths: Sequence[int],
    block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
    padded: bool = False,
    version: int = 1,
) -> None:
    """Register a residual network: a 3x3 stem of stride 1, groups of `blocks` of the `widths`, pooling, linear."""

    @variant(name, description, source=source, version=version)
    def build(input_shape: InputShape, num_classes: int) -> nn.Module:
        stem = nn.Conv2d(image_shape(input_shape)[0], widths[0], 3, padding=1, bias=False)
        layers = convolution("", stem)
        layers |= groups(blocks, widths, widths[0], partial(block, padded=padded), block.GROWTH)
        layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        return sequential(layers | {"fc": nn.Linear(block.GROWTH * widths[-1], num_classes)}, "vs-h")


def wide_resnet(depth: int, widening: int, *, dropout: float = 0.0) -> None:
    """Register WRN-`depth`-`widening`, perhaps with dropout: a 3x3 stem, three groups of blocks, average pooling."""
    blocks = (depth - 4) // 6
    description = f"Three groups of {blocks} pre-activated blocks, {widening} times as wide as ResNet-20"
    description += f", with a dropout of {dropout:g}." if dropout else "."
    widths = [widening * channels for channels in (16, 32, 64)]
    name, source = f"wrn-{depth}-{widening}", WIDE_SOURCE
    if dropout:
        name, source = f"{name}-dropout", f"{source}, with the dropout of the code of {RIGL}"

    @variant(name, description, source=source)
    def build(input_shape: InputShape, num_classes: int) -> nn.Module:
        channels = image_shape(input_shape)[0]
        layers: dict[str, nn.Module] = {"conv": nn.Conv2d(channels, 16, 3, padding=1, bias=False)}
        layers |= groups([blocks] * 3, widths, 16, partial(PreactivatedBlock, dropout=dropout))
        layers |= {"bn": nn.BatchNorm2d(widths[-1]), "relu": nn.ReLU(), "pool": nn.AdaptiveAvgPool2d(1)}
        return sequential(layers | {"flatten": nn.Flatten(), "fc": nn.Linear(widths[-1], num_classes)}, "vs-h")


# the names without "identity" meant these networks until their version 1; the published codes have convolutions
for _depth, _times, _padded in product((20, 32, 56), (1, 2), (False, True)):
    _section = f"{SOURCE}, section 4.2"
    resnet(
        f"resnet-{_depth}" + "-double" * (_times == 2) + "-identity" * _padded,
        f"Three groups of {_depth // 6} blocks, {16 * _times}, {32 * _times} and {64 * _times} channels, "
        + ("shortcuts without parameters (option A)." if _padded else "1x1 convolutions with batch norm as shortcuts."),
        _section + ", twice as wide" * (_times == 2) if _padded else f"{_section}, {CODES if _times == 1 else DOUBLE}",
        blocks=(_depth // 6,) * 3,
        widths=(16 * _times, 32 * _times, 64 * _times),
        padded=_padded,
        version=1 if _padded else 2,
    )
for _depth, _blocks in ((18, (2, 2, 2, 2)), (34, (3, 4, 6, 3)), (50, (3, 4, 6, 3))):
    resnet(
        f"resnet-{_depth}",
        f"Four groups of {sum(_blocks)} blocks, 1x1 shortcuts; a 3x3 stem without pooling.",
        f"{SOURCE}, with the stem for small images",
        blocks=_blocks,
        widths=(64, 128, 256, 512),
        block=Bottleneck if _depth == 50 else BasicBlock,
    )
for _depth, _widening in ((16, 8), (16, 10), (22, 8), (22, 2)):
    wide_resnet(_depth, _widening)
wide_resnet(22, 2, dropout=0.3)
