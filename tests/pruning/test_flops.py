"""Floating-point operations: by hand, and beside torch's own counter."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import pai_bench as pb
from pai_bench.pruning.flops import flops


def test_lenet_300_100_by_hand() -> None:
    model = pb.create_model("lenet-300-100", input_shape=(1, 28, 28), num_classes=10)
    found = flops(model, torch.zeros(1, 1, 28, 28))
    assert found.by_weight == {"fc1.weight": 2 * 784 * 300, "fc2.weight": 2 * 300 * 100, "fc3.weight": 2 * 100 * 10}
    assert found.total == 2 * (784 * 300 + 300 * 100 + 100 * 10)
    assert model.training


def test_a_convolution_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, groups=2), nn.Flatten(), nn.Linear(6 * 4 * 4, 5))
    found = flops(model, torch.zeros(1, 4, 9, 9))
    # each of 6 x 4 x 4 outputs sees 2 channels of 3 x 3
    assert found.by_weight == {"0.weight": 2 * 6 * 16 * 2 * 9, "2.weight": 2 * 96 * 5}


@pytest.mark.parametrize("name", ["lenet-5-caffe", "vgg-11-bn", "resnet-20", "torchvision:vit_b_16"])
def test_the_total_is_that_of_torch(name: str) -> None:
    shape = (3, 224, 224) if "vit" in name else (3, 32, 32)
    model, example = pb.create_model(name, input_shape=shape, num_classes=10).eval(), torch.zeros(1, *shape)
    found = flops(model, example)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # whose operations torch does not count
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    assert found.total == counter.get_total_flops()
    weights = {name for name, weight in model.named_parameters() if weight.dim() in (2, 4)}
    assert weights <= found.by_weight.keys()


def test_a_recurrent_layer_counts_every_step() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(5, 7, batch_first=True), nn.Linear(7, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.head(self.lstm(x)[0][:, -1])
            return found

    found = flops(Last(), torch.zeros(1, 11, 5))
    assert found.by_weight["lstm.weight_ih_l0"] == 11 * 2 * 5 * 28
    assert found.by_weight["lstm.weight_hh_l0"] == 11 * 2 * 7 * 28
    assert found.by_weight["head.weight"] == 2 * 7 * 3
