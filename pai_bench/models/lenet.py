"""The LeNets of the SNIP paper (Lee et al. 2019, arXiv:1810.02340), Glorot initialisation."""

import math
from collections import OrderedDict

from torch import nn

from pai_bench.models.create import InputShape, image_shape
from pai_bench.support.errors import UserError
from pai_bench.support.initialise import initialise
from pai_bench.support.registry import model

SOURCE = "Lee et al. 2019, arXiv:1810.02340"


@model("lenet-300-100", source=SOURCE)
def lenet_300_100(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Fully connected, 300 and 100 ReLU units; 266,610 parameters for 28x28 images and 10 classes."""
    inputs = math.prod(input_shape)
    layers: dict[str, nn.Module] = {
        "flatten": nn.Flatten(),
        "fc1": nn.Linear(inputs, 300),
        "relu1": nn.ReLU(),
        "fc2": nn.Linear(300, 100),
        "relu2": nn.ReLU(),
        "fc3": nn.Linear(100, num_classes),
    }
    return initialise(nn.Sequential(OrderedDict(layers)), "vs-x")


@model("lenet-5-caffe", source=SOURCE, aliases=("lenet",))
def lenet_5_caffe(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Two valid 5x5 convolutions (20, 50), each followed by 2x2 max pooling and no nonlinearity, then 500 ReLU units.

    431,080 parameters for 28x28 grey images and 10 classes.
    """
    channels, height, width = image_shape(input_shape)
    rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, width))
    if min(rows, columns) < 1:
        raise UserError(f"needs images of at least 16x16 pixels, not {height}x{width}")
    layers: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(channels, 20, 5),
        "pool1": nn.MaxPool2d(2),
        "conv2": nn.Conv2d(20, 50, 5),
        "pool2": nn.MaxPool2d(2),
        "flatten": nn.Flatten(),
        "fc1": nn.Linear(50 * rows * columns, 500),
        "relu1": nn.ReLU(),
        "fc2": nn.Linear(500, num_classes),
    }
    return initialise(nn.Sequential(OrderedDict(layers)), "vs-x")
