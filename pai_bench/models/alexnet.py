"""AlexNet for small images, as in the SNIP paper: strides in place of pooling."""

from torch import nn

from pai_bench.models.create import InputShape, convolution, hidden, image_shape, sequential, variant
from pai_bench.support.networks import is_large, version_of

SOURCE = "Lee et al. 2019, arXiv:1810.02340, section 5.2"

CONVOLUTIONS = ((96, 11), (256, 5), (384, 3), (384, 3), (256, 3))
"""Channels and window of each, all of stride 2; the first of stride 4 on images of 64x64 and more."""


def alexnet(size: str, units: int) -> None:
    """Register AlexNet-`size`: five convolutions of stride 2, two hidden linear layers, all with BN and ReLU.

    On images of 64x64 and more, the first convolution has a stride of 4, as in the authors' code.
    """
    description = f"Five convolutions of stride 2, and {units} units twice, with batch norm, one linear layer."

    @variant(f"alexnet-{size}", description, source=SOURCE, version=version_of)
    def build(input_shape: InputShape, num_classes: int) -> nn.Module:
        channels, height, width = image_shape(input_shape)
        layers: dict[str, nn.Module] = {}
        for i, (features, window) in enumerate(CONVOLUTIONS, 1):
            stride = 4 if is_large(input_shape) and i == 1 else 2
            layers |= convolution(i, nn.Conv2d(channels, features, window, stride, padding=window // 2))
            channels, height, width = features, -(-height // stride), -(-width // stride)
        layers["flatten"] = nn.Flatten()
        layers |= hidden(6, channels * height * width, units) | hidden(7, units, units)
        layers["fc8"] = nn.Linear(units, num_classes)
        return sequential(layers, "vs-x")


alexnet("s", 1024)
alexnet("b", 2048)
