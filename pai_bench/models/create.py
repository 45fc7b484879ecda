"""From a name to a network, and what the modules of networks share."""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from torch import nn

from pai_bench.support import files
from pai_bench.support.errors import UserError
from pai_bench.support.failures import described
from pai_bench.support.initialise import initialise
from pai_bench.support.randomness import random_state
from pai_bench.support.registry import MODELS, model

InputShape = tuple[int, ...]
"""Shape of one example, channels first: (channels, height, width) for images."""

Builder = Callable[[InputShape, int], nn.Module]
"""A function of input shape and number of classes that returns a freshly initialised network of logits."""


def find_model(name: str) -> tuple[str, Builder]:
    """The canonical name behind `name` (an alias, perhaps) and the function that builds the network."""
    plugin, argument = MODELS.find(name)
    return plugin.name + argument, plugin.given(argument)


def model_version(name: str | Builder, input_shape: InputShape) -> int:
    """The version, on inputs of this shape, of the network called `name`, or made by a function of one's own."""
    if not isinstance(name, str):
        return files.version_of(name)
    plugin, argument = MODELS.find(name)
    version = plugin.version(input_shape) if callable(plugin.version) else plugin.version
    return files.version_of(plugin.target(argument), version) if argument else version


def create_model(
    name: str | Builder,
    *,
    input_shape: InputShape,
    num_classes: int,
    seed: int | None = None,
    init: str = "own",
) -> nn.Module:
    """The network called `name`, or made by a function of one's own: freshly initialised, on the CPU.

    With `seed` its initial weights are those of that seed, and the global random states are left as they were. They are
    drawn as the network has it, or by the `init` of that name (`pai_bench.support.initialise`).
    """
    refuse_instance(name)
    label, build = find_model(name) if isinstance(name, str) else (getattr(name, "__name__", "model"), name)
    with nullcontext() if seed is None else random_state(seed):
        return _built(label, build, input_shape, num_classes, init)


def refuse_instance(model: object) -> None:
    """An error for a network in the place of what builds one."""
    if isinstance(model, nn.Module):
        raise UserError(
            f"a model is a name or a function that builds one, not a network such as this {type(model).__name__}: "
            "every seed draws weights of its own; give a function of input_shape and num_classes that returns it"
        )


def _built(label: str, build: Builder, input_shape: InputShape, num_classes: int, init: str) -> nn.Module:
    try:
        check_signature(build)
        model = build(input_shape, num_classes)
        if not isinstance(model, nn.Module):
            raise UserError(f"the function returns {type(model).__name__}, not an nn.Module")
        return model if init == "own" else initialise(model, init)
    except UserError as error:
        raise UserError(f"model {label}: {error}") from error
    except Exception as error:
        what = f"cannot be built for inputs of shape {input_shape} and {num_classes} classes"
        raise UserError(f"model {label} {what}: {described(error)}") from error


def check_signature(build: Builder) -> None:
    """Refuse a function that cannot be called with the shape of an input and the number of classes."""
    try:
        signature = inspect.signature(build)
    except (TypeError, ValueError):  # not every function has one
        return
    try:
        signature.bind((), 0)
    except TypeError as error:
        raise UserError(f"the function must take the shape of an input and the number of classes: {error}") from error


def image_shape(input_shape: InputShape) -> tuple[int, int, int]:
    """`input_shape` as (channels, height, width), or an error."""
    if len(input_shape) != 3:
        raise UserError(f"needs images of shape (channels, height, width), not inputs of shape {input_shape}")
    channels, height, width = input_shape
    return channels, height, width


def sequential(layers: Mapping[str, nn.Module], init: str | None = None) -> nn.Module:
    """Named layers one after the other, with weights drawn by the initialisation `init`, or as they are."""
    model = nn.Sequential(OrderedDict(layers))
    return model if init is None else initialise(model, init)


def convolution(label: object, convolution: nn.Conv2d, *, inplace: bool = False) -> dict[str, nn.Module]:
    """A convolution with batch norm and ReLU, their names ending in `label`."""
    norm, relu = nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace)
    return {f"conv{label}": convolution, f"bn{label}": norm, f"relu{label}": relu}


def hidden(label: object, inputs: int, units: int) -> dict[str, nn.Module]:
    """A linear layer with batch norm and ReLU, their names ending in `label`."""
    return {f"fc{label}": nn.Linear(inputs, units), f"bn{label}": nn.BatchNorm1d(units), f"relu{label}": nn.ReLU()}


def variant(name: str, description: str, **facts: Any) -> Callable[[Builder], Builder]:
    """Register, as `model` does, one of several networks of the same code; `description` becomes its docstring."""

    def decorate(build: Builder) -> Builder:
        build.__name__, build.__doc__ = name, description
        return model(name, **facts)(build)

    return decorate
