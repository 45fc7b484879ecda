"""Networks of other packages, ``torchvision:NAME`` and ``timm:NAME``, without pretrained weights, and one's own."""

import functools
import importlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pai_bench.models.create import Builder, InputShape, image_shape
from pai_bench.support import files
from pai_bench.support.errors import UserError, unknown
from pai_bench.support.registry import model

EXTRA_OPTIONS: dict[str, dict[str, Any]] = {
    # their auxiliary heads would return tuples
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


@model("torchvision:", source="torchvision.models")
def torchvision_model(name: str) -> Builder:
    """A builder of the torchvision classifier `name`, its first convolution adapted to the number of channels."""
    from torchvision import models

    if name not in (names := models.list_models(module=models)):
        raise unknown("torchvision classifier", name, names)

    def build(input_shape: InputShape, num_classes: int) -> nn.Module:
        channels, height, _ = image_shape(input_shape)
        options = EXTRA_OPTIONS.get(name, {}) | ({"image_size": height} if name.startswith("vit_") else {})
        with refusing(input_shape):
            built: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **options)
        adapt_channels(built, channels)
        check_size(built, input_shape)
        return built

    build.__name__ = f"torchvision:{name}"  # for messages
    return build


@model("timm:", source="the package timm, an extra: pip install 'pai-bench[timm]'")
def timm_model(name: str) -> Builder:
    """A builder of the classifier `name` of timm, for the number of channels and, where it asks for one, the size."""
    try:
        import timm
    except ImportError as error:
        raise UserError(f"timm:{name} needs the package timm: pip install 'pai-bench[timm]' ({error})") from error
    if name not in (names := timm.list_models()):
        raise unknown("network of timm", name, names)

    def build(input_shape: InputShape, num_classes: int) -> nn.Module:
        channels, height, width = image_shape(input_shape)
        made = functools.partial(timm.create_model, name, pretrained=False, num_classes=num_classes, in_chans=channels)
        with refusing(input_shape):
            try:
                built: nn.Module = made(img_size=(height, width))  # transformers are made for one size
            except TypeError:
                built = made()
        check_size(built, input_shape)
        return built

    build.__name__ = f"timm:{name}"  # for messages
    return build


def adapt_channels(network: nn.Module, channels: int) -> None:
    """Make the first convolution take `channels` input channels, freshly initialised, if it takes another number."""
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is not None and first.in_channels != channels:
        first.in_channels = channels
        first.weight = nn.Parameter(torch.empty(first.out_channels, channels // first.groups, *first.kernel_size))
        first.reset_parameters()


def check_size(network: nn.Module, input_shape: InputShape) -> None:
    """Refuse inputs that do not pass through `network`, found out on the meta device, without arithmetic."""
    from torch.func import functional_call

    state = {k: v.to("meta") for k, v in network.state_dict(keep_vars=True).items()}
    training = network.training
    network.eval()
    try:
        # an operation without a meta version says nothing about the size
        with suppress(NotImplementedError), refusing(input_shape):
            functional_call(network, state, torch.empty(2, *input_shape, device="meta"))
    finally:
        network.train(training)


@contextmanager
def refusing(input_shape: InputShape) -> Iterator[None]:
    """A block whose errors say that a network does not take such images."""
    try:
        yield
    except NotImplementedError:
        raise
    except (ValueError, RuntimeError, AssertionError) as error:
        raise UserError(f"does not take images of shape {input_shape}: {error}") from error


@model("module:", source="a function of yours")
def own_model(place: str) -> Builder:
    """The function at ``path.to:function``, which takes input shape and number of classes and returns a network.

    Modules of the current folder are found, too.
    """
    path, _, name = place.partition(":")
    try:
        with files.importing_from(Path.cwd()):
            target: object = importlib.import_module(path)
        for part in name.split(".") if name else ():
            target = getattr(target, part)
    except (Exception, SystemExit) as error:  # a module of one's own may have any mistake in it, or be a script
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"module:{place} cannot be imported ({what}); it is module:PATH.TO:FUNCTION") from error
    return files.checked_function(target, f"module:{place}", "model")
