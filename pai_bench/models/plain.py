"""Small networks without normalisation."""

import math
from collections import OrderedDict

from torch import nn

from pai_bench.models.create import InputShape, image_shape
from pai_bench.support.errors import UserError
from pai_bench.support.initialise import initialise
from pai_bench.support.registry import model


@model("conv-6", source="Frankle & Carbin 2019, arXiv:1803.03635, figure 2")
def conv_6(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Six 3x3 convolutions (64, 64, 128, 128, 256, 256), a pooling after every second, then 256 ReLU units twice.

    2,261,184 weights for 32x32 colour images and 10 classes.
    """
    channels, height, width = image_shape(input_shape)
    if min(height, width) < 8:
        raise UserError(f"needs images of at least 8x8 pixels, not {height}x{width}")
    layers: dict[str, nn.Module] = {}
    for i, features in enumerate((64, 64, 128, 128, 256, 256), 1):
        layers |= {f"conv{i}": nn.Conv2d(channels, features, 3, padding=1), f"relu{i}": nn.ReLU()}
        channels = features
        if i % 2 == 0:
            layers[f"pool{i // 2}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    inputs = channels * (height // 8) * (width // 8)
    for i in (1, 2):
        layers |= {f"fc{i}": nn.Linear(inputs, 256), f"relu{i + 6}": nn.ReLU()}
        inputs = 256
    layers["fc3"] = nn.Linear(inputs, num_classes)
    return initialise(nn.Sequential(OrderedDict(layers)), "vs-x")


@model("mlp-5", source="our own, for tests of depth without convolutions")
def mlp_5(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Five linear layers, with 300 ReLU units between each two; Glorot initialisation."""
    inputs = math.prod(input_shape)
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    for i in range(1, 5):
        layers |= {f"fc{i}": nn.Linear(inputs, 300), f"relu{i}": nn.ReLU()}
        inputs = 300
    layers["fc5"] = nn.Linear(inputs, num_classes)
    return initialise(nn.Sequential(OrderedDict(layers)), "vs-x")
