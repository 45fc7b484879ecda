"""Published data sets in the form in which they are published, and what is known of them beforehand."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from torchvision.datasets import SVHN

import pai_bench as pb
from pai_bench.data import downloads
from pai_bench.data.facts import Facts
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
        savemat(tmp_path / f"SVHN/{part}_32x32.mat", {"X": images, "y": np.array([[10], [3]])})
    data = pb.load_data("svhn", data_dir=tmp_path)
    assert data.train.targets.tolist() == [0, 3]
    assert data.train.inputs[1, 1, 3, 5] == 9


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10"])
def test_facts_are_those_of_the_data(name: str) -> None:
    directory = os.environ.get("PAI_BENCH_DATA")
    if name != "digits" and not directory:
        pytest.skip("needs PAI_BENCH_DATA")
    data, facts = pb.load_data(name, data_dir=directory), DATA.find(name)[0].facts
    assert (data.input_shape, data.num_classes) == (facts.shape, facts.classes)
    assert (len(data.train.targets), len(data.test.targets)) == (facts.train, facts.test)
