"""Folders of images: classes, tests, formats, links, and files that cannot be read."""

import io
from pathlib import Path

import pytest
from PIL import Image

import pai_bench as pb
from tests.data.files import PETS, png, write_folder

MORE = PETS | {"train/dog/2.png": png(6)}


def test_a_folder_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pb.load_data(f"folder:{write_folder(tmp_path / 'pets', PETS)}")
    assert data.name == f"folder:pets@{data.checksum[:8]}"
    assert data.input_shape == (3, 2, 3)
    assert data.train.targets.tolist() == [0, 0, 1]
    assert data.train.inputs[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert data.test.inputs[:, 0, 0, 0].tolist() == [4, 5]
    relative = pb.load_data("folder:pets", data_dir=tmp_path)
    assert relative.name == data.name
    other = write_folder(tmp_path / "here", {f"pets/{name}": content for name, content in MORE.items()})
    monkeypatch.chdir(other)
    for data_dir in (None, tmp_path):  # the current folder comes first
        assert len(pb.load_data("folder:pets", data_dir=data_dir).train.targets) == 4


def test_grey_images_have_one_channel(tmp_path: Path) -> None:
    files = {f"{part}/{name}/1.png": png(9, "L") for part in ("train", "test") for name in ("a", "b")}
    assert pb.load_data(f"folder:{write_folder(tmp_path / 'grey', files)}").input_shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"train/cat/3.png": png(1, size=(4, 4))},
            r"train/cat/3.png is \(4, 4, 3\), but train/cat/1.png is \(2, 3, 3\)",
        ),
        ({"train/cat/3.png": b"nonsense"}, r"train/cat/3.png cannot be read as an image"),
        ({"train/cat/3.ppm": b"P6\n"}, r"train/cat/3.ppm cannot be read as an image"),
        ({"train/cat/3.png": png(1, "I;16")}, r"train/cat/3.png has pixels of mode I;16; images need 8 bits"),
        ({"train/cow/1.gif": b""}, r"has no images \(.bmp, .jpeg.*\) in train/cow/: remove that class, or add some"),
        ({"train/cat/3.png": png(1)[:40]}, r"train/cat/3.png cannot be read as an image"),
        ({"val/bird/1.png": png(1)}, r"class 'bird' of val/bird/1.png has no training images"),
    ],
)
def test_a_folder_with_a_bad_file(change: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(pb.UserError, match=message):
        pb.load_data(f"folder:{write_folder(tmp_path / 'pets', PETS | change)}")


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(pb.UserError, match="does not exist"):
        pb.load_data(f"folder:{tmp_path / 'none'}")
    with pytest.raises(pb.UserError, match=r"has no images in train/CLASS"):
        pb.load_data(f"folder:{tmp_path}")
    with pytest.raises(pb.UserError, match="has no images in test or val/CLASS"):
        pb.load_data(f"folder:{write_folder(tmp_path / 'a', {'train/cat/1.png': png(1)})}")
    with pytest.raises(pb.UserError, match=r"has one class, 'cat', in train/"):
        pb.load_data(f"folder:{write_folder(tmp_path / 'b', {'train/cat/1.png': png(1), 'test/cat/1.png': png(2)})}")


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    files = PETS | {"train/.ipynb_checkpoints/1.png": png(1), "train/cat/.trash/2.png": png(2)}
    assert pb.load_data(f"folder:{write_folder(tmp_path / 'pets', files)}").num_classes == 2
    files = PETS | {f"{part}/.ipynb_checkpoints/1.txt": b"notes" for part in ("train", "test")}
    assert len(pb.load_data(f"folder:{write_folder(tmp_path / 'more', files)}").test.targets) == 2  # those of val


def test_only_the_test_images_are_for_the_test_and_only_trained_classes_count(tmp_path: Path) -> None:
    files = PETS | {"test/cat/1.png": png(50), "test/dog/deep/2.png": png(51), "unlabeled/zebra/1.png": png(1)}
    data = pb.load_data(f"folder:{write_folder(tmp_path / 'three', files)}")
    assert data.num_classes == 2
    assert data.test.inputs[:, 0, 0, 0].tolist() == [50, 51]
    unlabelled = PETS | {"test/images/1.png": png(7)}
    assert len(pb.load_data(f"folder:{write_folder(tmp_path / 'tiny', unlabelled)}").test.targets) == 2


def test_links_in_folders_of_images_are_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = pb.load_data(f"folder:{write_folder(tmp_path / 'plain' / 'pets', PETS)}")
    kept = write_folder(tmp_path / "kept", PETS)
    linked = write_folder(tmp_path / "pets", {"train/cat/2.png": PETS["train/cat/2.png"], "train/cat/a/.hidden": b""})
    (linked / "train/cat/1").symlink_to(kept / "train/cat/1.png")  # no name of an image
    (linked / "train/cat/1.png").symlink_to(kept / "train/cat/1.png")
    (linked / "train/dog").symlink_to(kept / "train/dog")
    (linked / "val").symlink_to("../kept/val")
    found = pb.load_data(f"folder:{linked}")
    assert found.checksum == plain.checksum
    assert found.name == plain.name
    (linked / "train/cat/more").symlink_to(kept / "train/dog")
    assert pb.load_data(f"folder:{linked}").train.targets.tolist() == [0, 0, 0, 1]
    (linked / "train/cat/broken.png").symlink_to("nowhere")
    assert pb.load_data(f"folder:{linked}").train.targets.tolist() == [0, 0, 0, 1]
    assert "broken.png is left out: it is a link to nothing" in caplog.text


@pytest.mark.parametrize("target", ["..", "../..", "../../..", ".", "../../../elsewhere"])
def test_links_in_a_circle_are_named(target: str, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", PETS)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "back").symlink_to(root / "train")
    (root / "train/cat/circle").symlink_to(target)
    with pytest.raises(pb.UserError, match=r"(circle|back) leads back to a folder that it is in: remove the link"):
        pb.load_data(f"folder:{root}")


def test_only_the_formats_of_images_that_are_named_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of another format called .png: EPS would start Ghostscript."""
    from PIL import EpsImagePlugin

    eps = io.BytesIO()
    Image.new("RGB", (3, 2)).save(eps, "eps")
    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args: started.append(args))
    root = write_folder(tmp_path / "d", {f"{p}/{c}/1.png": png(1) for p in ("train", "test") for c in "ab"})
    (root / "train" / "a" / "2.png").write_bytes(eps.getvalue())
    with pytest.raises(pb.UserError, match=r"train/a/2.png cannot be read as an image"):
        pb.load_data(f"folder:{root}")
    assert not started


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "ppm", "pgm", "tif", "webp"])
def test_every_named_format_is_decoded(suffix: str, tmp_path: Path) -> None:
    image = io.BytesIO()
    kind = {"jpg": "jpeg", "tif": "tiff", "pgm": "ppm"}.get(suffix, suffix)
    Image.new("L" if suffix == "pgm" else "RGB", (4, 4)).save(image, kind)
    files = {f"{part}/{label}/1.{suffix}": image.getvalue() for part in ("train", "test") for label in "ab"}
    assert len(pb.load_data(f"folder:{write_folder(tmp_path / 'd', files)}").train.targets) == 2
