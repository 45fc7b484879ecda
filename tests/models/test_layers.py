"""Every layer of every network, by name: windows, strides, paddings and biases that no count of parameters tells."""

import itertools

import pytest
import torch
from torch import Tensor, nn

import pai_bench as pb
from pai_bench.models.recurrent import RowByRow
from pai_bench.models.resnet import BasicBlock, Bottleneck, PaddedShortcut, PreactivatedBlock
from pai_bench.models.vit import SmallViT, patch_side
from pai_bench.support.registry import MODELS

MNIST, CIFAR, TINY = (1, 28, 28), (3, 32, 32), (3, 64, 64)


def token(layer: nn.Module) -> str:
    """A layer in a few characters: channels or units, window, and what differs from stride 1, no padding, no bias."""
    match layer:
        case nn.Conv2d():
            (window, _), (stride, _), padding = layer.kernel_size, layer.stride, layer.padding[0]
            parts = f"s{stride}" * (stride != 1), f"p{padding}" * (padding != 0), "b" * (layer.bias is not None)
            return f"{layer.out_channels}c{window}" + "".join(parts)
        case nn.Linear():
            return f"{layer.out_features}L" + "!" * (layer.bias is None)
        case nn.MaxPool2d():
            return f"M{layer.kernel_size}" + (f"s{layer.stride}p{layer.padding}" if layer.padding else "")
        case nn.AvgPool2d() | nn.AdaptiveAvgPool2d():
            sizes = layer.kernel_size if isinstance(layer, nn.AvgPool2d) else layer.output_size
            return ("A" if isinstance(layer, nn.AvgPool2d) else "G") + f"{sizes}".replace(" ", "")
        case nn.Dropout():
            return f"D{layer.p}"
        case nn.LeakyReLU():
            return f"Y{layer.negative_slope}"
        case PaddedShortcut():
            return f"Z{layer.extra_channels}s{layer.stride}"
    short = {nn.BatchNorm2d: "B", nn.BatchNorm1d: "B", nn.ReLU: "R", nn.Flatten: "F", nn.Identity: "I"}
    return short[type(layer)]


def layers(model: nn.Module) -> list[str]:
    """All layers with their names, in order."""
    return [f"{name}:{token(one)}" for name, one in model.named_modules() if not [*one.children()]]


def plain(text: str, *, convolution: str = "{0}:{1} bn{2}:B relu{2}:R") -> list[str]:
    """``1_1=64c3p1`` is a convolution conv1_1, with what follows it; the rest stands as it is."""
    found = []
    for part in text.split():
        place, equals, conv = part.partition("=")
        found += convolution.format(f"conv{place}", conv, place).split() if equals else [part]
    return found


def vgg(depths: str, tail: str, *, conv: str = "c3p1", third: str = "c3p1", pools: str = "MMMMA") -> list[str]:
    """Five blocks of so many convolutions, each with a pooling of 2x2."""
    text = ""
    for block, (depth, features, pool) in enumerate(zip(depths, (64, 128, 256, 512, 512), pools, strict=True), 1):
        for i in range(1, int(depth) + 1):
            text += f"{block}_{i}={features}{third if i == 3 else conv} "
        text += f"pool{block}:{pool}2 "
    return plain(text + tail)


def alexnet(units: int, first: str = "s2") -> list[str]:
    text = f"1=96c11{first}p5b 2=256c5s2p2b 3=384c3s2p1b 4=384c3s2p1b 5=256c3s2p1b flatten:F "
    text += f"fc6:{units}L bn6:B relu6:R fc7:{units}L bn7:B relu7:R fc8:10L"
    return plain(text)


def resnet(first: int, groups: list[list[str]]) -> list[str]:
    """A stem, and groups of blocks, each given by its layers with their names."""
    found = [f"conv:{first}c3p1", "bn:B", "relu:R"]
    for group, blocks in enumerate(groups, 1):
        for block, text in enumerate(blocks, 1):
            found += [f"block{group}_{block}.{layer}" for layer in text.split()]
    return [*found, "pool:G1", "flatten:F", "fc:10L"]


def basic(features: int, stride: str = "", shortcut: str = "shortcut:I") -> str:
    return f"conv1:{features}c3{stride}p1 bn1:B conv2:{features}c3p1 bn2:B {shortcut}"


def deep(features: int, stride: str = "", shortcut: str = "shortcut:I") -> str:
    head = f"conv1:{features}c1 bn1:B conv2:{features}c3{stride}p1 bn2:B"
    return f"{head} conv3:{4 * features}c1 bn3:B {shortcut}"


def projection(features: int, stride: str = "s2") -> str:
    return f"shortcut.0:{features}c1{stride} shortcut.1:B"


def cifar(blocks: int, width: int, *, padded: bool) -> list[str]:
    """Three groups of so many blocks."""
    groups = [[basic(width)] * blocks]
    for features in (2 * width, 4 * width):
        changed = f"shortcut:Z{features // 2}s2" if padded else projection(features)
        groups.append([basic(features, "s2", changed), *[basic(features)] * (blocks - 1)])
    return resnet(width, groups)


def wide(blocks: int, widening: int, dropout: str = "") -> list[str]:
    found = ["conv:16c3p1"]
    for group, base in enumerate((16, 32, 64), 1):
        n = base * widening
        for block in range(1, blocks + 1):
            stride = "s2" if group > 1 and block == 1 else ""
            text = (
                f"bn1:B conv1:{n}c3{stride}p1 bn2:B conv2:{n}c3p1" + f" shortcut:{n}c1{stride}" * (block == 1) + dropout
            )
            found += [f"block{group}_{block}.{layer}" for layer in text.split()]
    return [*found, "bn:B", "relu:R", "pool:G1", "flatten:F", "fc:10L"]


SNIP_IT = "{0}:{1} bn{2}:B act{2}:Y0.05"


def snip_it(text: str, units: tuple[int, ...]) -> list[str]:
    """Layers, then linear ones of so many units behind dropouts."""
    found = plain(text, convolution=SNIP_IT)
    for i, n in enumerate(units, 1):
        found += f"drop{i}:D0.3 fc{i}:{n}L fcbn{i}:B fcact{i}:Y0.05".split()
    return [*found, "drop:D0.3", "fc:10L"]


def snip_it_resnet() -> list[str]:
    found = plain("1=64c7s2p3 pool:M3s2p1", convolution=SNIP_IT)
    for group, n in enumerate((64, 128, 256, 512), 1):
        for block in (1, 2):
            stride = "s2" if group > 1 and block == 1 else ""
            shortcut = projection(n) if stride else "shortcut:I"
            text = f"conv1:{n}c3{stride}p1b bn1:B conv2:{n}c3p1b bn2:B act:Y0.05 {shortcut}"
            found += [f"block{group}_{block}.{layer}" for layer in text.split()]
    return [*found, "places:G2", "flatten:F", *snip_it("", (256,))]


def mlp(units: int, between: str) -> list[str]:
    parts = [f"fc{i}:{units}L {between.format(i)}" for i in range(1, 5)]
    return " ".join(["flatten:F", *parts, "fc5:10L"]).split()


FC_512 = "fc1:512L bn1:B relu1:R fc2:512L bn2:B relu2:R fc:10L"
TINY_HEAD = "flatten:F fc1:{0}L relu1:R drop1:D0.5 fc2:{0}L relu2:R drop2:D0.5 fc3:10L"
PAIRS = "1=64c3p1b 2=64c3p1b pool1:M2 3=128c3p1b 4=128c3p1b pool2:M2 5=256c3p1b 6=256c3p1b"


def imagenet(counts: tuple[int, ...]) -> list[str]:
    """ResNet-18 and -34."""
    groups = [[basic(64)] * counts[0]]
    for n, count in zip((128, 256, 512), counts[1:], strict=True):
        groups.append([basic(n, "s2", projection(n)), *[basic(n)] * (count - 1)])
    return resnet(64, groups)


RESNET_50 = [
    [deep(64, "", projection(256, "")), *[deep(64)] * 2],
    *([deep(n, "s2", projection(4 * n)), *[deep(n)] * more] for n, more in ((128, 3), (256, 5), (512, 2))),
]


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("lenet-300-100", MNIST, plain("flatten:F fc1:300L relu1:R fc2:100L relu2:R fc3:10L")),
        (
            *("lenet-5-caffe", MNIST),
            plain("conv1:20c5b pool1:M2 conv2:50c5b pool2:M2 flatten:F fc1:500L relu1:R fc2:10L"),
        ),
        ("mlp-5", MNIST, mlp(300, "relu{0}:R")),
        (
            *("conv-6", CIFAR),
            plain(
                f"{PAIRS} pool3:M2 flatten:F fc1:256L relu7:R fc2:256L relu8:R fc3:10L", convolution="{0}:{1} relu{2}:R"
            ),
        ),
        ("vgg-11-bn", CIFAR, vgg("11222", "flatten:F fc:10L")),
        ("vgg-13-bn", CIFAR, vgg("22222", "flatten:F fc:10L")),
        ("vgg-16-bn", CIFAR, vgg("22333", "flatten:F fc:10L")),
        ("vgg-19-bn", CIFAR, vgg("22444", "flatten:F fc:10L")),
        ("vgg-11-bn-tiny", CIFAR, vgg("11222", TINY_HEAD.format(256), pools="MMMMM")),
        ("vgg-16-bn-tiny", TINY, vgg("22333", TINY_HEAD.format(1024), pools="MMMMM")),
        ("vgg-c", CIFAR, vgg("22333", f"flatten:F {FC_512}", conv="c3p1b", third="c1b", pools="MMMMM")),
        ("vgg-d", CIFAR, vgg("22333", f"flatten:F {FC_512}", conv="c3p1b", third="c3p1b", pools="MMMMM")),
        (
            *("vgg-like", CIFAR),
            vgg("22333", "flatten:F fc1:512L bn1:B relu1:R fc:10L", conv="c3p1b", third="c3p1b", pools="MMMMM"),
        ),
        ("alexnet-s", CIFAR, alexnet(1024)),
        ("alexnet-b", TINY, alexnet(2048, "s4")),
        ("resnet-20", CIFAR, cifar(3, 16, padded=False)),
        ("resnet-20-identity", CIFAR, cifar(3, 16, padded=True)),
        ("resnet-32-double", CIFAR, cifar(5, 32, padded=False)),
        ("resnet-56-double-identity", CIFAR, cifar(9, 32, padded=True)),
        ("resnet-18", CIFAR, imagenet((2, 2, 2, 2))),
        ("resnet-34", CIFAR, imagenet((3, 4, 6, 3))),
        ("resnet-50", CIFAR, resnet(64, RESNET_50)),
        ("wrn-16-8", CIFAR, wide(2, 8)),
        ("wrn-16-10", CIFAR, wide(2, 10)),
        ("wrn-22-8", CIFAR, wide(3, 8)),
        ("wrn-22-2", CIFAR, wide(3, 2)),
        ("wrn-22-2-dropout", CIFAR, wide(3, 2, " dropout:D0.3")),
        ("snip-it-mlp-5", MNIST, mlp(512, "bn{0}:B act{0}:Y0.05 drop{0}:D0.3")),
        (
            *("snip-it-lenet-5", MNIST),
            snip_it("1=6c5p2b pool1:M2 2=16c5b pool2:M2 3=120c5b places:G3 flatten:F", (84,)),
        ),
        ("snip-it-conv-6", CIFAR, snip_it(f"{PAIRS} places:G3 flatten:F", (256, 256))),
        (
            *("snip-it-vgg-16", CIFAR),
            snip_it(
                "1_1=64c3p1b 1_2=64c3p1b pool1:M2 2_1=128c3p1b 2_2=128c3p1b pool2:M2 3_1=256c3p1b 3_2=256c3p1b "
                "3_3=256c3p1b pool3:M2 4_1=512c3p1b 4_2=512c3p1b 4_3=512c3p1b pool4:M2 5_1=512c3p1b 5_2=512c3p1b "
                "5_3=1024c3p1b places:G2 flatten:F",
                (4096, 4096),
            ),
        ),
        ("snip-it-resnet-18", CIFAR, snip_it_resnet()),
    ],
)
def test_layers_by_name(name: str, shape: tuple[int, ...], expected: list[str]) -> None:
    with torch.device("meta"):  # nothing is drawn
        assert layers(pb.create_model(name, input_shape=shape, num_classes=10)) == expected


def test_every_network_has_its_layers_looked_at() -> None:
    """Here, or below; those of three groups by some of their depths and widths."""
    (marks,) = [mark for mark in test_layers_by_name.pytestmark if mark.name == "parametrize"]  # type: ignore[attr-defined]
    seen = {name for name, *_ in marks.args[1]} | {"vit-small", *(f"{a}-{b}" for a in ("lstm", "gru") for b in "sb")}
    seen |= {f"resnet-{n}{w}{i}" for n in (20, 32, 56) for w in ("", "-double") for i in ("", "-identity")}
    seen |= {"vgg-13-bn-tiny", "vgg-19-bn-tiny"}
    assert {
        p.name for p in MODELS.plugins() if p.target.__module__.startswith("pai_bench.") and p.name[-1] != ":"
    } == seen


def normalised(x: Tensor, bn: Tensor | nn.Module) -> Tensor:
    """Batch norm by its running statistics."""
    assert isinstance(bn, nn.BatchNorm2d)
    mean, variance, gamma, beta = (
        bn.state_dict()[key].view(-1, 1, 1) for key in ("running_mean", "running_var", "weight", "bias")
    )
    found: Tensor = (x - mean) / (variance + 1e-5).sqrt() * gamma + beta
    return found


@pytest.mark.parametrize("kind", ["basic", "bottleneck", "preactivated"])
@pytest.mark.parametrize("stride", [1, 2])
def test_blocks_by_hand(kind: str, stride: int) -> None:
    """He et al. 2016, figures 2 and 5; Zagoruyko & Komodakis 2016, figure 1: where norm, ReLU and sum stand."""
    torch.manual_seed(0)
    features = 4 if stride == 1 else 6
    blocks: dict[str, nn.Module] = {
        "basic": BasicBlock(4, features, stride, padded=False),
        "bottleneck": Bottleneck(4, features // 2, stride, padded=False),
        "preactivated": PreactivatedBlock(4, features, stride),
    }
    block = blocks[kind].double().eval()
    for name, tensor in block.state_dict().items():
        if tensor.dim() == 1:
            nn.init.uniform_(tensor, 0.5, 1.5) if "mean" not in name else nn.init.normal_(tensor)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    convs = [one for one in block.children() if isinstance(one, nn.Conv2d)]
    norms = [one for one in block.children() if isinstance(one, nn.BatchNorm2d)]
    if kind == "preactivated":
        active = normalised(x, norms[0]).relu()
        inner = convs[1](normalised(convs[0](active), norms[1]).relu())
        expected = inner + (x if stride == 1 else convs[2](active))
    else:
        out = x
        for i, (conv, norm) in enumerate(zip(convs, norms, strict=True)):
            out = normalised(conv(out if i == 0 else out.relu()), norm)
        shortcut = block.get_submodule("shortcut")
        if isinstance(shortcut, nn.Sequential):
            expected = (out + normalised(shortcut[0](x), shortcut[1])).relu()
        else:
            expected = (out + x).relu()
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(
    ("side", "patch"), [(1, 1), (7, 1), (15, 1), (16, 2), (17, 1), (28, 2), (32, 4), (36, 4), (64, 8)]
)
def test_patches_are_as_large_as_leave_eight_along_a_side(side: int, patch: int) -> None:
    assert patch_side(side) == patch


def test_the_vision_transformer() -> None:
    model = pb.create_model("vit-small", input_shape=(3, 32, 28), num_classes=10, seed=0)
    assert isinstance(model, SmallViT)
    assert (model.patches.kernel_size, model.patches.stride, model.patches.out_channels) == ((4, 2), (4, 2), 128)
    assert model.places.shape == (8 * 14, 128)
    assert float(model.places.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert len(model.layers) == 6
    for layer in model.layers:
        assert isinstance(layer, nn.TransformerEncoderLayer)
        assert (layer.self_attn.num_heads, layer.linear1.out_features, layer.dropout.p) == (4, 256, 0.0)
        assert layer.self_attn.batch_first
        assert layer.norm_first
        assert layer.activation is nn.functional.gelu
    first, second = (model.layers[i].linear1.weight for i in (0, 1))  # type: ignore[union-attr]
    assert not torch.equal(first, second)  # type: ignore[arg-type]
    model.layers, model.norm = nn.Sequential(), nn.Identity()  # type: ignore[assignment]
    x = torch.randn(2, 3, 32, 28)
    expected = model.head(model.patches(x).flatten(2).mean(2) + model.places.mean(0))
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(("kind", "gates"), [("lstm", 4), ("gru", 3)])
@pytest.mark.parametrize(("size", "units"), [("s", 128), ("b", 256)])
def test_recurrent_networks_read_rows_of_all_channels(kind: str, gates: int, size: str, units: int) -> None:
    model = pb.create_model(f"{kind}-{size}", input_shape=(2, 3, 5), num_classes=10, seed=0)
    assert isinstance(model, RowByRow)
    assert (model.inputs.in_features, model.inputs.out_features, model.outputs.in_features) == (10, units, units)
    assert type(model.cell) is {"lstm": nn.LSTM, "gru": nn.GRU}[kind]
    buffers = dict(model.named_buffers())
    assert [(name, tensor.shape, bool(tensor.any())) for name, tensor in buffers.items()] == [
        ("cell.bias_hh_l0", (gates * units,), False)
    ]
    x = torch.randn(4, 2, 3, 5)
    rows = torch.stack([torch.cat([x[:, 0, row], x[:, 1, row]], 1) for row in range(3)], 1)
    torch.testing.assert_close(model(x), model.outputs(model.cell(model.inputs(rows))[0][:, 2]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("vgg-16-bn", "13 3x3 convolutions of 64 to 512 channels with batch norm, one linear layer."),
        ("vgg-c", "13 convolutions, three of them 1x1, and 3 linear layers, with batch norm."),
        ("vgg-like", "13 convolutions and 2 linear layers, with batch norm."),
        (
            "resnet-20-double",
            "Three groups of 3 blocks, 32, 64 and 128 channels, 1x1 convolutions with batch norm as shortcuts.",
        ),
        (
            "resnet-56-identity",
            "Three groups of 9 blocks, 16, 32 and 64 channels, shortcuts without parameters (option A).",
        ),
        ("vgg-11-bn-tiny", "8 3x3 convolutions with batch norm, three linear layers with dropout."),
        ("alexnet-b", "Five convolutions of stride 2, and 2048 units twice, with batch norm, one linear layer."),
        ("gru-s", "Rows of an image through a linear layer and a GRU layer of 128 units."),
        ("resnet-50", "Four groups of 16 blocks, 1x1 shortcuts; a 3x3 stem without pooling."),
        ("wrn-22-8", "Three groups of 3 pre-activated blocks, 8 times as wide as ResNet-20."),
        (
            "wrn-22-2-dropout",
            "Three groups of 3 pre-activated blocks, 2 times as wide as ResNet-20, with a dropout of 0.3.",
        ),
    ],
)
def test_what_is_said_of_networks(name: str, text: str) -> None:
    assert MODELS.find(name)[0].target.__doc__ == text


def test_what_builds_a_network_is_called_like_it() -> None:
    """It may be given itself in place of its name, and stands in messages then."""
    made = [plugin for plugin in MODELS.plugins() if "<locals>" in plugin.target.__qualname__]
    assert len(made) > 30
    for plugin in made:
        assert plugin.target.__name__ == plugin.name
    assert MODELS.find("torchvision:alexnet")[0].target("alexnet").__name__ == "torchvision:alexnet"


def test_sources_of_residual_networks() -> None:
    """Depth and option A are He's; convolutions as shortcuts are others', and so is twice the width."""
    he, codes = (
        "He et al. 2016, arXiv:1512.03385, section 4.2",
        "with the shortcuts of OpenLTH and of Tanaka et al. 2020",
    )
    sources = {
        "resnet-20-identity": he,
        "resnet-20-double-identity": f"{he}, twice as wide",
        "resnet-20": f"{he}, {codes}, arXiv:2006.05467",
        "wrn-22-2": "Zagoruyko & Komodakis 2016, arXiv:1605.07146",
        "wrn-22-2-dropout": "Zagoruyko & Komodakis 2016, arXiv:1605.07146, with the dropout of the code of Evci et al. "
        "2020, arXiv:1911.11134",
        "resnet-20-double": f"{he}, with the width and shortcuts of Wang et al. 2020, arXiv:2002.07376",
    }
    assert {name: MODELS.find(name)[0].source for name in sources} == sources


@pytest.mark.parametrize(
    ("name", "least", "message"),
    [("lenet-5-caffe", 16, "16x16"), ("conv-6", 8, "8x8"), ("snip-it-lenet-5", 28, "28x28")],
)
def test_the_smallest_images(name: str, least: int, message: str) -> None:
    for shape in itertools.permutations((least, least - 1)):
        with pytest.raises(pb.UserError, match=f"at least {message} pixels, not {shape[0]}x{shape[1]}"):
            pb.create_model(name, input_shape=(1, *shape), num_classes=3)
    model = pb.create_model(name, input_shape=(1, least, least), num_classes=3).eval()
    assert model(torch.zeros(2, 1, least, least)).shape == (2, 3)
