"""The classifiers of torchvision, one of each family, without 30 % of what is free: the same function, in float64."""

import pytest
import torch
import torchvision

from pai_bench.groups import GroupMask, find_groups
from pai_bench.groups.find import difference, fill, restore_last

FREE = {
    **{"alexnet": 9344, "convnext_tiny": 26496, "densenet121": 10240, "efficientnet_b0": 21388, "googlenet": 7280},
    **{"inception_v3": 17216, "maxvit_t": 44320, "mnasnet0_5": 6240, "mobilenet_v2": 9920, "mobilenet_v3_small": 7512},
    **{"regnet_y_400mf": 18784, "resnet18": 4800, "resnext50_32x4d": 34112, "shufflenet_v2_x0_5": 2512},
    **{"squeezenet1_0": 2976, "swin_t": 17664, "swin_v2_t": 23808, "vgg11_bn": 10944, "vit_b_16": 64512},
    "wide_resnet50_2": 34112,
}
"""Network -> rows of its weights that can be removed.

Of a ResNet all channels but the 1,000 outputs; of a transformer the hidden units of its MLPs, and heads, unless a bias
of relative positions is added to them; of a ShuffleNet those whose shuffles do not tie all of a layer.
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", FREE)
def test_a_smaller_network_computes_what_the_masked_one_does(name: str) -> None:
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network = torchvision.models.get_model(name, weights=None, **options).double().eval()
    generator = torch.Generator().manual_seed(0)
    fill(network, generator)
    side = 299 if name == "inception_v3" else 256 if name == "swin_v2_t" else 224
    example = torch.randn(1, 3, side, side, generator=generator, dtype=torch.float64)
    groups = find_groups(network, example)
    assert sum(int((of >= 0).sum()) for axis, of in groups.by_axis.items() if axis in groups.roots) == FREE[name]
    assert all(reasons for reasons in groups.fixed.values())
    kept = torch.rand(groups.count, generator=generator) >= 0.3
    restore_last(groups, kept)
    assert difference(network, GroupMask(groups, kept), example) is None
