"""Networks of timm, for the channels and sizes of the data."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.models.adapters import adapt_channels, refusing
from pai_bench.scoring import prunable_parameters

pytestmark = pytest.mark.filterwarnings("ignore")  # timm's own


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_050"])
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 64, 64)])
def test_timm_networks_take_the_data_as_it_is(name: str, shape: tuple[int, ...]) -> None:
    model = pb.create_model(f"timm:{name}", input_shape=shape, num_classes=7, seed=0)
    assert model(torch.zeros(2, *shape)).shape == (2, 7)
    assert len(prunable_parameters(model)) > 10
    same = pb.create_model(f"timm:{name}", input_shape=shape, num_classes=7, seed=0)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), same.parameters(), strict=True))


def test_mistakes_about_timm_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(pb.UserError, match="unknown network of timm 'resnet188': did you mean resnet18"):
        pb.create_model("timm:resnet188", input_shape=(3, 32, 32), num_classes=2)
    with pytest.raises(pb.UserError, match="does not take images of shape"):
        pb.create_model("timm:inception_v3", input_shape=(3, 16, 16), num_classes=2)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(pb.UserError, match=r"needs the package timm: pip install 'pai-bench\[timm\]'"):
        pb.create_model("timm:resnet18", input_shape=(3, 32, 32), num_classes=2)


def test_functions_that_build_no_network_are_named() -> None:
    def number(_shape: tuple[int, ...], _classes: int) -> int:
        return 3

    def broken(_shape: tuple[int, ...], _classes: int) -> torch.nn.Module:
        return torch.nn.Linear("a", 3)  # type: ignore[arg-type]

    for build, said in ((number, "returns int, not an nn.Module"), (broken, "cannot be built for inputs .*TypeError")):
        with pytest.raises(pb.UserError, match=f"model {build.__name__}.* {said}"):
            pb.create_model(build, input_shape=(4,), num_classes=2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "said"), [("import sys; sys.exit(0)", "SystemExit: 0"), ("{}['key']", "KeyError: 'key'")]
)
def test_a_module_that_breaks_or_leaves_is_named(text: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    name = f"breaks_{abs(hash(text))}"
    Path(f"{name}.py").write_text(text)
    with pytest.raises(pb.UserError, match=f"module:{name}:build cannot be imported .{said}"):
        pb.create_model(f"module:{name}:build", input_shape=(4,), num_classes=2)


@pytest.mark.parametrize("groups", [1, 3])
def test_the_first_convolution_is_that_of_the_channels_of_the_data(groups: int) -> None:
    network = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Conv2d(3, 6, 3, groups=groups)), nn.Conv2d(6, 4, 3))
    first, second = (one for one in network.modules() if isinstance(one, nn.Conv2d))
    before = first.weight
    adapt_channels(network, 3)
    assert first.weight is before
    adapt_channels(network, 9)
    assert (first.in_channels, tuple(first.weight.shape)) == (9, (6, 9 // groups, 3, 3))
    assert (second.in_channels, tuple(second.weight.shape)) == (6, (4, 6, 3, 3))
    assert bool(first.weight.abs().max() <= (9 // groups * 9) ** -0.5)  # as torch draws it
    assert network(torch.ones(1, 9, 8, 8)).shape == (1, 4, 4, 4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("googlenet", {"aux_logits": False, "init_weights": True}),
        ("inception_v3", {"aux_logits": False, "init_weights": True}),
        ("vit_b_16", {"image_size": 64}),
        ("resnet18", {}),
    ],
)
def test_options_of_torchvision(name: str, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    given: dict[str, Any] = {}

    def get_model(_name: str, **options: Any) -> nn.Module:
        given.update(options)
        return nn.Conv2d(3, 7, 3)

    monkeypatch.setattr(models, "get_model", get_model)
    network = pb.create_model(f"torchvision:{name}", input_shape=(3, 64, 64), num_classes=7)
    assert given == {"weights": None, "num_classes": 7, **expected}
    assert network.training  # also after its size was checked


def test_an_operation_that_is_not_implemented_says_nothing_about_the_size() -> None:
    with pytest.raises(NotImplementedError), refusing((1, 2, 3)):
        raise NotImplementedError
    with pytest.raises(pb.UserError, match=r"^does not take images of shape \(1, 2, 3\): no$"), refusing((1, 2, 3)):
        raise RuntimeError("no")
