"""VGG with batch normalisation for small images, as in SynFlow and "Missing the mark", and as in SNIP."""

from collections import OrderedDict
from collections.abc import Iterator

from torch import nn

from pai_bench.models.create import Builder, InputShape, image_shape
from pai_bench.support.initialise import initialise
from pai_bench.support.networks import is_large, version_of
from pai_bench.support.registry import model

SOURCE = "Simonyan & Zisserman 2015, arXiv:1409.1556, for small images as in Tanaka et al. 2020, arXiv:2006.05467"

WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the five blocks."""

DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions in each block, by the number of weight layers in the name."""


def blocks(depth: int, channels: int) -> Iterator[dict[str, nn.Module]]:
    """The five blocks of VGG-`depth`: 3x3 convolutions with BN and ReLU."""
    for block, (convolutions, features) in enumerate(zip(DEPTHS[depth], WIDTHS, strict=True), 1):
        layers: dict[str, nn.Module] = {}
        for i in range(1, convolutions + 1):
            # no bias: batch norm would take it away again
            layers[f"conv{block}_{i}"] = nn.Conv2d(channels, features, 3, padding=1, bias=False)
            layers[f"bn{block}_{i}"] = nn.BatchNorm2d(features)
            layers[f"relu{block}_{i}"] = nn.ReLU(inplace=True)
            channels = features
        yield layers


def vgg(depth: int) -> Builder:
    """A builder of VGG-`depth`: 3x3 convolutions with BN and ReLU, five 2x2 poolings, and one linear layer.

    Four poolings are of maxima, the last of means: of 2x2 pixels, on images of 64x64 and more of all pixels, as in Wang
    et al. 2020, arXiv:2002.07376. On inputs too small for five poolings, it stops pooling at one pixel.
    """

    def build(input_shape: InputShape, num_classes: int) -> nn.Module:
        channels, height, width = image_shape(input_shape)
        layers: dict[str, nn.Module] = {}
        for block, of_block in enumerate(blocks(depth, channels), 1):
            layers |= of_block
            if block == len(WIDTHS) and is_large(input_shape):
                layers[f"pool{block}"] = nn.AvgPool2d((height, width))
                height = width = 1
            elif min(height, width) > 1:
                layers[f"pool{block}"] = nn.MaxPool2d(2) if block < len(WIDTHS) else nn.AvgPool2d(2)
                height, width = height // 2, width // 2
        layers["flatten"] = nn.Flatten()
        layers["fc"] = nn.Linear(WIDTHS[-1] * height * width, num_classes)
        return initialise(nn.Sequential(OrderedDict(layers)), "vs-h")

    build.__name__ = f"vgg-{depth}-bn"
    build.__doc__ = f"{sum(DEPTHS[depth])} 3x3 convolutions of 64 to 512 channels with batch norm, one linear layer."
    return build


def vgg_tiny(depth: int) -> Builder:
    """A builder of VGG-`depth` with SynFlow's head for Tiny-ImageNet.

    Five max poolings, and three linear layers, of half the features that are left, with ReLU and dropout of one half
    between them.
    """

    def build(input_shape: InputShape, num_classes: int) -> nn.Module:
        channels, height, width = image_shape(input_shape)
        layers: dict[str, nn.Module] = {}
        for block, of_block in enumerate(blocks(depth, channels), 1):
            layers |= of_block
            if min(height, width) > 1:
                layers[f"pool{block}"] = nn.MaxPool2d(2)
                height, width = height // 2, width // 2
        inputs = WIDTHS[-1] * height * width
        hidden = inputs // 2
        layers |= {"flatten": nn.Flatten(), "fc1": nn.Linear(inputs, hidden), "relu1": nn.ReLU(), "drop1": nn.Dropout()}
        layers |= {"fc2": nn.Linear(hidden, hidden), "relu2": nn.ReLU(), "drop2": nn.Dropout()}
        layers["fc3"] = nn.Linear(hidden, num_classes)
        return initialise(nn.Sequential(OrderedDict(layers)), "grasp")

    build.__name__ = f"vgg-{depth}-bn-tiny"
    build.__doc__ = f"{sum(DEPTHS[depth])} 3x3 convolutions with batch norm, three linear layers with dropout."
    return build


for _depth in DEPTHS:
    model(
        f"vgg-{_depth}-bn",
        source=SOURCE,
        aliases=("vgg",) if _depth == 11 else (),
        version=version_of,
    )(vgg(_depth))
    model(f"vgg-{_depth}-bn-tiny", source=f"{SOURCE}, the code's network for Tiny-ImageNet")(vgg_tiny(_depth))


SNIP_SOURCE = "Lee et al. 2019, arXiv:1810.02340, section 5.2"

SNIP_VARIANTS = {"c": (2, True), "d": (2, False), "like": (1, False)}
"""Name -> hidden linear layers of 512 units, and whether the third convolution of a block has a window of 1."""


def snip_vgg(variant: str) -> Builder:
    """A builder of a VGG of the SNIP paper: 13 convolutions with biases, BN and ReLU, max pooling after each block.

    Hidden linear layers have BN and ReLU too; no dropout. On images of 64x64 and more, the first convolution has a
    stride of 2, as in the authors' code.
    """
    hidden, narrow = SNIP_VARIANTS[variant]

    def build(input_shape: InputShape, num_classes: int) -> nn.Module:
        channels, height, width = image_shape(input_shape)
        if is_large(input_shape):
            height, width = -(-height // 2), -(-width // 2)
        layers: dict[str, nn.Module] = {}
        for block, (convolutions, features) in enumerate(zip(DEPTHS[16], WIDTHS, strict=True), 1):
            for i in range(1, convolutions + 1):
                window = 1 if narrow and i == 3 else 3
                stride = 2 if is_large(input_shape) and block == i == 1 else 1
                layers[f"conv{block}_{i}"] = nn.Conv2d(channels, features, window, stride, padding=window // 2)
                layers |= {f"bn{block}_{i}": nn.BatchNorm2d(features), f"relu{block}_{i}": nn.ReLU(inplace=True)}
                channels = features
            if min(height, width) > 1:
                layers[f"pool{block}"] = nn.MaxPool2d(2)
                height, width = height // 2, width // 2
        layers["flatten"] = nn.Flatten()
        inputs = channels * height * width
        for i in range(1, hidden + 1):
            layers |= {f"fc{i}": nn.Linear(inputs, 512), f"bn{i}": nn.BatchNorm1d(512), f"relu{i}": nn.ReLU()}
            inputs = 512
        layers["fc"] = nn.Linear(inputs, num_classes)
        return initialise(nn.Sequential(OrderedDict(layers)), "vs-x")

    build.__name__ = f"vgg-{variant}"
    build.__doc__ = f"13 convolutions{', three of them 1x1,' * narrow} and {hidden + 1} linear layers, with batch norm."
    return build


for _variant in SNIP_VARIANTS:
    model(f"vgg-{_variant}", source=SNIP_SOURCE, version=version_of)(snip_vgg(_variant))
