"""Folders and archives of image files: ``folder:PATH``, and CIFAR-10 as JPEG."""

import dataclasses
import io
import logging
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

import numpy as np
from PIL import Image, ImageOps

from pai_bench.data.dataset import DataSet
from pai_bench.data.load import Arrays, Loader, as_data_set, decoded_once
from pai_bench.support.errors import UserError, reason
from pai_bench.support.registry import data_set

logger = logging.getLogger(__name__)

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"))
FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP")
"""What Pillow may decode, whatever a file is called; of others, some start programs, as EPS starts Ghostscript."""

TEST_NAMES = ("test", "val")

File = tuple[PurePath, Path | bytes]
"""``PART/CLASS/FILE``, and where the file is, or what is in it."""


@data_set("folder:", source="folders of images: PATH/train/CLASS/*.png and PATH/test/CLASS/*.png (or val)")
def folder(path: str) -> Loader:
    """The images under `path`. Named by the folder and a checksum, so that the name holds no path of the machine."""
    root = Path(os.path.expanduser(path))  # unlike a Path's, without an error for users that are not known

    def load(data_dir: Path | None = None) -> DataSet:
        base = root if root.is_absolute() or os.path.isdir(root) or data_dir is None else data_dir / root
        if not os.path.isdir(base):
            raise UserError(f"folder {path} does not exist")
        arrays = decoded_folder(base)
        label = base.resolve().name.encode("utf-8", "replace").decode()  # the name of a folder may be no UTF-8
        data = as_data_set(arrays, name=label, num_classes=int(arrays["train_targets"].max()) + 1, label=label)
        return dataclasses.replace(data, name=f"folder:{label}@{data.checksum[:8]}")

    return load


def decoded_archive(archive: Path) -> Arrays:
    """The images ``PART/CLASS/FILE`` in a tar archive, decoded once for as long as it is not changed."""
    stamp = f"{archive.resolve()} {archive.stat().st_size} {archive.stat().st_mtime_ns}"
    return decoded_once(stamp, lambda arrays: decode(archive_files(archive), str(archive), arrays))


def decoded_folder(root: Path, files: Iterable[File] | None = None, side: int | None = None) -> Arrays:
    """The images under `root`, decoded once for as long as no file is added, removed or changed."""
    content = list(folder_files(root) if files is None else files)
    stats = [(path, file.stat()) for path, file in content if isinstance(file, Path)]
    stamp = "\n".join(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)
    return decoded_once(f"{root.resolve()}\n{side}\n{stamp}", lambda arrays: decode(content, str(root), arrays, side))


def folder_files(root: Path) -> Iterator[File]:
    """The image files under `root`, at any depth below ``PART/CLASS/``, by path relative to it."""
    classes = {path.name for path in shown_folders(root / "train")}
    tests = [name for name in TEST_NAMES if any(path.name in classes for path in shown_folders(root / name))]
    for part in ("train", *tests[:1]):  # of two, val is neither for training nor for the test
        images: list[Path] = []
        for folder in shown_folders(root / part):
            of_class = list(images_below(folder, frozenset([root.resolve(), (root / part).resolve()])))
            if not of_class and part == "train":
                what = f"no images ({', '.join(sorted(SUFFIXES))}) in train/{folder.name}/"
                raise UserError(f"{root} has {what}: remove that class, or add some")
            images += of_class
        yield from ((path.relative_to(root), path) for path in sorted(images))


def shown_folders(folder: Path) -> list[Path]:
    """The folders in a folder that are not hidden, by name; none if it is not there."""
    return sorted(path for path in folder.glob("*/") if not path.name.startswith("."))


def images_below(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """The files in a folder, or a link to one, with the name of an image that can be read; hidden ones are left out.

    `above` are the folders that it is in, without links.
    """
    if (real := folder.resolve()) in above:
        raise UserError(f"{folder} leads back to a folder that it is in: remove the link")
    try:
        content = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be read ({reason(error)})") from error
    for path in content:
        if path.is_dir():
            yield from images_below(path, above | {real})
        elif path.suffix.lower() in SUFFIXES:
            if path.is_file():
                yield path
            else:
                logger.warning("%s is left out: it is a link to nothing, or no file", path)


def archive_files(archive: Path) -> Iterator[File]:
    """The image files in a tar archive, by the last three parts of their path."""
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                path = PurePath(*PurePath(member.name).parts[-3:])
                hidden = any(part.startswith(".") for part in path.parts)  # as what systems leave behind
                if member.isfile() and path.suffix.lower() in SUFFIXES and len(path.parts) == 3 and not hidden:
                    file = tar.extractfile(member)
                    assert file is not None
                    yield path, file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{archive} is truncated or no tar archive ({error}); fetch it again") from error


def decode(files: Iterable[File], where: str, arrays: Arrays, side: int | None = None) -> None:
    """Decode ``PART/CLASS/FILE`` images into uint8 arrays ``{train,test}_{inputs,targets}``, in order of path.

    With a `side`, every image is cut to a square in its middle, scaled to it, and in colour.
    """
    images: dict[str, list[File]] = {"train": [], "test": []}
    for path, content in files:
        part = "test" if path.parts[0] in TEST_NAMES else path.parts[0]
        if part in images:
            images[part].append((path, content))
    if not images["train"] or not images["test"]:
        missing = " or ".join(TEST_NAMES) if images["train"] else "train"
        raise UserError(f"{where} has no images in {missing}/CLASS/")
    classes = sorted({path.parts[1] for path, _ in images["train"]})
    if len(classes) < 2:
        raise UserError(f"{where} has one class, {classes[0]!r}, in train/: to tell classes apart, there must be two")
    for path, _ in images["test"]:
        if path.parts[1] not in classes:
            raise UserError(f"{where}: class {path.parts[1]!r} of {path} has no training images")
    first = min(images["train"], key=lambda pair: pair[0])
    height, width, channels = shape = decode_image(*first, side).shape
    for part, split in images.items():
        split.sort(key=lambda pair: pair[0])
        inputs = arrays.new(f"{part}_inputs", (len(split), channels, height, width))
        for i, (path, content) in enumerate(split):
            if (image := decode_image(path, content, side)).shape != shape:
                shapes = f"{image.shape}, but {first[0]} is {shape}"
                raise UserError(f"{where}: {path} is {shapes}; all images must have one size and as many channels")
            inputs[i] = image.transpose(2, 0, 1)
        arrays.new(f"{part}_targets", (len(split),), np.int64)[:] = [classes.index(p.parts[1]) for p, _ in split]


def decode_image(path: PurePath, content: Path | bytes, side: int | None = None) -> np.ndarray:
    """An image as uint8 (height, width, channels): one channel if it is grey, otherwise three, and with `side` too."""
    try:
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                raise UserError(f"{path} has pixels of mode {image.mode}; images need 8 bits in each channel")
            if side is not None:
                array = np.asarray(ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BILINEAR))
            else:
                array = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    except UserError:
        raise
    except Exception as error:  # Pillow has many ways to say so
        raise UserError(f"{path} cannot be read as an image ({error})") from error
    return array[:, :, None] if array.ndim == 2 else array
