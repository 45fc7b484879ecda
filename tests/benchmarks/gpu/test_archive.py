"""An archive is whole at every moment, and is a results folder once it is unpacked."""

import logging
import tarfile
from pathlib import Path

import pytest

from benchmarks.gpu import archive
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.archive import Archive, unpack


def test_what_is_put_in_is_there_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "cost.tar"
    Archive(path).add({"costs/a.json": "1", "stage.json": "{}"})
    Archive(path).add({"costs/b.json": "ö"}, without="costs/a.json")
    assert Archive(path).texts == {"stage.json": "{}", "costs/b.json": "ö"}
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["stage.json", "costs/b.json"]
    assert [one.name for one in tmp_path.iterdir()] == ["cost.tar"]


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Archive(tmp_path / "cost.tar")
    found.add({"stage.json": "{}"})
    write = Path.write_bytes

    def half(path: Path, content: bytes) -> int:
        write(path, content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(KeyboardInterrupt):
        found.add({"costs/a.json": "1" * 5000})
    assert Archive(tmp_path / "cost.tar").texts == {"stage.json": "{}"}


def test_a_damaged_archive_counts_as_missing_and_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cost.tar"
    Archive(path).add({"costs/a.json": "1" * 5000})
    path.write_bytes(path.read_bytes()[:3000])
    with caplog.at_level(logging.WARNING):
        assert Archive(path).texts == {}
    assert "cost.tar is damaged" in caplog.text


def test_an_archive_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LARGEST", 20_000)
    found = Archive(tmp_path / "cost.tar")
    found.add({"costs/a.json": "1"})
    with pytest.raises(ValueError, match=r"cost\.tar would have"):
        found.add({"costs/b.json": "1" * 20_000})
    assert Archive(tmp_path / "cost.tar").texts == {"costs/a.json": "1"}


def test_only_results_are_unpacked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("costs/a=1.json", "../evil.json", "costs/../../evil.json", "/evil.json", "other/a.json", "stage.json")
    Archive(tmp_path / "cost.tar").add(dict.fromkeys(names, "{}"))
    Archive(tmp_path / "empty.tar").add({"stage.json": "{}"})
    assert unpack(tmp_path, tmp_path / "results") == [tmp_path / "results/cost"]
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json")]
    assert files == ["results/cost/costs/a=1.json"]
    assert main(["unpack", str(tmp_path), str(tmp_path / "results")]) == 0
    assert "pai-bench report" in capsys.readouterr().out
    assert main(["unpack", str(tmp_path / "results"), str(tmp_path)]) == 2
