"""Networks without normalisation: LeNet, Conv-6, a deep MLP; Glorot initialisation."""

import math

from torch import nn

from pai_bench.models.create import InputShape, image_shape, sequential
from pai_bench.support.errors import UserError
from pai_bench.support.registry import model

LENET_SOURCE = "Lee et al. 2019, arXiv:1810.02340"


@model("lenet-300-100", source=LENET_SOURCE)
def lenet_300_100(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Fully connected, 300 and 100 ReLU units; 266,610 parameters for 28x28 images and 10 classes."""
    layers = {
        "flatten": nn.Flatten(),
        "fc1": nn.Linear(math.prod(input_shape), 300),
        "relu1": nn.ReLU(),
        "fc2": nn.Linear(300, 100),
        "relu2": nn.ReLU(),
        "fc3": nn.Linear(100, num_classes),
    }
    return sequential(layers, "vs-x")


@model("lenet-5-caffe", source=LENET_SOURCE, aliases=("lenet",))
def lenet_5_caffe(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Two valid 5x5 convolutions (20, 50), each followed by 2x2 max pooling and no nonlinearity, then 500 ReLU units.

    431,080 parameters for 28x28 grey images and 10 classes.
    """
    channels, height, width = image_shape(input_shape)
    rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, width))
    if min(rows, columns) < 1:
        raise UserError(f"needs images of at least 16x16 pixels, not {height}x{width}")
    layers = {
        "conv1": nn.Conv2d(channels, 20, 5),
        "pool1": nn.MaxPool2d(2),
        "conv2": nn.Conv2d(20, 50, 5),
        "pool2": nn.MaxPool2d(2),
        "flatten": nn.Flatten(),
        "fc1": nn.Linear(50 * rows * columns, 500),
        "relu1": nn.ReLU(),
        "fc2": nn.Linear(500, num_classes),
    }
    return sequential(layers, "vs-x")


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
    inputs = channels * (height // 8) * (width // 8)
    layers |= {"flatten": nn.Flatten(), "fc1": nn.Linear(inputs, 256), "relu7": nn.ReLU()}
    layers |= {"fc2": nn.Linear(256, 256), "relu8": nn.ReLU(), "fc3": nn.Linear(256, num_classes)}
    return sequential(layers, "vs-x")


@model("mlp-5", source="our own, for tests of depth without convolutions")
def mlp_5(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Five linear layers, with 300 ReLU units between each two; Glorot initialisation."""
    inputs = math.prod(input_shape)
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    for i in range(1, 5):
        layers |= {f"fc{i}": nn.Linear(inputs, 300), f"relu{i}": nn.ReLU()}
        inputs = 300
    layers["fc5"] = nn.Linear(inputs, num_classes)
    return sequential(layers, "vs-x")
