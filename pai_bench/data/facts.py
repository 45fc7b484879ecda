"""What is known of a data set before it is read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """Shape of an example, number of classes, sizes, and what published protocols do to training images.

    They stand with the registration of a data set. Normalisation is the same for all: each channel with mean 0 and
    deviation 1 over the training images.
    """

    shape: tuple[int, ...]
    classes: int
    train: int
    test: int
    augmentation: str = "none"
    also: tuple[str, ...] = ()
    """Other names under which results on it are stored, as of a copy in another format."""
