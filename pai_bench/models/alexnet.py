"""AlexNet for small images, as in the SNIP paper: strides in place of pooling."""

from collections import OrderedDict

from torch import nn

from pai_bench.models.create import Builder, InputShape, image_shape
from pai_bench.support.initialise import initialise
from pai_bench.support.networks import is_large, version_of
from pai_bench.support.registry import model

SOURCE = "Lee et al. 2019, arXiv:1810.02340, section 5.2"

CONVOLUTIONS = ((96, 11), (256, 5), (384, 3), (384, 3), (256, 3))
"""Channels and window of each, all of stride 2; the first of stride 4 on images of 64x64 and more."""

UNITS = {"s": 1024, "b": 2048}
"""Of the two hidden linear layers."""


def alexnet(size: str) -> Builder:
    """A builder of AlexNet-`size`: five convolutions of stride 2, two hidden linear layers, all with BN and ReLU.

    On images of 64x64 and more, the first convolution has a stride of 4, as in the authors' code.
    """

    def build(input_shape: InputShape, num_classes: int) -> nn.Module:
        channels, height, width = image_shape(input_shape)
        layers: dict[str, nn.Module] = {}
        for i, (features, window) in enumerate(CONVOLUTIONS, 1):
            stride = 4 if is_large(input_shape) and i == 1 else 2
            layers[f"conv{i}"] = nn.Conv2d(channels, features, window, stride, padding=window // 2)
            layers |= {f"bn{i}": nn.BatchNorm2d(features), f"relu{i}": nn.ReLU()}
            channels, height, width = features, -(-height // stride), -(-width // stride)
        layers["flatten"] = nn.Flatten()
        inputs = channels * height * width
        for i in (6, 7):
            layers |= {f"fc{i}": nn.Linear(inputs, UNITS[size]), f"bn{i}": nn.BatchNorm1d(UNITS[size])}
            layers[f"relu{i}"] = nn.ReLU()
            inputs = UNITS[size]
        layers["fc8"] = nn.Linear(inputs, num_classes)
        return initialise(nn.Sequential(OrderedDict(layers)), "vs-x")

    build.__name__ = f"alexnet-{size}"
    build.__doc__ = f"Five convolutions of stride 2, and {UNITS[size]} units twice, with batch norm, one linear layer."
    return build


for _size in UNITS:
    model(f"alexnet-{_size}", source=SOURCE, version=version_of)(alexnet(_size))
