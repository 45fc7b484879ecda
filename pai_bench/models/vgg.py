"""VGG with batch normalisation for small images, as in SynFlow and "Missing the mark", and as in SNIP."""

from torch import nn

from pai_bench.models.create import InputShape, convolution, hidden, image_shape, sequential, variant
from pai_bench.support.networks import is_large, version_of

SOURCE = "Simonyan & Zisserman 2015, arXiv:1409.1556, for small images as in Tanaka et al. 2020, arXiv:2006.05467"
SNIP_SOURCE = "Lee et al. 2019, arXiv:1810.02340, section 5.2"

WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the five blocks."""

DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions in each block, by the number of weight layers in the name."""


def blocks(
    depth: int, input_shape: InputShape, *, average: bool = False, snip: bool = False, narrow: bool = False
) -> tuple[dict[str, nn.Module], int]:
    """The five blocks of VGG-`depth`, 3x3 convolutions with BN and ReLU and a 2x2 pooling, and how much they put out.

    On inputs too small for five poolings, they stop pooling at one pixel. The poolings are of maxima; with `average`,
    the last is of means, on images of 64x64 and more of all pixels, as in Wang et al. 2020, arXiv:2002.07376. Those of
    `snip` have biases and, on images of 64x64 and more, a first stride of 2, as in the authors' code; where they are
    `narrow`, the third convolution of a block has a window of 1.
    """
    channels, height, width = image_shape(input_shape)
    large = is_large(input_shape)
    layers: dict[str, nn.Module] = {}
    for block, (convolutions, features) in enumerate(zip(DEPTHS[depth], WIDTHS, strict=True), 1):
        last = average and block == len(WIDTHS)
        for i in range(1, convolutions + 1):
            window = 1 if narrow and i == 3 else 3
            stride = 2 if snip and large and block == i == 1 else 1
            height, width = -(-height // stride), -(-width // stride)
            # others have no bias, which batch norm would take away again
            layer = nn.Conv2d(channels, features, window, stride, padding=window // 2, bias=snip)
            layers |= convolution(f"{block}_{i}", layer, inplace=True)
            channels = features
        if last and large:
            layers[f"pool{block}"] = nn.AvgPool2d((height, width))
            height = width = 1
        elif min(height, width) > 1:
            layers[f"pool{block}"] = nn.AvgPool2d(2) if last else nn.MaxPool2d(2)
            height, width = height // 2, width // 2
    return layers | {"flatten": nn.Flatten()}, channels * height * width


def vgg(depth: int) -> None:
    """Register VGG-`depth`: five poolings, the last of means, and one linear layer."""
    description = f"{sum(DEPTHS[depth])} 3x3 convolutions of 64 to 512 channels with batch norm, one linear layer."
    aliases = ("vgg",) if depth == 11 else ()

    @variant(f"vgg-{depth}-bn", description, source=SOURCE, aliases=aliases, version=version_of)
    def build(input_shape: InputShape, num_classes: int) -> nn.Module:
        layers, features = blocks(depth, input_shape, average=True)
        return sequential(layers | {"fc": nn.Linear(features, num_classes)}, "vs-h")


def vgg_tiny(depth: int) -> None:
    """Register VGG-`depth` with SynFlow's head for Tiny-ImageNet: three linear layers, with half as many hidden units.

    Between them are ReLU and dropout of one half.
    """
    description = f"{sum(DEPTHS[depth])} 3x3 convolutions with batch norm, three linear layers with dropout."

    @variant(f"vgg-{depth}-bn-tiny", description, source=f"{SOURCE}, the code's network for Tiny-ImageNet")
    def build(input_shape: InputShape, num_classes: int) -> nn.Module:
        layers, features = blocks(depth, input_shape)
        units = features // 2
        layers |= {"fc1": nn.Linear(features, units), "relu1": nn.ReLU(), "drop1": nn.Dropout()}
        layers |= {"fc2": nn.Linear(units, units), "relu2": nn.ReLU(), "drop2": nn.Dropout()}
        return sequential(layers | {"fc3": nn.Linear(units, num_classes)}, "grasp")


def snip_vgg(name: str, *, hidden_layers: int, narrow: bool) -> None:
    """Register a VGG of the SNIP paper: 13 convolutions, `hidden_layers` of 512 units with BN and ReLU; no dropout."""
    windows = ", three of them 1x1," * narrow
    description = f"13 convolutions{windows} and {hidden_layers + 1} linear layers, with batch norm."

    @variant(f"vgg-{name}", description, source=SNIP_SOURCE, version=version_of)
    def build(input_shape: InputShape, num_classes: int) -> nn.Module:
        layers, features = blocks(16, input_shape, snip=True, narrow=narrow)
        for i in range(1, hidden_layers + 1):
            layers |= hidden(i, features, 512)
            features = 512
        return sequential(layers | {"fc": nn.Linear(features, num_classes)}, "vs-x")


for _depth in DEPTHS:
    vgg(_depth)
    vgg_tiny(_depth)
snip_vgg("c", hidden_layers=2, narrow=True)
snip_vgg("d", hidden_layers=2, narrow=False)
snip_vgg("like", hidden_layers=1, narrow=False)
