"""The folder that is carried to a GPU: what it holds, how large it may be, and that a run reads its data."""

import gzip
import json
import zipfile
from pathlib import Path

import pytest

from benchmarks.floors import write_mnist
from benchmarks.gpu import pack as packing
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.data import CIFAR10, MNIST, PARTS, data_folder
from benchmarks.gpu.pack import PackError, pack, provenance


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of data sets, as far as `pack` looks at it."""
    folder = tmp_path / "data"
    write_mnist(folder, 10)
    (folder / CIFAR10).write_bytes(b"images")
    return folder


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The calls of pip, which does nothing but leave a wheel."""
    calls: list[tuple[str, ...]] = []

    def call(*arguments: str) -> None:
        calls.append(arguments)
        Path("folder", "pai_bench-0.1.0-py3-none-any.whl").write_bytes(b"wheel")

    monkeypatch.setattr(packing, "pip", call)
    return calls


def test_what_is_packed(data: Path, pip: list[tuple[str, ...]]) -> None:
    previous = Path("out")
    previous.mkdir()
    (previous / "cost.tar").write_bytes(b"tar")
    (previous / "other.tar").write_bytes(b"tar")
    text = pack(Path("folder"), data, previous, ["a==1", "b==2"])
    files = sorted(path.relative_to("folder").as_posix() for path in Path("folder").rglob("*") if path.is_file())
    images = sorted(f"MNIST/raw/{name}.gz" for name in PARTS)
    assert files == [
        *(*images, "cifar10-images.tar.gz", "commit.json", "pai_bench-0.1.0-py3-none-any.whl", "previous/cost.tar")
    ]
    assert gzip.decompress(Path("folder", images[0]).read_bytes()) == (data / MNIST / PARTS[2]).read_bytes()
    wheel, download = pip
    assert wheel[:2] == ("wheel", "--no-deps")
    assert download[0] == "download"
    assert download[-2:] == ("a==1", "b==2")
    assert "--only-binary=:all:" in download
    assert "python3 -m benchmarks.gpu --minutes 8 --data folder" in text
    assert provenance(Path("folder"), ["--out", "/tmp/x/out"]) == {
        "command": "python -m benchmarks.gpu --out out",
        **json.loads(Path("folder/commit.json").read_text()),
    }


def test_the_folder_has_a_largest_size(
    data: Path, pip: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    with (data / CIFAR10).open("wb") as file:
        file.truncate(60 * 2**20)
    with pytest.raises(PackError, match=r"folder has 60\.\d MiB, more than 60"):
        pack(Path("folder"), data)
    assert main(["pack", "folder", "--data", str(data)]) == 2
    assert "take something out" in capsys.readouterr().err


def test_data_that_is_not_there(data: Path, pip: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str]) -> None:
    (data / CIFAR10).unlink()
    assert main(["pack", "folder", "--data", str(data)]) == 2
    assert "cifar10-images.tar.gz is not there" in capsys.readouterr().err
    assert main(["pack", "folder"]) == 2
    assert "PAI_BENCH_DATA" in capsys.readouterr().err
    assert not pip


def test_a_run_reads_what_was_packed(data: Path, pip: list[tuple[str, ...]]) -> None:
    pack(Path("folder"), data)
    with data_folder(Path("folder")) as environment:
        folder = Path(environment["PAI_BENCH_DATA"])
        for name in PARTS:
            assert (folder / MNIST / name).read_bytes() == (data / MNIST / name).read_bytes()
        assert (folder / CIFAR10).read_bytes() == b"images"
    assert not folder.exists()
    with data_folder(data) as environment:  # a folder of data sets is read as it is
        assert environment == {"PAI_BENCH_DATA": str(data)}
    with data_folder(None) as environment:
        assert environment == {}


@pytest.mark.slow
def test_the_wheel_is_that_of_the_checkout(data: Path) -> None:
    pytest.importorskip("hatchling")
    pack(Path("folder"), data)
    (wheel,) = Path("folder").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "pai_bench/__init__.py" in names
    assert "pai_criteria/snip.py" in names
