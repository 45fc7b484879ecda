"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 through torchvision, and CIFAR-10 from image files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pai_bench.data.dataset import DataSet, Split
from pai_bench.data.images import CIFAR10_ARCHIVE, cifar10_from_images
from pai_bench.data.load import cache_dir
from pai_bench.errors import UserError
from pai_bench.registry import data_set


@dataclass(frozen=True)
class Download:
    """A data set that torchvision knows: its class there, its folder, and how it is called here."""

    name: str
    label: str
    torchvision: str
    folder: str
    num_classes: int

    def __call__(self, data_dir: Path | None = None) -> DataSet:
        root = data_dir or cache_dir() / "data"
        train, test = (self._split(root, train=part, own=data_dir is None) for part in (True, False))
        return DataSet(self.name, train, test, num_classes=self.num_classes, label=self.label)

    def _split(self, root: Path, *, train: bool, own: bool) -> Split:
        """One split from the files under `root`; in our `own` cache, missing files are fetched one by one."""
        from torchvision import datasets

        folder = root / self.folder
        present = folder.is_dir() and any(folder.iterdir())
        try:
            found = getattr(datasets, self.torchvision)(root, train=train, download=own or not present)
        except Exception as error:  # torchvision reports damage as ValueError, RuntimeError, AssertionError, EOFError
            reason = " ".join(str(error).split()) or type(error).__name__
            if present:
                what = f"the files in {folder} are incomplete or damaged ({reason}); delete them, or {CURE}"
            else:
                what = f"no files in {folder}, and the download failed ({reason}); {CURE}"
            raise UserError(f"{self.label}: {what}") from error
        return Split(channels_first(found.data), torch.as_tensor(found.targets, dtype=torch.int64))


CURE = "give a directory that holds them with --data-dir or PAI_BENCH_DATA, or let it download with internet"


def channels_first(images: Tensor | np.ndarray) -> Tensor:
    """uint8 images (N, H, W) or (N, H, W, C) as (N, C, H, W)."""
    tensor = torch.as_tensor(images)
    return (tensor[:, None] if tensor.dim() == 3 else tensor.permute(0, 3, 1, 2)).contiguous()


def _add(download: Download, text: str, source: str) -> None:
    """Register a download under its name, described by `text`."""

    def load(data_dir: Path | None = None) -> DataSet:
        return download(data_dir)

    load.__doc__ = text
    data_set(download.name, source=source)(load)


CIFAR_SOURCE = "Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html"
CIFAR10 = Download("cifar10", "CIFAR-10", "CIFAR10", "cifar-10-batches-py", 10)

_add(
    Download("mnist", "MNIST", "MNIST", "MNIST/raw", 10),
    "Handwritten digits, 28x28 grey, 60,000 training and 10,000 test images.",
    "LeCun et al. 1998, http://yann.lecun.com/exdb/mnist",
)
_add(
    Download("fashion-mnist", "Fashion-MNIST", "FashionMNIST", "FashionMNIST/raw", 10),
    "Articles of clothing, 28x28 grey, 10 classes, 60,000 training and 10,000 test images.",
    "Xiao et al. 2017, arXiv:1708.07747",
)
_add(
    Download("cifar100", "CIFAR-100", "CIFAR100", "cifar-100-python", 100),
    "Photographs, 32x32 colour, 100 classes, 50,000 training and 10,000 test images.",
    CIFAR_SOURCE,
)


@data_set("cifar10", source=CIFAR_SOURCE)
def cifar10(data_dir: Path | None = None) -> DataSet:
    """Photographs, 32x32 colour, 10 classes, 50,000 training and 10,000 test images.

    The binary release; where the data directory holds image files instead, those, under the name ``cifar10-jpeg``.
    """
    if data_dir is not None and not (data_dir / CIFAR10.folder).is_dir():
        for candidate in (data_dir / "cifar10-images", data_dir / CIFAR10_ARCHIVE):
            if candidate.exists():
                return cifar10_from_images(candidate)
    return CIFAR10(data_dir)
