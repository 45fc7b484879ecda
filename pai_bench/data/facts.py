"""One table of what is known of the data sets before any of them is read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """Shape of an example, number of classes, sizes, and what published protocols do to training images.

    Normalisation is the same for all: each channel with mean 0 and deviation 1 over the training images.
    """

    shape: tuple[int, ...]
    classes: int
    train: int
    test: int
    augmentation: str = "none"


FACTS = {
    "digits": Facts((1, 28, 28), 10, 1_347, 450),
    "mnist": Facts((1, 28, 28), 10, 60_000, 10_000),
    "fashion-mnist": Facts((1, 28, 28), 10, 60_000, 10_000),
    "kmnist": Facts((1, 28, 28), 10, 60_000, 10_000),
    "cifar10": Facts((3, 32, 32), 10, 50_000, 10_000, "flip-crop"),
    "cifar100": Facts((3, 32, 32), 100, 50_000, 10_000, "flip-crop"),
    "svhn": Facts((3, 32, 32), 10, 73_257, 26_032),
    "tiny-imagenet": Facts((3, 64, 64), 200, 100_000, 10_000, "flip-crop"),
    "imagenette": Facts((3, 128, 128), 10, 9_469, 3_925, "flip-crop"),
}
"""Name -> facts; a folder or a data set of a plugin has none here."""
