"""Published parameter counts, shapes, initialisation, and inputs that do not fit."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.graph.flops import flops
from pai_bench.models.create import model_version
from pai_bench.scoring import prunable_parameters
from pai_bench.support.registry import MODELS, PROTOCOLS
from pai_bench.training.step import Step
from pai_bench.training.trainable_groups import SingleModel
from tests.groups.test_whole_networks import FREE
from tests.made import SMALLEST, UNSTRUCTURED

MNIST, CIFAR = (1, 28, 28), (3, 32, 32)
NAMES = [plugin.name for plugin in MODELS.plugins() if not plugin.name.endswith(":")]

HEAVY = {"snip-it-vgg-16"}
"""Networks of so many weights that they take seconds to be made."""

EVERY = [pytest.param(name, marks=[pytest.mark.slow] * (name in HEAVY)) for name in NAMES]


def counts(name: str, shape: tuple[int, ...], classes: int) -> tuple[int, int]:
    """All parameters, and prunable weights."""
    model = pb.create_model(name, input_shape=shape, num_classes=classes, seed=0)
    return sum(p.numel() for p in model.parameters()), sum(p.numel() for p in prunable_parameters(model).values())


@pytest.mark.parametrize(
    ("name", "shape", "classes", "total", "prunable"),
    [
        ("lenet-300-100", MNIST, 10, 266_610, 266_200),
        ("lenet-5-caffe", MNIST, 10, 431_080, 430_500),
        # Tanaka et al. 2020: 14,761,664 weights of VGG-16 for 100 classes; 8,448 parameters of batch norm, 100 biases
        ("vgg-16-bn", CIFAR, 100, 14_761_664 + 8_448 + 100, 14_761_664),
        # He et al. 2016, table 6: 0.27, 0.46 and 0.85 million
        ("resnet-20-identity", CIFAR, 10, 269_722, 268_336),
        ("resnet-32-identity", CIFAR, 10, 464_154, 461_872),
        ("resnet-56-identity", CIFAR, 10, 853_018, 848_944),
        # OpenLTH, SynFlow: with two 1x1 convolutions, 16 -> 32 and 32 -> 64, and their batch norms
        ("resnet-20", CIFAR, 10, 269_722 + 2_560 + 192, 270_896),
        # GraSP: twice as wide
        ("resnet-32-double", CIFAR, 10, 1_860_522, 1_855_584),
        # GraSP for Tiny-ImageNet: 20,018,880 in convolutions, 512 features, 200 classes
        ("vgg-19-bn", (3, 64, 64), 200, 20_121_280 + 11_008 + 200, 20_121_280),
        # SynFlow for Tiny-ImageNet: 14,710,464 in convolutions; 2048 -> 1024 -> 1024 -> 200
        ("vgg-16-bn-tiny", (3, 64, 64), 200, 18_060_992 + 8_448 + 2 * 1_024 + 200, 18_060_992),
        # SNIP-it: all weights; biases; batch norm
        ("snip-it-mlp-5", MNIST, 10, 1_192_960 + 4 * 512 + 10 + 8 * 512, 784 * 512 + 3 * 512 * 512 + 512 * 10),
        (
            *("snip-it-lenet-5", MNIST, 10, 142_110 + 6 + 16 + 120 + 84 + 10 + 2 * (6 + 16 + 120 + 84)),
            25 * (6 + 6 * 16 + 16 * 120) + 9 * 120 * 84 + 84 * 10,
        ),
        (
            *("snip-it-conv-6", CIFAR, 10, 1_802_432 + 3 * 896 + 3 * 512 + 10),
            9 * (3 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 256 * 256) + 9 * 256 * 256 + 256 * 256 + 2560,
        ),
        # Frankle & Carbin 2019: 2,261,184 weights
        ("conv-6", CIFAR, 10, 2_261_184 + 1_418, 2_261_184),
        # Lee et al. 2019: recurrent networks, with one bias vector for each gate
        ("lstm-s", MNIST, 10, 136_586, 135_936),
        ("lstm-b", MNIST, 10, 535_306, 534_016),
        ("gru-s", MNIST, 10, 103_690, 103_168),
        ("gru-b", MNIST, 10, 403_978, 402_944),
    ],
)
def test_parameter_counts(name: str, shape: tuple[int, ...], classes: int, total: int, prunable: int) -> None:
    assert counts(name, shape, classes) == (total, prunable)


@pytest.mark.parametrize("name", ["wrn-22-2", "wrn-22-2-dropout"])
def test_wide_residual_networks_by_hand(name: str) -> None:
    """WRN-22-2: three blocks in each group, whose widths are doubled twice, while sides are halved twice."""
    widths, sides = ((16, 32), (32, 64), (64, 128)), (32, 16, 8)
    weights = [9 * (a * b + 5 * b * b) + a * b for a, b in widths]  # with a 1x1 convolution as the first shortcut
    norms = 2 * (sum(a + 5 * b for a, b in widths) + 128)
    assert weights == [51_200, 204_800, 819_200]
    assert counts(name, CIFAR, 10) == (1_076_912 + norms + 10, 432 + sum(weights) + 1_280) == (1_079_642, 1_076_912)
    model = pb.create_model(name, input_shape=CIFAR, num_classes=10, seed=0).eval()
    products = 32 * 32 * 432 + sum(side**2 * n for side, n in zip(sides, weights, strict=True)) + 1_280
    assert flops(model, torch.zeros(1, *CIFAR)).total == 2 * products == 315_460_096


def test_dropout_of_wide_residual_networks() -> None:
    """It is between the convolutions of a block, and only in training."""
    models = [
        pb.create_model(name, input_shape=CIFAR, num_classes=10, seed=0) for name in ("wrn-22-2", "wrn-22-2-dropout")
    ]
    x = torch.randn(8, *CIFAR, generator=torch.Generator().manual_seed(0))
    plain, dropout = (model.eval()(x) for model in models)
    assert torch.equal(plain, dropout)
    with torch.random.fork_rng():
        plain, dropout = (model.train()(x) for model in models)
    assert not torch.equal(plain, dropout)


@pytest.mark.usefixtures("orthogonal_is_normal")
@pytest.mark.slow
def test_the_large_networks_of_snip_it() -> None:
    """Counted by hand from its code: a stem of 7x7; 1024 channels at the end of VGG-16, and 4096 units twice."""
    blocks = [(64, 64)] * 2 + [(64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    shortcuts = sum(a * b for a, b in blocks if a != b)
    convolutions = 49 * 3 * 64 + sum(9 * (a * b + b * b) for a, b in blocks) + shortcuts
    assert counts("snip-it-resnet-18", CIFAR, 10)[1] == convolutions + 4 * 512 * 256 + 256 * 10
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 1024]
    vgg = sum(9 * a * b for a, b in itertools.pairwise(widths)) + 4 * 1024 * 4096 + 4096 * 4096 + 4096 * 10
    assert counts("snip-it-vgg-16", CIFAR, 10)[1] == vgg == 50_665_152


def test_snip_it_starts_orthogonal_with_the_gain_of_what_follows() -> None:
    model = pb.create_model("snip-it-mlp-5", input_shape=MNIST, num_classes=10, seed=0)
    gain = math.sqrt(2 / (1 + 0.05**2))
    for name, factor in (("fc2", gain), ("fc5", 1.0)):
        weight = model.get_parameter(f"{name}.weight").detach().double()
        torch.testing.assert_close(weight @ weight.T, factor**2 * torch.eye(len(weight)).double(), atol=1e-5, rtol=0)
    assert float(model.get_parameter("fc2.bias").detach().abs().max()) <= 1 / math.sqrt(512)
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.3] * 4
    assert {module.negative_slope for module in model.modules() if isinstance(module, nn.LeakyReLU)} == {0.05}


KINDS = {nn.Conv2d: "C", nn.Linear: "L", nn.Dropout: "D", nn.MaxPool2d: "P", nn.AdaptiveAvgPool2d: "A"}


def order(model: nn.Module) -> str:
    """Convolutions, poolings, dropouts and linear layers of a sequence, a letter each."""
    return "".join(KINDS.get(type(layer), "") for layer in model.children())


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("snip-it-mlp-5", "LDLDLDLDL"),
        ("snip-it-lenet-5", "CPCPCADLDL"),
        ("snip-it-conv-6", "CCPCCPCCADLDLDL"),
        ("vgg-11-bn-tiny", "CPCPCCPCCPCCLDLDL"),  # on 28x28, four poolings leave one pixel
    ],
)
def test_the_order_of_layers(name: str, layers: str) -> None:
    assert order(pb.create_model(name, input_shape=MNIST, num_classes=10, seed=0)) == layers


def test_the_head_of_synflow_is_drawn_as_its_code_does() -> None:
    """Linear layers from N(0, 0.01); dropouts of one half."""
    model = pb.create_model("vgg-11-bn-tiny", input_shape=CIFAR, num_classes=10, seed=0)
    for name in ("fc1.weight", "fc2.weight", "fc3.weight"):
        assert float(model.get_parameter(name).detach().std()) == pytest.approx(0.01, rel=0.05)
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.5] * 2


def test_the_residual_network_of_snip_it() -> None:
    """Sides after stem, pooling and each group; a block is LeakyReLU of a sum, its shortcut without one of its own."""
    model = pb.create_model("snip-it-resnet-18", input_shape=(3, 64, 64), num_classes=10, seed=0).eval()
    sides = {"act1": 32, "pool": 16, "block1_2": 16, "block2_2": 8, "block3_2": 4, "block4_2": 2}
    seen: dict[str, int] = {}
    for name in sides:
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.__setitem__(name, output.shape[-1])
        )
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 10)
    assert seen == sides
    block = model.get_submodule("block2_1")
    x, scale = torch.randn(2, 64, 8, 8), math.sqrt(1 + 1e-5)
    own = {name: parameter.detach() for name, parameter in block.named_parameters()}
    inner = nn.functional.conv2d(x, own["conv1.weight"], own["conv1.bias"], 2, 1) / scale
    inner = nn.functional.conv2d(nn.functional.leaky_relu(inner, 0.05), own["conv2.weight"], own["conv2.bias"], 1, 1)
    expected = (inner + nn.functional.conv2d(x, own["shortcut.0.weight"], None, 2)) / scale
    torch.testing.assert_close(block(x), nn.functional.leaky_relu(expected, 0.05), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["resnet-20", "resnet-20-identity"])
def test_shortcuts_where_the_shape_changes(name: str) -> None:
    """Zeros beside every second pixel, or a 1x1 convolution with batch norm of its own."""
    model = pb.create_model(name, input_shape=CIFAR, num_classes=10, seed=0).eval()
    block = model.get_submodule("block2_1")
    x = torch.randn(2, 16, 8, 8)
    found = block.get_submodule("shortcut")(x)
    if name == "resnet-20":
        kernel = model.get_parameter("block2_1.shortcut.0.weight")
        expected = torch.einsum("oi,nihw->nohw", kernel[:, :, 0, 0], x[:, :, ::2, ::2]) / math.sqrt(1 + 1e-5)
    else:
        expected = torch.cat([x[:, :, ::2, ::2], torch.zeros(2, 16, 4, 4)], 1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("side", [32, 63, 64, 65, 96])
def test_the_last_pooling_of_vgg_is_of_all_pixels_on_large_images(side: int) -> None:
    model = pb.create_model("vgg-11-bn", input_shape=(3, side, side), num_classes=7, seed=0)
    assert model.get_submodule("fc").in_features == 512
    assert model_version("vgg-11-bn", (3, side, side)) == (2 if side >= 64 else 1)
    left = side // 16
    pooling = model.get_submodule("pool5")
    assert isinstance(pooling, nn.AvgPool2d)
    assert pooling.kernel_size == ((left, left) if side >= 64 else 2)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        # Lee et al. 2019, table 2, which does not count batch norm
        ("alexnet-s", 5_070_218),
        ("alexnet-b", 8_490_378),
        ("vgg-c", 10_526_538),
        ("vgg-d", 15_245_130),
        ("vgg-like", 14_982_474),
    ],
)
def test_parameters_of_layers(name: str, published: int) -> None:
    model = pb.create_model(name, input_shape=CIFAR, num_classes=10, seed=0)
    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    assert sum(p.numel() for layer in layers for p in layer.parameters()) == published


@pytest.mark.parametrize("side", [32, 63, 64, 65])
@pytest.mark.parametrize(
    ("name", "small", "large"),
    [("alexnet-s", 2, 4), ("alexnet-b", 2, 4), ("vgg-c", 1, 2), ("vgg-d", 1, 2), ("vgg-like", 1, 2)],
)
def test_the_first_stride_of_snips_networks_is_doubled_on_large_images(
    name: str, small: int, large: int, side: int
) -> None:
    """`init_st` of the authors' code; so the first linear layer has as many inputs at 64x64 as at 32x32."""
    model = pb.create_model(name, input_shape=(3, side, side), num_classes=200, seed=0).eval()
    first, *others = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    assert set(first.stride) == {large if side >= 64 else small}
    assert {stride for module in others for stride in module.stride} == {2 if name.startswith("alexnet") else 1}
    assert model_version(name, (3, side, side)) == (2 if side >= 64 else 1)
    if side in (32, 64):
        linear = next(module for module in model.modules() if isinstance(module, nn.Linear))
        assert linear.in_features == (256 if name.startswith("alexnet") else 512)
    assert model(torch.randn(2, 3, side, side)).shape == (2, 200)


def test_a_recurrent_network_reads_rows_from_top_to_bottom() -> None:
    model = pb.create_model("lstm-s", input_shape=(1, 5, 28), num_classes=10, seed=0).eval()
    x = torch.randn(3, 1, 5, 28)
    inputs, cell, outputs = model.inputs, model.cell, model.outputs
    state, memory = torch.zeros(3, 128), torch.zeros(3, 128)
    for row in x[:, 0].unbind(1):
        gates = inputs(row) @ cell.weight_ih_l0.T + cell.bias_ih_l0 + state @ cell.weight_hh_l0.T  # type: ignore[operator, union-attr]
        let_in, forget, new, out = gates.chunk(4, 1)
        memory = forget.sigmoid() * memory + let_in.sigmoid() * new.tanh()
        state = out.sigmoid() * memory.tanh()
    torch.testing.assert_close(model(x), outputs(state))  # type: ignore[operator]


DEMANDING = {"grasp", "synflow"}
"""Criteria that differentiate twice, or replace weights and input: what the others do of a network is a part of it."""


@pytest.mark.slow
@pytest.mark.usefixtures("orthogonal_is_normal")
@pytest.mark.parametrize(
    ("name", "criterion"),
    [pair for pair in itertools.product(NAMES, UNSTRUCTURED) if pair[0] in SMALLEST or pair[1] in DEMANDING],
)
def test_models_with_criteria(name: str, criterion: str) -> None:
    """Scores, prunes, is checked for connectivity, and trains two steps."""
    side = 28 if name == "snip-it-lenet-5" else 16
    shape = (1, side, side)
    model = pb.create_model(name, input_shape=shape, num_classes=3, seed=0)
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(6, *shape, generator=generator), torch.arange(6) % 3
    mask = pb.prune(model, (inputs, targets), criterion=criterion, sparsity=0.5, schedule="exponential:steps=2")
    assert mask.sparsity == pytest.approx(0.5, abs=1e-3)
    assert pb.connectivity(model, mask, inputs[:1]).connected
    mask.apply_(model)
    program = SingleModel(model, mask)
    step = Step(program, PROTOCOLS["short"])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for _ in range(2):
        losses = step(inputs[None], targets[None], 0.01)
        assert losses.isfinite().all()
    assert any(not torch.equal(before[key], value) for key, value in model.state_dict().items())
    for key, keep in mask.items():
        assert not model.get_parameter(key)[~keep].any()


@pytest.mark.usefixtures("orthogonal_is_normal")
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [MNIST, CIFAR, (3, 40, 28)])
def test_logits_for_every_shape(name: str, shape: tuple[int, ...]) -> None:
    model = pb.create_model(name, input_shape=shape, num_classes=7, seed=0)
    assert model(torch.randn(2, *shape)).shape == (2, 7)


@pytest.mark.usefixtures("orthogonal_is_normal")
@pytest.mark.parametrize("name", EVERY)
def test_initial_weights_are_those_of_the_seed(name: str) -> None:
    before = torch.get_rng_state()
    one, same, other = (pb.create_model(name, input_shape=MNIST, num_classes=10, seed=s) for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    name, *_ = prunable_parameters(one)
    assert torch.equal(one.get_parameter(name), same.get_parameter(name))
    assert not torch.equal(one.get_parameter(name), other.get_parameter(name))


@pytest.mark.parametrize(("name", "gain"), [("lenet-300-100", "glorot"), ("vgg-11-bn", "kaiming")])
def test_initialisation(name: str, gain: str) -> None:
    model = pb.create_model(name, input_shape=CIFAR, num_classes=100, seed=0)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            window = module.weight[0, 0].numel() if module.weight.dim() == 4 else 1
            fan_out, fan_in = module.weight.shape[0] * window, module.weight.shape[1] * window
            variance = 2 / (fan_in + fan_out) if gain == "glorot" else 2 / fan_in
            # the standard error of a variance estimated from n normal draws is sqrt(2 / n) of it
            error = 5 * (2 / module.weight.numel()) ** 0.5
            assert module.weight.var().item() == pytest.approx(variance, rel=error)
            assert module.bias is None or not module.bias.any()
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()


def test_lenet_5_has_no_nonlinearity_after_its_convolutions() -> None:
    model = pb.create_model("lenet-5-caffe", input_shape=MNIST, num_classes=10)
    kinds = [type(module).__name__ for module in model]  # type: ignore[attr-defined]
    assert kinds == ["Conv2d", "MaxPool2d", "Conv2d", "MaxPool2d", "Flatten", "Linear", "ReLU", "Linear"]


def test_vgg_stops_pooling_at_one_pixel() -> None:
    small, large = (pb.create_model("vgg", input_shape=shape, num_classes=10) for shape in (MNIST, CIFAR))
    pools = [[type(m).__name__ for m in model if "Pool" in type(m).__name__] for model in (small, large)]  # type: ignore[attr-defined]
    assert pools == [["MaxPool2d"] * 4, ["MaxPool2d"] * 4 + ["AvgPool2d"]]


def test_option_a_shortcut_subsamples_and_pads_with_zeros() -> None:
    from pai_bench.models.resnet import PaddedShortcut

    x = torch.arange(32.0).reshape(1, 2, 4, 4)
    y = PaddedShortcut(3, 2)(x)
    assert y.shape == (1, 5, 2, 2)
    assert y[0, 0].tolist() == [[0, 2], [8, 10]]
    assert not y[:, 2:].any()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_torchvision(name: str) -> None:
    model = pb.create_model(f"torchvision:{name}", input_shape=MNIST, num_classes=7, seed=0)
    assert model.eval()(torch.randn(2, *MNIST)).shape == (2, 7)


def test_torchvision_for_colour_is_untouched() -> None:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    expected = resnet18(weights=None, num_classes=10)
    found = pb.create_model("torchvision:resnet18", input_shape=CIFAR, num_classes=10, seed=0)
    for a, b in zip(expected.parameters(), found.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_torchvision_classifiers_build_and_have_prunable_weights() -> None:
    """One of each family, built without memory for the weights; their forward pass is checked on the way."""
    failed = []
    for name in FREE:
        try:
            with torch.device("cpu" if name.startswith("regnet") else "meta"):  # regnets read their widths back
                model = pb.create_model(f"torchvision:{name}", input_shape=(1, 224, 224), num_classes=10)
            assert prunable_parameters(model)
        except (pb.UserError, RuntimeError, NotImplementedError) as error:
            failed.append(f"{name}: {error}")
    assert not failed


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("lenet", (1, 8, 8), "at least 16x16 pixels, not 8x8"),
        ("lenet", (10,), r"needs images of shape \(channels, height, width\)"),
        ("vgg", (10,), "model vgg-11-bn: needs images"),
        ("torchvision:alexnet", MNIST, "model torchvision:alexnet: does not take images of shape"),
    ],
)
def test_inputs_that_do_not_fit(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(pb.UserError, match=message):
        pb.create_model(name, input_shape=shape, num_classes=10)


def test_a_function_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef net(shape, classes):\n    return nn.Flatten()\nx = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(pb.create_model("module:mine:net", input_shape=MNIST, num_classes=10), nn.Flatten)
    for name, why in (
        ("gone:net", "No module named 'gone'"),
        ("mine:gone", "no attribute 'gone'"),
        ("mine:x", "no func"),
        ("mine", "no func"),
    ):
        with pytest.raises(pb.UserError, match=why):
            pb.create_model(f"module:{name}", input_shape=MNIST, num_classes=10)
