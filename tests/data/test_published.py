"""Published data sets in the form in which they are published, and what is known of them beforehand."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat
from torchvision.datasets import CIFAR10, SVHN

import pai_bench as pb
from pai_bench.data import downloads
from pai_bench.data.facts import Facts
from pai_bench.data.load import cache_dir
from pai_bench.support.registry import DATA
from tests.data.files import png, write_folder


def test_tiny_imagenet_by_its_annotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"train/n0{c}/images/n0{c}_{i}.JPEG": png(10 * c + i, "L", (64, 64)) for c in (1, 2) for i in (0, 1)}
    files |= {f"val/images/val_{i}.JPEG": png(50 + i, size=(64, 64)) for i in range(2)}
    files |= {"train/n01/images/._n01_0.JPEG": b"what a system leaves behind"}
    files |= {"val/val_annotations.txt": b"val_0.JPEG\tn02\t0\t0\t9\t9\n\nval_1.JPEG\tn01\t0\t0\t9\t9\n"}
    write_folder(tmp_path / "tiny-imagenet-200", files)
    message = "tiny-imagenet-200 has 4 training and 2 test images, not 100,000 and 10,000; delete it"
    with pytest.raises(pb.UserError, match=message):
        pb.load_data("tiny-imagenet", data_dir=tmp_path)
    monkeypatch.setattr(downloads, "TINY_FACTS", Facts((3, 64, 64), 200, 4, 2))
    data = pb.load_data("tiny-imagenet", data_dir=tmp_path)
    assert data.input_shape == (3, 64, 64)
    assert data.num_classes == 200
    assert data.train.targets.tolist() == [0, 0, 1, 1]
    assert data.test.targets.tolist() == [0, 1]  # in order of class
    assert data.test.inputs[:, 0, 0, 0].tolist() == [51, 50]
    (tmp_path / "tiny-imagenet-200/val/images/val_1.JPEG").unlink()
    with pytest.raises(pb.UserError, match=r"Tiny-ImageNet: the files in .*tiny-imagenet-200 are incomplete"):
        pb.load_data("tiny-imagenet", data_dir=tmp_path)
    (tmp_path / "tiny-imagenet-200/val/images/val_1.JPEG").write_bytes(b"no image")
    with pytest.raises(pb.UserError, match=r"^test/n01/val_1.JPEG cannot be read as an image"):
        pb.load_data("tiny-imagenet", data_dir=tmp_path)


def test_imagenette_is_cut_and_scaled_to_squares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "IMAGENETTE_FACTS", Facts((3, 128, 128), 10, 2, 1))
    sizes = {"train/a/1.JPEG": (160, 200), "train/b/1.JPEG": (300, 160), "val/a/1.JPEG": (160, 160)}
    write_folder(tmp_path / "imagenette2-160", {path: png(7, size=size) for path, size in sizes.items()})
    data = pb.load_data("imagenette", data_dir=tmp_path)
    assert data.input_shape == (3, 128, 128)
    assert data.train.inputs.unique().tolist() == [0, 7, 255]


def test_svhn_has_digits_from_0_to_9(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SVHN, "_check_integrity", lambda _self: True)
    (tmp_path / "SVHN").mkdir()
    for part in ("train", "test"):
        images = np.zeros((32, 32, 3, 2), np.uint8)
        images[3, 5, 1, 1] = 9
        labels = [[10], [3]] if part == "train" else [[2], [10]]
        savemat(tmp_path / f"SVHN/{part}_32x32.mat", {"X": images, "y": np.array(labels)})
    data = pb.load_data("svhn", data_dir=tmp_path)
    assert (data.train.targets.tolist(), data.test.targets.tolist()) == ([0, 3], [2, 0])
    assert data.train.inputs[1, 1, 3, 5] == 9


def test_facts_are_those_that_the_publications_state() -> None:
    flips = "flip-crop"
    assert {
        "digits": Facts((1, 28, 28), 10, 1347, 450, "none"),
        "mnist": Facts((1, 28, 28), 10, 60000, 10000, "none"),
        "fashion-mnist": Facts((1, 28, 28), 10, 60000, 10000, "none"),
        "kmnist": Facts((1, 28, 28), 10, 60000, 10000, "none"),
        "cifar10": Facts((3, 32, 32), 10, 50000, 10000, flips, ("cifar10-jpeg",)),
        "cifar100": Facts((3, 32, 32), 100, 50000, 10000, flips),
        "svhn": Facts((3, 32, 32), 10, 73257, 26032, "none"),
        "tiny-imagenet": Facts((3, 64, 64), 200, 100000, 10000, flips, ("tiny-imagenet-200",)),
        "imagenette": Facts((3, 128, 128), 10, 9469, 3925, flips),
        "folder:": None,
    } == {plugin.name: plugin.facts for plugin in DATA.plugins()}
    assert all(plugin.target.__doc__ for plugin in DATA.plugins())  # as the list of data sets shows it


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10"])
def test_facts_are_those_of_the_data(name: str) -> None:
    directory = os.environ.get("PAI_BENCH_DATA")
    if name != "digits" and not directory:
        pytest.skip("needs PAI_BENCH_DATA")
    data, facts = pb.load_data(name, data_dir=directory), DATA.find(name)[0].facts
    assert (data.input_shape, data.num_classes) == (facts.shape, facts.classes)
    assert (len(data.train.targets), len(data.test.targets)) == (facts.train, facts.test)


@pytest.mark.parametrize(
    ("given", "there", "downloads_it"), [(True, True, False), (True, False, True), (False, True, True)]
)
def test_what_is_missing_is_downloaded(
    given: bool, there: bool, downloads_it: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the data directory if nothing is there; to the user's cache file by file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    root = tmp_path if given else cache_dir() / "data"
    (root / "cifar-100-python").mkdir(parents=True)
    if there:
        (root / "cifar-100-python" / "meta").touch()
    asked: list[Any] = []

    def read(name: str, root: Path, *, train: bool, download: bool) -> Any:
        asked.append((name, root, train, download))
        return np.zeros((2, 32, 32, 3), np.uint8), [0, 1]

    monkeypatch.setattr(downloads, "read", read)
    pb.load_data("cifar100", data_dir=tmp_path if given else None)
    assert asked == [("CIFAR100", root, train, downloads_it) for train in (True, False)]


@pytest.mark.parametrize(("error", "said"), [(OSError("no\n network"), "no network"), (KeyError(), "KeyError")])
def test_a_failed_download_is_told_from_damaged_files(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_given: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(downloads, "read", fails)
    (tmp_path / "SVHN").mkdir()
    for there, what in ((False, "no files in .*SVHN, and the download failed"), (True, "are incomplete or damaged")):
        if there:
            (tmp_path / "SVHN" / "train_32x32.mat").touch()
        with pytest.raises(pb.UserError, match=rf"^SVHN: .*{what} \({said}\);"):
            pb.load_data("svhn", data_dir=tmp_path)


def test_tiny_imagenet_and_imagenette_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets
    from torchvision.datasets import utils

    def tiny(address: str, root: str) -> None:
        assert address == "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
        files = {f"train/n0{c}/images/n0{c}_0.JPEG": png(c, size=(64, 64)) for c in (1, 2)}
        files |= {"val/images/val_0.JPEG": png(3, size=(64, 64)), "val/val_annotations.txt": b"val_0.JPEG\tn02\t0\t0\n"}
        write_folder(Path(root) / "tiny-imagenet-200", files)

    def imagenette(root: Path, *, size: str, download: bool) -> None:
        assert download
        files = {path: png(7) for path in ("train/a/1.JPEG", "train/b/1.JPEG", "val/a/1.JPEG")}
        write_folder(root / f"imagenette2-{size.removesuffix('px')}", files)

    monkeypatch.setattr(utils, "download_and_extract_archive", tiny)
    monkeypatch.setattr(datasets, "Imagenette", imagenette)
    monkeypatch.setattr(downloads, "TINY_FACTS", Facts((3, 64, 64), 200, 2, 1))
    monkeypatch.setattr(downloads, "IMAGENETTE_FACTS", Facts((3, 128, 128), 10, 2, 1))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "mine").mkdir()
    for name in ("tiny-imagenet", "imagenette"):
        for data_dir in (tmp_path / "mine", None):
            assert len(pb.load_data(name, data_dir=data_dir).train.targets) == 2
    folders = ["imagenette2-160", "tiny-imagenet-200"]
    for place in (tmp_path / "mine", cache_dir() / "data"):
        assert sorted(path.name for path in place.iterdir()) == folders


def write_cifar10(root: Path) -> None:
    """One black image of each file of the binary release."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        batch = {"data": np.zeros((1, 3072), np.uint8), "labels": [len(name) % 10]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("0123456789")}))


def test_the_binary_release_of_cifar10_comes_before_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda _self: True)
    monkeypatch.setattr(CIFAR10, "_load_meta", lambda _self: None)
    monkeypatch.setattr(downloads, "CIFAR10_FACTS", Facts((3, 32, 32), 10, 2, 1))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = {f"{path}.png": png(7, size=(32, 32)) for path in ("train/a/1", "train/b/1", "test/a/1")}
    write_folder(tmp_path / "cifar10-images", files)
    write_cifar10(tmp_path / "cache" / "pai-bench" / "data")
    images = pb.load_data("cifar10", data_dir=tmp_path)
    assert (images.name, len(images.train.targets)) == ("cifar10-jpeg", 2)
    assert pb.load_data("cifar10").name == "cifar10"
    write_cifar10(tmp_path)
    assert pb.load_data("cifar10", data_dir=tmp_path).name == "cifar10"
