"""Folders and archives of image files: ``folder:PATH``, and CIFAR-10 as JPEG."""

import dataclasses
import io
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from pai_bench.data.dataset import DataSet
from pai_bench.data.load import Loader, as_data_set, decoded_once
from pai_bench.errors import UserError
from pai_bench.registry import data_set

CIFAR10_ARCHIVE = "cifar10-images.tar.gz"
CIFAR10_SIZES = (50_000, 10_000)
SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"))
TEST_NAMES = ("test", "val")

File = tuple[PurePath, Callable[[], bytes]]
"""A path ``PART/CLASS/FILE`` and a function that reads the bytes."""


@data_set("folder:", source="folders of images: PATH/train/CLASS/*.png and PATH/test/CLASS/*.png (or val)")
def folder(path: str) -> Loader:
    """The images under `path`. Named by the folder and a checksum, so that the name holds no path of the machine."""
    root = Path(path).expanduser()

    def load(data_dir: Path | None = None) -> DataSet:
        base = root if root.is_absolute() or root.is_dir() or data_dir is None else data_dir / root
        if not base.is_dir():
            raise UserError(f"folder {path} does not exist")
        tensors = decoded_folder(base)
        label, num_classes = base.resolve().name, int(tensors["train_targets"].max()) + 1
        found = as_data_set(tensors, name=label, num_classes=num_classes, label=label)
        return dataclasses.replace(found, name=f"folder:{label}@{found.checksum[:8]}")

    return load


def cifar10_from_images(source: Path) -> DataSet:
    """CIFAR-10 from ``{train,test}/CLASS/*.jpg``, a folder or a .tar.gz; pixels differ slightly from the original."""
    if source.is_dir():
        tensors = decoded_folder(source)
    else:
        stamp = f"{source.resolve()} {source.stat().st_size} {source.stat().st_mtime_ns}"
        tensors = decoded_once(stamp, lambda: decode(archive_files(source), str(source)))
    sizes = len(tensors["train_targets"]), len(tensors["test_targets"])
    if sizes != CIFAR10_SIZES:
        raise UserError(
            f"{source} holds {sizes[0]} training and {sizes[1]} test images, not the 50,000 and 10,000 of CIFAR-10"
        )
    return as_data_set(tensors, name="cifar10-jpeg", num_classes=10, label="CIFAR-10 (JPEG)")


def decoded_folder(root: Path) -> dict[str, torch.Tensor]:
    """The images under `root`, decoded once for as long as no file is added, removed or changed."""
    files = list(folder_files(root))
    stats = [(root / path).stat() for path, _ in files]
    stamp = "\n".join(f"{p} {s.st_size} {s.st_mtime_ns}" for (p, _), s in zip(files, stats, strict=True))
    return decoded_once(f"{root.resolve()}\n{stamp}", lambda: decode(files, str(root)))


def folder_files(root: Path) -> Iterator[File]:
    """The image files under `root`, at any depth below ``PART/CLASS/``, by path relative to it."""
    classes = {path.name for path in (root / "train").glob("*/")}
    tests = [name for name in TEST_NAMES if any(path.name in classes for path in (root / name).glob("*/"))]
    for part in ("train", *tests[:1]):  # of two, val is neither for training nor for the test
        for path in sorted((root / part).glob("*/**/*")):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                yield path.relative_to(root), path.read_bytes


def archive_files(archive: Path) -> Iterator[File]:
    """The image files in a tar archive, by the last three parts of their path."""
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                path = PurePath(*PurePath(member.name).parts[-3:])
                if member.isfile() and path.suffix.lower() in SUFFIXES and len(path.parts) == 3:
                    file = tar.extractfile(member)
                    assert file is not None
                    content = file.read()
                    yield path, lambda content=content: content  # type: ignore[misc]
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{archive} is truncated or no tar archive ({error}); fetch it again") from error


def decode(files: Iterable[File], where: str) -> dict[str, torch.Tensor]:
    """Decode ``PART/CLASS/FILE`` images into uint8 tensors ``{train,test}_{inputs,targets}``, in order of path."""
    images: dict[str, list[tuple[PurePath, np.ndarray]]] = {"train": [], "test": []}
    for path, read in files:
        part = "test" if path.parts[0] in TEST_NAMES else path.parts[0]
        if part in images:
            images[part].append((path, decode_image(path, read())))
    classes = sorted({path.parts[1] for path, _ in images["train"]})
    first = next(iter(images["train"]), None)
    if first is None or not images["test"]:
        missing = "train" if first is None else " or ".join(TEST_NAMES)
        raise UserError(f"{where} has no images in {missing}/CLASS/")
    tensors = {}
    for part, found in images.items():
        found.sort(key=lambda pair: pair[0])
        for path, image in found:
            if image.shape != first[1].shape:
                shapes = f"{image.shape}, but {first[0]} is {first[1].shape}"
                raise UserError(f"{where}: {path} is {shapes}; all images must have one size and as many channels")
            if path.parts[1] not in classes:
                raise UserError(f"{where}: class {path.parts[1]!r} of {path} has no training images")
        tensors[f"{part}_inputs"] = torch.from_numpy(np.stack([i for _, i in found])).permute(0, 3, 1, 2).contiguous()
        tensors[f"{part}_targets"] = torch.tensor([classes.index(p.parts[1]) for p, _ in found])
    return tensors


def decode_image(path: PurePath, content: bytes) -> np.ndarray:
    """An image as uint8 (height, width, channels): one channel if it is grey, otherwise three."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            array = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"{path} cannot be read as an image ({error})") from error
    return array[:, :, None] if array.ndim == 2 else array
