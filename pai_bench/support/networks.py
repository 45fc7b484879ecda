"""Networks that have changed: the names and versions by which their results are stored. Imports no torch.

A network that changes raises its version, which is then part of a trial's identity. Some old networks live on under
another name; their results stay where they are, under the name that they had.
"""

from collections.abc import Sequence

STORED_NAMES = {
    f"resnet-{depth}{wide}-identity": f"resnet-{depth}{wide}" for depth in (20, 32, 56) for wide in ("", "-double")
}
"""Network -> the name under which version 1 of its results is stored.

These names then came to stand for the networks of OpenLTH, SynFlow and GraSP, whose shortcuts are convolutions.
"""

NAMES_OF_VERSION_1 = {stored: name for name, stored in STORED_NAMES.items()}

LARGE = 64
"""Pixels from which the networks of the papers are not what they are on CIFAR's images."""

CHANGED_IF_LARGE = (
    *(f"vgg-{depth}-bn" for depth in (11, 13, 16, 19)),
    *("vgg-c", "vgg-d", "vgg-like", "alexnet-s", "alexnet-b"),
)
"""Networks whose version 1 was on large images what it is on small ones."""


def is_large(shape: Sequence[int]) -> bool:
    """Whether the shape is that of images of `LARGE` pixels and more on each side."""
    return len(shape) == 3 and min(shape[1:]) >= LARGE


def version_of(shape: Sequence[int]) -> int:
    """The version on this shape of the networks `CHANGED_IF_LARGE`."""
    return 2 if is_large(shape) else 1


def name_of(stored: str, version: int, shape: Sequence[int] | None = None) -> str:
    """The network that a stored name and version stand for, on inputs of a shape if that is known."""
    if version != 1:
        return stored
    if stored in CHANGED_IF_LARGE and shape and is_large(shape):
        return f"{stored} (version 1)"
    return NAMES_OF_VERSION_1.get(stored, stored)
