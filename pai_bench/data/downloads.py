"""Data sets that torchvision can fetch, CIFAR-10 also from image files, and Tiny-ImageNet."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pai_bench.data.dataset import DataSet, Split
from pai_bench.data.facts import Facts
from pai_bench.data.images import File, decoded_archive, decoded_folder
from pai_bench.data.load import Arrays, as_data_set, cache_dir
from pai_bench.support.errors import UserError
from pai_bench.support.registry import data_set


@dataclass(frozen=True)
class Download:
    """A data set that torchvision knows: its name here and for people, its class and folder there, its facts."""

    name: str
    label: str
    torchvision: str
    folder: str
    facts: Facts

    def __call__(self, data_dir: Path | None = None) -> DataSet:
        """The data set from the files in `data_dir`; in our own cache, missing files are fetched one by one."""
        root, splits = data_dir or cache_dir() / "data", {}
        for part in ("train", "test"):
            with naming_folder(self.label, root / self.folder) as present:
                download = data_dir is None or not present
                images, targets = read(self.torchvision, root, train=part == "train", download=download)
            splits[part] = Split(channels_first(images), torch.as_tensor(targets, dtype=torch.int64))
        return DataSet(self.name, splits["train"], splits["test"], num_classes=self.facts.classes, label=self.label)


def read(torchvision: str, root: Path, *, train: bool, download: bool) -> tuple[Tensor | np.ndarray, Any]:
    """Images, (N, H, W) or (N, H, W, C), and classes, as a class of torchvision reads them from below `root`."""
    from torchvision import datasets

    if torchvision == "SVHN":
        split = datasets.SVHN(str(root / torchvision), split="train" if train else "test", download=download)
        return split.data.transpose(0, 2, 3, 1), split.labels
    reader = getattr(datasets, torchvision)
    if issubclass(reader, datasets.MNIST):  # from raw/ alone: processed/, of old versions, would be read unchecked
        # its name is the folder's
        reader = type(reader.__name__, (reader,), {"_check_legacy_exist": lambda _: False})
    split = reader(root, train=train, download=download)
    return split.data, split.targets


@contextmanager
def naming_folder(label: str, folder: Path) -> Iterator[bool]:
    """A block that reads or fetches what is in `folder`: whether anything is there; errors name it and the cure."""
    present = folder.is_dir() and any(folder.iterdir())
    try:
        yield present
    except UserError:
        raise
    except Exception as error:  # torchvision reports damage as ValueError, RuntimeError, AssertionError, EOFError
        reason = " ".join(str(error).split()) or type(error).__name__
        if present:
            what = f"the files in {folder} are incomplete or damaged ({reason}); delete them, or {ADVICE}"
        else:
            what = f"no files in {folder}, and the download failed ({reason}); {ADVICE}"
        raise UserError(f"{label}: {what}") from error


ADVICE = "give a directory that holds them with --data-dir or PAI_BENCH_DATA, or let it download with internet"


def channels_first(images: Tensor | np.ndarray) -> Tensor:
    """uint8 images (N, H, W) or (N, H, W, C) as (N, C, H, W)."""
    tensor = torch.as_tensor(images)
    return (tensor[:, None] if tensor.dim() == 3 else tensor.permute(0, 3, 1, 2)).contiguous()


def _add(download: Download, description: str, source: str) -> None:
    """Register a download under its name."""

    def load(data_dir: Path | None = None) -> DataSet:
        return download(data_dir)

    load.__doc__ = description
    data_set(download.name, source=source, facts=download.facts)(load)


CIFAR_SOURCE = "Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html"
CIFAR10_FACTS = Facts((3, 32, 32), 10, 50_000, 10_000, "flip-crop", also=("cifar10-jpeg",))
CIFAR10 = Download("cifar10", "CIFAR-10", "CIFAR10", "cifar-10-batches-py", CIFAR10_FACTS)
CIFAR100_FACTS = Facts((3, 32, 32), 100, 50_000, 10_000, "flip-crop")
LIKE_MNIST = Facts((1, 28, 28), 10, 60_000, 10_000)

_add(
    Download("mnist", "MNIST", "MNIST", "MNIST/raw", LIKE_MNIST),
    "Handwritten digits, 28x28 grey, 60,000 training and 10,000 test images.",
    "LeCun et al. 1998, http://yann.lecun.com/exdb/mnist",
)
_add(
    Download("fashion-mnist", "Fashion-MNIST", "FashionMNIST", "FashionMNIST/raw", LIKE_MNIST),
    "Articles of clothing, 28x28 grey, 10 classes, 60,000 training and 10,000 test images.",
    "Xiao et al. 2017, arXiv:1708.07747",
)
_add(
    Download("kmnist", "KMNIST", "KMNIST", "KMNIST/raw", LIKE_MNIST),
    "Cursive Japanese characters, 28x28 grey, 10 classes, 60,000 training and 10,000 test images.",
    "Clanuwat et al. 2018, arXiv:1812.01718",
)
_add(
    Download("svhn", "SVHN", "SVHN", "SVHN", Facts((3, 32, 32), 10, 73_257, 26_032)),
    "House numbers, 32x32 colour, 10 classes, 73,257 training and 26,032 test images.",
    "Netzer et al. 2011, http://ufldl.stanford.edu/housenumbers",
)
_add(
    Download("cifar100", "CIFAR-100", "CIFAR100", "cifar-100-python", CIFAR100_FACTS),
    "Photographs, 32x32 colour, 100 classes, 50,000 training and 10,000 test images.",
    CIFAR_SOURCE,
)


@data_set("cifar10", source=CIFAR_SOURCE, facts=CIFAR10_FACTS)
def cifar10(data_dir: Path | None = None) -> DataSet:
    """Photographs, 32x32 colour, 10 classes, 50,000 training and 10,000 test images.

    The binary release; where the data directory holds image files instead, those, under the name ``cifar10-jpeg``.
    """
    if data_dir is not None and not (data_dir / CIFAR10.folder).is_dir():
        for candidate in (data_dir / "cifar10-images", data_dir / "cifar10-images.tar.gz"):
            if candidate.exists():
                arrays = decoded_folder(candidate) if candidate.is_dir() else decoded_archive(candidate)
                return published(arrays, candidate, CIFAR10_FACTS, name="cifar10-jpeg", label="CIFAR-10 (JPEG)")
    return CIFAR10(data_dir)


TINY, TINY_ADDRESS = "tiny-imagenet-200", "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_FACTS = Facts((3, 64, 64), 200, 100_000, 10_000, "flip-crop", also=(TINY,))
IMAGENETTE_FACTS = Facts((3, 128, 128), 10, 9_469, 3_925, "flip-crop")


@data_set("tiny-imagenet", source=f"Le and Yang 2015, {TINY_ADDRESS}", facts=TINY_FACTS)
def tiny_imagenet(data_dir: Path | None = None) -> DataSet:
    """Photographs, 64x64 colour, 200 classes, 100,000 training images; the 10,000 for validation are the test set.

    From the folder ``tiny-imagenet-200`` as it is published, with ``val/val_annotations.txt``.
    """
    root = data_dir or cache_dir() / "data"
    with naming_folder("Tiny-ImageNet", root / TINY) as present:
        if not present:
            from torchvision.datasets.utils import download_and_extract_archive

            download_and_extract_archive(TINY_ADDRESS, str(root))
        arrays = decoded_folder(root / TINY, tiny_files(root / TINY), TINY_FACTS.shape[1])
    return published(arrays, root / TINY, TINY_FACTS, name="tiny-imagenet", label="Tiny-ImageNet")


def tiny_files(root: Path) -> Iterator[File]:
    """The images of Tiny-ImageNet with their classes, those for validation by the list of their names."""
    for path in sorted((root / "train").glob("*/images/[!.]*.JPEG")):
        yield PurePath("train", path.parts[-3], path.name), path
    for line in (root / "val" / "val_annotations.txt").read_text(encoding="utf-8").splitlines():
        if line.strip():
            name, label, *_box = line.split("\t")
            yield PurePath("test", label, name), root / "val" / "images" / name


@data_set(
    "imagenette",
    source="https://github.com/fastai/imagenette, the second version at 160 pixels",
    facts=IMAGENETTE_FACTS,
)
def imagenette(data_dir: Path | None = None) -> DataSet:
    """Photographs of 10 easy classes of ImageNet, 9,469 training and 3,925 test images.

    Their middle, scaled to 128x128 in colour, from the folder ``imagenette2-160``.
    """
    root = data_dir or cache_dir() / "data"
    folder = root / "imagenette2-160"
    with naming_folder("Imagenette", folder) as present:
        if not present:
            from torchvision import datasets

            datasets.Imagenette(root, size="160px", download=True)
        arrays = decoded_folder(folder, side=IMAGENETTE_FACTS.shape[1])
    return published(arrays, folder, IMAGENETTE_FACTS, name="imagenette", label="Imagenette")


def published(arrays: Arrays, folder: Path, facts: Facts, *, name: str, label: str) -> DataSet:
    """The data set read from `folder`, if it is whole: a part of it must not go by its name."""
    sizes = len(arrays["train_targets"]), len(arrays["test_targets"])
    if sizes != (facts.train, facts.test):
        right = f"not {facts.train:,} and {facts.test:,}; delete it, or {ADVICE}"
        raise UserError(f"{label}: {folder} has {sizes[0]:,} training and {sizes[1]:,} test images, {right}")
    return as_data_set(arrays, name=name, num_classes=facts.classes, label=label)
