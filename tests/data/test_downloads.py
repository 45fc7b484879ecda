"""MNIST and CIFAR-10 from local files, whole and damaged, and downloads that fail."""

import dataclasses
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pai_bench as pb
from pai_bench.data import downloads
from tests.data.files import PETS


def write_idx(path: Path, array: np.ndarray) -> None:
    """A file of MNIST's format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    )


def write_mnist(root: Path) -> None:
    """A tiny MNIST where torchvision looks for it."""
    for part, count in (("train", 30), ("t10k", 10)):
        folder = root / "MNIST" / "raw"
        write_idx(folder / f"{part}-images-idx3-ubyte", np.arange(count * 784).reshape(count, 28, 28) % 251)
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)


def test_mnist_from_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path)
    data = pb.load_data("mnist", data_dir=tmp_path)
    assert (data.name, data.input_shape, len(data.train.targets)) == ("mnist", (1, 28, 28), 30)
    assert data.train.inputs[1].flatten()[:3].tolist() == [784 % 251, 785 % 251, 786 % 251]
    monkeypatch.setenv("PAI_BENCH_DATA", str(tmp_path))
    assert pb.load_data("mnist").checksum == data.checksum


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_truncated_or_missing_file_is_named(name: str, keep: int, tmp_path: Path) -> None:
    write_mnist(tmp_path)
    path = tmp_path / "MNIST" / "raw" / name
    path.write_bytes(path.read_bytes()[: min(keep, path.stat().st_size - 1)])
    with pytest.raises(pb.UserError, match=r"MNIST: the files in .*raw are incomplete or damaged"):
        pb.load_data("mnist", data_dir=tmp_path)
    path.unlink()
    with pytest.raises(pb.UserError, match=r"MNIST: the files in .*raw are incomplete or damaged"):
        pb.load_data("mnist", data_dir=tmp_path)


def test_a_failed_download_says_how_to_help_oneself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import mnist

    def no_network(*_args: object, **_options: object) -> None:
        raise mnist.URLError("no network")

    monkeypatch.setattr(mnist, "download_and_extract_archive", no_network)
    with pytest.raises(pb.UserError, match=r"MNIST: .* download failed .*--data-dir or PAI_BENCH_DATA"):
        pb.load_data("mnist", data_dir=tmp_path)


def test_cifar10_from_an_archive_of_images_is_labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / "cifar10-images.tar.gz", "w:gz") as tar:
        for name, content in (PETS | {"train/cat/._1.png": b"what a system leaves behind"}).items():
            info = tarfile.TarInfo(f"cifar10-images/{name.replace('val', 'test')}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(pb.UserError, match=r"has 3 training and 2 test images, not 50,000 and 10,000; delete it"):
        pb.load_data("cifar10", data_dir=tmp_path)
    monkeypatch.setattr(downloads, "CIFAR10_FACTS", dataclasses.replace(downloads.CIFAR10_FACTS, train=3, test=2))
    data = pb.load_data("cifar10", data_dir=tmp_path)
    assert (data.name, data.label, data.num_classes) == ("cifar10-jpeg", "CIFAR-10 (JPEG)", 10)
    assert data.train.inputs[:, 0, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_a_truncated_archive_is_named(keep: float, tmp_path: Path) -> None:
    path = tmp_path / "cifar10-images.tar.gz"
    noise = np.random.default_rng(0)
    with tarfile.open(path, "w:gz") as tar:
        for i in range(20):
            info = tarfile.TarInfo(f"cifar10-images/{'train' if i % 2 else 'test'}/cat/{i}.bmp")
            file = io.BytesIO()
            Image.fromarray(noise.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file, "BMP")
            info.size = len(file.getvalue())
            file.seek(0)
            tar.addfile(info, file)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(pb.UserError, match=r"cifar10-images.tar.gz is truncated or no tar archive"):
        pb.load_data("cifar10", data_dir=tmp_path)


def test_mnist_is_not_read_from_processed(tmp_path: Path) -> None:
    """Where old versions of torchvision kept what they had decoded, anybody may have put anything."""
    write_mnist(tmp_path)
    before = pb.load_data("mnist", data_dir=tmp_path).checksum
    (tmp_path / "MNIST" / "processed").mkdir()
    for name in ("training", "test"):
        other = torch.zeros(5, 28, 28, dtype=torch.uint8), torch.arange(5)
        torch.save(other, tmp_path / "MNIST" / "processed" / f"{name}.pt")
    assert pb.load_data("mnist", data_dir=tmp_path).checksum == before
