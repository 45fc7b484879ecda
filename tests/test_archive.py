"""Records beside a report: small, without masks, and as good as the results folder."""

import dataclasses
import lzma
from pathlib import Path

import pytest

import pai_bench as pb
from pai_bench.cli import main
from pai_bench.store import Store, archive
from tests.report.records import record


@pytest.fixture
def results(tmp_path: Path) -> Path:
    store = Store(tmp_path / "results", create=True)
    for seed in range(3):
        for name, accuracy in ((None, 0.9), ("snip", 0.8), ("random", 0.6)):
            one = record(name, 0.9 if name else 0.0, seed, accuracy + seed / 100)
            versions = {"python": "3.11.7", "pai-bench": "0.1.0", "torch": "2.14.1"}  # not in alphabetical order
            environment = {**one.environment, "versions": versions}
            store.write(dataclasses.replace(one, environment=environment, mask="a mask" if name else None))
    return tmp_path / "results"


def test_a_report_from_its_records_is_the_same(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = tmp_path / "reports" / "report.md", tmp_path / "again" / "report.md"
    assert main(["report", str(results), "-o", str(first), "--records"]) == 0
    assert "records.jsonl.xz, 9" in capsys.readouterr().out
    for source in (first.parent, first.parent / archive.NAME):  # the folder, or the file
        assert main(["report", str(source), "-o", str(again)]) == 0
        assert again.read_text() == first.read_text()
    assert main(["report", str(first.parent)]) == 0  # in its own place
    assert sorted(path.name for path in first.parent.iterdir()) == ["figures", "records.jsonl.xz", "report.md"]


def test_records_are_read_and_compared_without_masks(results: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl.xz"
    assert archive.pack(results, path) == 9
    frame, before = pb.read_results(path), pb.read_results(results)
    assert frame.equals(before)
    assert all(one.mask is None for one in Store(path))
    assert main(["compare", str(results), str(path)]) == 0
    text = lzma.decompress(path.read_bytes()).decode()
    assert "a mask" not in text
    assert str(tmp_path) not in text


def test_the_same_records_give_the_same_file(results: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "a.jsonl.xz", tmp_path / "b.jsonl.xz"
    archive.pack(results, one)
    archive.pack(results, other)
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[]",
        "{}",
        '{"folder": "trials", "name": "../x", "content": {}}',
        '{"folder": "..", "name": "x", "content": {}}',
    ],
)
def test_what_is_no_file_of_records_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl.xz"
    with lzma.open(path, "wt") as file:
        file.write(line + "\n")
    with pytest.raises(pb.UserError, match=r"r\.jsonl\.xz is not a file of records"):
        Store(path)
    path.write_bytes(b"not compressed")
    with pytest.raises(pb.UserError, match=r"r\.jsonl\.xz is not a file of records"):
        Store(path)
    path.write_bytes(lzma.compress(b"{" * 1000)[:-20])
    with pytest.raises(pb.UserError, match=r"r\.jsonl\.xz is not a file of records"):
        Store(path)
    with pytest.raises(pb.UserError, match=r"gone\.jsonl\.xz cannot be read"):
        Store(tmp_path / "gone.jsonl.xz")


def test_a_folder_of_results_is_read_itself(results: Path, tmp_path: Path) -> None:
    """Though a file of records, perhaps of an earlier time, lies beside them."""
    archive.pack(results, results / archive.NAME)
    (first, *_) = (results / "trials").glob("*.json")
    first.unlink()
    assert len(list(Store(results))) == 8
