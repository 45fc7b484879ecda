"""Images are decoded once, into files that are mapped into memory, if they can be kept."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pai_bench as pb
from pai_bench.data import images
from pai_bench.data.images import decoded_folder
from pai_bench.data.load import cache_dir
from tests.data.files import PETS, png, write_folder


def test_images_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pb.load_data(f"folder:{write_folder(tmp_path / 'pets', PETS)}")
    with monkeypatch.context() as patch:
        patch.setattr(images, "decode_image", lambda *_: pytest.fail("decoded again"))
        assert pb.load_data(f"folder:{tmp_path / 'pets'}").checksum == first.checksum
    (tmp_path / "pets/train/cat/1.png").write_bytes(png(77))
    assert pb.load_data(f"folder:{tmp_path / 'pets'}").train.inputs[0, 0, 0, 0] == 77


def test_decoded_images_are_mapped_and_a_damaged_file_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = write_folder(tmp_path / "pets", PETS)
    data = pb.load_data(f"folder:{folder}")
    checksum = data.checksum
    (kept,) = (tmp_path / "cache" / "pai-bench" / "decoded").glob("*/train_inputs.npy")
    np.save(tmp_path / "plain", data.train.inputs.numpy())
    whole = kept.read_bytes()
    assert whole == (tmp_path / "plain.npy").read_bytes()
    kept.unlink()  # what is mapped stays whole
    kept.write_bytes(whole[:-5])
    assert not caplog.messages
    again = pb.load_data(f"folder:{folder}")
    assert again.checksum == checksum
    assert caplog.messages[0].startswith(f"decoding again: {kept.parent} is damaged (")
    assert kept.read_bytes() == whole
    kept.with_name("test_inputs.npy").unlink()
    assert pb.load_data(f"folder:{folder}").checksum == checksum
    mapped = decoded_folder(folder)["train_inputs"]
    assert isinstance(mapped, np.memmap)
    mapped[:] = 0  # changes stay in memory
    assert pb.load_data(f"folder:{folder}").checksum == checksum


def test_a_full_disk_is_no_reason_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    assert len(pb.load_data(f"folder:{write_folder(tmp_path / 'pets', PETS)}").train.targets) == 3
    assert not list((cache_dir() / "decoded").iterdir())


def test_what_others_decode_at_the_same_time_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread or process that decodes the same images: whoever is later takes what is there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, found, real = write_folder(tmp_path / "pets", PETS), [], images.decode

    def twice(*given: Any) -> None:
        monkeypatch.setattr(images, "decode", real)
        found.append(decoded_folder(folder))
        real(*given)

    monkeypatch.setattr(images, "decode", twice)
    found.append(decoded_folder(folder))
    assert all(isinstance(arrays["train_inputs"], np.memmap) for arrays in found)
    assert np.array_equal(found[0]["train_inputs"], found[1]["train_inputs"])
    (kept,) = (cache_dir() / "decoded").iterdir()
    shutil.rmtree(kept)
    kept.write_text("no folder")
    assert np.array_equal(decoded_folder(folder)["train_inputs"], found[0]["train_inputs"])


def test_images_of_several_folders_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name in ("one", "other"):
        pb.load_data(f"folder:{write_folder(tmp_path / name, PETS)}")
    assert len(list((tmp_path / ".cache" / "pai-bench" / "decoded").iterdir())) == 2


def test_images_are_decoded_in_memory_where_nothing_can_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    assert len(pb.load_data(f"folder:{write_folder(tmp_path / 'pets', PETS)}").train.targets) == 3
    (message,) = caplog.messages
    assert message.startswith("decoded images are not kept for the next time: ")
