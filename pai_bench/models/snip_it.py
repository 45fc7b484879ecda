"""The networks of SNIP-it's code (Verdenius et al. 2020, arXiv:2006.00896).

All have batch norm and LeakyReLU of slope 0.05 behind every hidden layer, dropout of 0.3 before linear ones, and
orthogonal weights with the gain of their nonlinearity; biases are torch's. What is left of an image is averaged to
2x2 or 3x3 places, whatever its size.
"""

import math
from typing import Any, TypeVar

from torch import Tensor, nn

from pai_bench.models.create import InputShape, image_shape, sequential
from pai_bench.support.errors import UserError
from pai_bench.support.registry import model

SOURCE = "Verdenius et al. 2020, arXiv:2006.00896, the authors' code"

SLOPE, DROPOUT = 0.05, 0.3

Layers = dict[str, nn.Module]

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def orthogonal(layer: Layer, *, hidden: bool = True) -> Layer:
    """A layer with orthogonal weights, of a gain that suits what follows a `hidden` one."""
    gain = nn.init.calculate_gain("leaky_relu", SLOPE) if hidden else 1.0
    nn.init.orthogonal_(layer.weight, gain)
    return layer


def convolution(label: str, channels: int, features: int, window: int = 3, **options: Any) -> Layers:
    """A convolution with batch norm and LeakyReLU."""
    layer = orthogonal(nn.Conv2d(channels, features, window, **options))
    activation = nn.LeakyReLU(SLOPE, inplace=True)
    return {f"conv{label}": layer, f"bn{label}": nn.BatchNorm2d(features), f"act{label}": activation}


def head(inputs: int, widths: tuple[int, ...], num_classes: int) -> Layers:
    """Linear layers with batch norm and LeakyReLU, and one for the classes, each behind a dropout."""
    layers: Layers = {"flatten": nn.Flatten()}
    for i, features in enumerate(widths, 1):
        layers |= {f"drop{i}": nn.Dropout(DROPOUT), f"fc{i}": orthogonal(nn.Linear(inputs, features))}
        layers |= {f"fcbn{i}": nn.BatchNorm1d(features), f"fcact{i}": nn.LeakyReLU(SLOPE)}
        inputs = features
    layers |= {"drop": nn.Dropout(DROPOUT), "fc": orthogonal(nn.Linear(inputs, num_classes), hidden=False)}
    return layers


@model("snip-it-mlp-5", source=SOURCE)
def mlp_5(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Five linear layers, with 512 units between each two."""
    inputs = math.prod(input_shape)
    layers: Layers = {"flatten": nn.Flatten()}
    for i in range(1, 5):
        layers |= {f"fc{i}": orthogonal(nn.Linear(inputs, 512)), f"bn{i}": nn.BatchNorm1d(512)}
        layers |= {f"act{i}": nn.LeakyReLU(SLOPE), f"drop{i}": nn.Dropout(DROPOUT)}
        inputs = 512
    return sequential(layers | {"fc5": orthogonal(nn.Linear(inputs, num_classes), hidden=False)})


@model("snip-it-lenet-5", source=SOURCE)
def lenet_5(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Three 5x5 convolutions (6, 16, 120), two max poolings, 3x3 places, 84 units."""
    channels, height, width = image_shape(input_shape)
    if min(height, width) < 28:
        raise UserError(f"needs images of at least 28x28 pixels, not {height}x{width}")
    layers = convolution("1", channels, 6, 5, padding=2) | {"pool1": nn.MaxPool2d(2)}
    layers |= convolution("2", 6, 16, 5) | {"pool2": nn.MaxPool2d(2)}
    layers |= convolution("3", 16, 120, 5) | {"places": nn.AdaptiveAvgPool2d(3)}
    return sequential(layers | head(120 * 9, (84,), num_classes))


@model("snip-it-conv-6", source=SOURCE)
def conv_6(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Six 3x3 convolutions (64, 64, 128, 128, 256, 256), two max poolings, 3x3 places, 256 units twice."""
    channels, *_ = image_shape(input_shape)
    layers: Layers = {}
    for i, features in enumerate((64, 64, 128, 128, 256, 256), 1):
        layers |= convolution(str(i), channels, features, padding=1)
        channels = features
        if i in (2, 4):
            layers[f"pool{i // 2}"] = nn.MaxPool2d(2)
    return sequential(layers | {"places": nn.AdaptiveAvgPool2d(3)} | head(256 * 9, (256, 256), num_classes))


@model("snip-it-vgg-16", source=SOURCE)
def vgg_16(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Thirteen 3x3 convolutions, the last of 1024 channels, four max poolings, 2x2 places, 4096 units twice."""
    channels, *_ = image_shape(input_shape)
    layers: Layers = {}
    widths = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 1024))
    for block, of_block in enumerate(widths, 1):
        for i, features in enumerate(of_block, 1):
            layers |= convolution(f"{block}_{i}", channels, features, padding=1)
            channels = features
        if block < len(widths):
            layers[f"pool{block}"] = nn.MaxPool2d(2)
    return sequential(layers | {"places": nn.AdaptiveAvgPool2d(2)} | head(1024 * 4, (4096, 4096), num_classes))


class Block(nn.Module):
    """Two 3x3 convolutions with biases and batch norm around a shortcut, a 1x1 convolution where the size halves."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        stride = 1 if channels == features else 2
        self.conv1 = orthogonal(nn.Conv2d(channels, features, 3, stride, padding=1))
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = orthogonal(nn.Conv2d(features, features, 3, padding=1))
        self.bn2 = nn.BatchNorm2d(features)
        self.act = nn.LeakyReLU(SLOPE)
        self.shortcut: nn.Module = nn.Identity()
        if stride == 2:
            kernel = orthogonal(nn.Conv2d(channels, features, 1, stride, bias=False))
            self.shortcut = nn.Sequential(kernel, nn.BatchNorm2d(features))

    def forward(self, x: Tensor) -> Any:
        out = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        return self.act(out + self.shortcut(x))


@model("snip-it-resnet-18", source=SOURCE)
def resnet_18(input_shape: InputShape, num_classes: int) -> nn.Module:
    """A 7x7 stem of stride 2 with max pooling, four groups of two blocks (64 to 512), 2x2 places, 256 units."""
    channels, *_ = image_shape(input_shape)
    stem = convolution("1", channels, 64, 7, stride=2, padding=3, bias=False)
    layers: Layers = stem | {"pool": nn.MaxPool2d(3, 2, padding=1)}
    channels = 64
    for group, features in enumerate((64, 128, 256, 512), 1):
        layers |= {f"block{group}_1": Block(channels, features), f"block{group}_2": Block(features, features)}
        channels = features
    return sequential(layers | {"places": nn.AdaptiveAvgPool2d(2)} | head(512 * 4, (256,), num_classes))
