"""Floating-point operations: by hand, and beside torch's own counter."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import pai_bench as pb
from pai_bench.graph.connectivity import Connections
from pai_bench.graph.flops import flops


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


def test_a_vision_transformer_by_hand() -> None:
    model = pb.create_model("torchvision:vit_b_16", input_shape=(3, 224, 224), num_classes=10)
    found = flops(model, torch.zeros(1, 3, 224, 224))
    patches, width = 14 * 14, 768
    tokens = patches + 1  # and the class token
    layer = {
        "self_attention.in_proj_weight": 2 * tokens * width * 3 * width,
        "self_attention.out_proj.weight": 2 * tokens * width * width,
        "mlp.0.weight": 2 * tokens * width * 4 * width,
        "mlp.3.weight": 2 * tokens * 4 * width * width,
    }
    expected = {"conv_proj.weight": 2 * patches * width * 3 * 16 * 16, "heads.head.weight": 2 * width * 10}
    for index in range(12):
        expected |= {f"encoder.layers.encoder_layer_{index}.{name}": count for name, count in layer.items()}
    assert found.by_weight == expected
    # of each of 12 heads of 64: every query with every key, and every share of attention with every value
    attention = 12 * (2 * tokens * tokens * 64 + 2 * tokens * tokens * 64)
    assert attention == 119_221_248
    assert found.total == sum(expected.values()) + 12 * attention == 35_126_135_808


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_count_is_the_same_in_any_gradient_mode(mode: Callable[[], AbstractContextManager[None]]) -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(4, 5), nn.Linear(5, 3))
    with mode():
        found = flops(model, torch.zeros(1, 1, 4))
    assert found.by_weight == {"0.weight": 2 * 2 * 2 * 3, "2.weight": 2 * 4 * 5, "3.weight": 2 * 5 * 3}


class Attention(nn.Module):
    """Two heads of 4, of 5 tokens, by a kernel of one's choice."""

    def __init__(self, kernel: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.project, self.kernel, self.head = nn.Linear(8, 24), kernel, nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        found: Tensor = self.head(self.kernel(query, key, value).transpose(1, 2).flatten(2))
        return found


def chosen(backend: SDPBackend) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Attention by the kernel that `backend` has for the device."""

    def run(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(query, key, value, is_causal=True)

    return run


ATEN = torch.ops.aten
KERNELS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "flash": lambda q, k, v: ATEN._scaled_dot_product_flash_attention(q, k, v, 0.0, True)[0],
    "flash_for_cpu": lambda q, k, v: ATEN._scaled_dot_product_flash_attention_for_cpu(q, k, v, is_causal=True)[0],
    "efficient": lambda q, k, v: ATEN._scaled_dot_product_efficient_attention(q, k, v, None, True)[0],
    "cudnn": lambda q, k, v: ATEN._scaled_dot_product_cudnn_attention(q, k, v, None, True, is_causal=True)[0],
    "overrideable": lambda q, k, v: ATEN._scaled_dot_product_fused_attention_overrideable(q, k, v)[0],
}
"""All that torch may take, most of which are on GPUs only; shapes alone can be followed on the device meta."""


@pytest.mark.parametrize(
    ("kernel", "device"),
    [
        (chosen(SDPBackend.MATH), "cpu"),
        (chosen(SDPBackend.FLASH_ATTENTION), "cpu"),
        *((k, "meta") for k in KERNELS.values()),
    ],
)
def test_attention_is_counted_whichever_kernel_computes_it(
    kernel: Callable[[Tensor, Tensor, Tensor], Tensor], device: str
) -> None:
    found = flops(Attention(kernel).to(device), torch.zeros(1, 5, 8, device=device))
    assert found.by_weight == {"project.weight": 2 * 5 * 8 * 24, "head.weight": 2 * 5 * 8 * 2}
    assert found.total == 2 * 5 * 8 * 24 + 2 * 5 * 8 * 2 + 2 * (2 * 5 * 5 * 4 + 2 * 5 * 5 * 4)


def test_keys_that_several_heads_share_are_counted_for_each() -> None:
    """Four heads of queries, two of keys and values."""

    def shared(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return KERNELS["flash"](query.repeat(1, 2, 1, 1), key, value)[:, ::2]

    found = flops(Attention(shared).to("meta"), torch.zeros(1, 5, 8, device="meta"))
    assert found.total == 2 * 5 * 8 * 24 + 2 * 5 * 8 * 2 + 4 * (2 * 5 * 5 * 4 + 2 * 5 * 5 * 4)


def test_a_count_that_fails_leaves_the_network_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Dropout(), nn.Linear(3, 3))
    with pytest.raises(pb.UserError, match="does not fit the model in '2', a Linear"):
        flops(model, torch.zeros(1, 5))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("name", ["lenet-5-caffe", "vgg-11-bn", "resnet-20", "torchvision:vit_b_16"])
def test_the_total_is_that_of_torch(name: str) -> None:
    shape = (3, 224, 224) if "vit" in name else (3, 32, 32)
    model, example = pb.create_model(name, input_shape=shape, num_classes=10).eval(), torch.zeros(1, *shape)
    found = flops(model, example)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # whose operations torch does not count
    try:
        # nor does it count those of the kernel of attention that it takes on a CPU
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            model(example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    assert found.total == counter.get_total_flops()
    weights = {name for name, weight in model.named_parameters() if weight.dim() in (2, 4)}
    assert weights <= found.by_weight.keys()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_recurrent_layer_counts_every_step(device: str) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(5, 7, batch_first=True), nn.Linear(7, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.head(self.lstm(x)[0][:, -1])
            return found

    found = flops(Last().to(device), torch.zeros(1, 11, 5, device=device))
    assert found.by_weight["lstm.weight_ih_l0"] == 11 * 2 * 5 * 28
    assert found.by_weight["lstm.weight_hh_l0"] == 11 * 2 * 7 * 28
    assert found.by_weight["head.weight"] == 2 * 7 * 3


def test_a_trace_of_two_examples_counts_one() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3)).eval()
    connections = Connections(model, torch.zeros(1, 5))  # batch norm has no statistics of a single one
    assert len(connections.trace.input) == 2
    assert connections.flops.by_weight == {"0.weight": 2 * 5 * 4, "2.weight": 2 * 4 * 3}
    assert connections.flops.total == 64


def test_a_product_with_a_weight_of_two_parameters_is_shared_between_them() -> None:
    class Learned(nn.Linear):
        def __init__(self) -> None:
            super().__init__(6, 8)
            self.scores = nn.Parameter(torch.ones(8, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, self.weight * self.scores, self.bias)

    found = flops(Learned(), torch.zeros(1, 6))
    assert found.total == 2 * 6 * 8
    assert found.by_weight == {"weight": 2 * 6 * 8, "scores": 2 * 6 * 8}
    assert found.shares == {"weight": 6 * 8, "scores": 6 * 8}


def test_a_count_leaves_nothing_in_the_network() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Dropout(), nn.Linear(4, 3))
    flops(model, torch.zeros(1, 5))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(module.training for module in model.modules())
