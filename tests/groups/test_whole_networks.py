"""Of each family of networks one, of pai-bench and of torchvision, without 30 % of what is free.

All networks: `python -m benchmarks.structured`.
"""

import pytest

from benchmarks.structured import Row, measure
from tests.made import SMALLEST

FREE = {
    **{"alexnet": 9344, "convnext_tiny": 26496, "densenet121": 10240, "efficientnet_b0": 21388, "googlenet": 7280},
    **{"inception_v3": 17216, "maxvit_t": 44320, "mnasnet0_5": 6240, "mobilenet_v2": 9920, "mobilenet_v3_small": 7512},
    **{"regnet_y_400mf": 18784, "resnet18": 4800, "resnext50_32x4d": 34112, "shufflenet_v2_x0_5": 2512},
    **{"squeezenet1_0": 2976, "swin_t": 17664, "swin_v2_t": 23808, "vgg11_bn": 10944, "vit_b_16": 64512},
}
"""Network -> rows of its weights that can be removed.

Of a ResNet all channels but the 1,000 outputs; of a transformer the hidden units of its MLPs, and heads, unless a bias
of relative positions is added to them; of a ShuffleNet those whose shuffles do not tie all of a layer.
"""

OF_ONE_SIDE = {"maxvit_t", "vit_b_16"}
"""Networks that take images of one side only; others are quicker with smaller ones."""

OTHER_BLOCKS = {"resnet-50", "snip-it-conv-6", "snip-it-resnet-18", "vgg-11-bn-tiny", "vgg-c", "wrn-16-8"}
"""Networks with other layers than the smallest of their family."""


def holds(row: Row) -> None:
    assert row.difference <= row.limit == (1e-10 if row.parameters <= 100_000_000 else 1e-5)
    assert row.parameters_left < row.parameters
    assert row.flops_left < row.flops


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", FREE)
def test_a_smaller_classifier_of_torchvision_computes_what_the_masked_one_does(name: str) -> None:
    row = measure(f"torchvision:{name}", None if name in OF_ONE_SIDE else 80)
    holds(row)
    assert row.free == FREE[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALLEST | OTHER_BLOCKS))
def test_a_smaller_network_of_ours_computes_what_the_masked_one_does(name: str) -> None:
    row = measure(name)
    holds(row)
    assert row.fixed["the network's output"] == 10
    assert row.free == row.units - 10 or name == "vit-small"
