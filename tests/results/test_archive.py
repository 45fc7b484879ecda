"""Records beside a report: small, without masks, and as good as the results folder."""

import gc
import io
import json
import lzma
import tempfile
from pathlib import Path

import pytest

import pai_bench as pb
from pai_bench.cli.entry import main
from pai_bench.results import Store, archive
from pai_bench.results.stored import LONGEST
from tests.report.records import altered, record


@pytest.fixture
def results(tmp_path: Path) -> Path:
    store = Store(tmp_path / "results", create=True)
    for seed in range(3):
        for name, accuracy in ((None, 0.9), ("snip", 0.8), ("random", 0.6)):
            one = record(name, 0.9 if name else 0.0, seed, accuracy + seed / 100)
            versions = {"python": "3.11.7", "pai-bench": "0.1.0", "torch": "2.14.1"}  # not in alphabetical order
            store.write(altered(one, environment={"versions": versions}, mask="a mask" if name else None))
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
    assert sorted(path.name for path in first.parent.iterdir()) == ["figures", "records.jsonl.xz", "report.md"]


def test_a_report_beside_its_records_is_replaced_only_by_name(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may have figures of masks, which its records do not hold."""
    folder = tmp_path / "reports"
    assert main(["report", str(results), "-o", str(folder / "report.md"), "--records"]) == 0
    (folder / "report.md").write_text("kept")
    for source in (folder, folder / archive.NAME):
        assert main(["report", str(source)]) == 2
        assert f"{folder / 'report.md'} lies beside its records" in capsys.readouterr().err
        assert (folder / "report.md").read_text() == "kept"
    assert main(["report", str(folder), "-o", str(folder / "report.md")]) == 0
    assert (folder / "report.md").read_text() != "kept"
    (folder / "report.md").unlink()
    assert main(["report", str(folder)]) == 0  # in its own place, where there is none
    assert (folder / "report.md").exists()


def test_records_are_written_beside_the_report_in_an_existing_folder(results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    folder.mkdir()
    assert main(["report", str(results), "-o", str(folder), "--records"]) == 0
    assert (folder / "report.md").exists()
    assert (folder / archive.NAME).exists()
    assert not (tmp_path / archive.NAME).exists()


def test_records_go_with_the_markdown_report_alone(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(results), "--format", "csv", "--records"]) == 2
    assert "--records goes with the markdown report" in capsys.readouterr().err


def test_all_folders_are_kept(results: Path, tmp_path: Path) -> None:
    for name in ("costs", "collapse", "benchmarks", "evaluations"):
        (results / name).mkdir()
        (results / name / "x.json").write_text('{"a": 1}')
    path = tmp_path / "r.jsonl.xz"
    assert archive.pack(results, path) == 13
    store = Store(path)
    assert [len(list(folder.glob("*.json"))) for folder in store.folders] == [9, 1, 1, 1, 1]
    assert {folder.name for folder in store.folders} == {"trials", "costs", "collapse", "benchmarks", "evaluations"}


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which temporary folders are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_temporary_folders_are_removed(results: Path, tmp_path: Path, temporary: Path) -> None:
    path = tmp_path / "r.jsonl.xz"
    archive.pack(results, path)
    store = Store(path)
    assert list(temporary.iterdir()) == [store.path]
    del store
    gc.collect()
    assert not list(temporary.iterdir())


def test_records_are_read_and_compared_without_masks(results: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl.xz"
    assert archive.pack(results, path) == 9
    frame, before = pb.read_results(path), pb.read_results(results)
    assert frame.equals(before)
    assert all(one.pruning.mask is None for one in Store(path))
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
def test_what_is_no_file_of_records_is_refused(line: str, tmp_path: Path, temporary: Path) -> None:
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
    gc.collect()
    assert not list(temporary.iterdir())


def written(path: Path, lines: list[str]) -> Path:
    """A file of such lines."""
    with lzma.open(path, "wt") as file:
        file.writelines(f"{line}\n" for line in lines)
    return path


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("[" * 100_000, "RecursionError"),
        ('{"folder": "trials", "name": "x", "content": ' + "[" * 100_000, "RecursionError"),
        ('"' + "x" * LONGEST + '"', "line 1 has more than 8,388,608 bytes"),
    ],
)
def test_what_is_too_deep_or_too_long_is_refused(
    line: str, why: str, tmp_path: Path, temporary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "r.jsonl.xz", [line])
    assert main(["report", str(path)]) == 2
    assert f"{path} is not a file of records (" in (told := capsys.readouterr().err)
    assert why in told
    assert not list(temporary.iterdir())


def test_an_interrupt_leaves_nothing_behind(
    results: Path, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(file: object, folder: Path) -> dict[str, str]:
        raise KeyboardInterrupt

    archive.pack(results, tmp_path / "r.jsonl.xz")
    monkeypatch.setattr(archive, "extract", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path / "r.jsonl.xz")
    assert not list(temporary.iterdir())


def test_damaged_lines_are_left_out_and_named(
    results: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    archive.pack(results, path := tmp_path / "r.jsonl.xz")
    good = lzma.decompress(path.read_bytes()).decode().splitlines()
    newer = json.loads(good[3])
    newer["content"]["schema"] = 99
    other = json.loads(good[0])
    other["content"]["test_accuracy"] = 0.123
    lines = [good[0], good[1][:50], "", *good[2:3], json.dumps(newer), *good[4:], good[4], json.dumps(other)]
    store = Store(written(path, lines))
    assert len(records := list(store)) == 7
    assert 0.123 not in {one.evaluation.test_accuracy for one in records}
    name = f"trials/{newer['name']}.json"
    assert set(store.left_out) == {"line 2", name, f"line {len(lines)}"}
    assert store.left_out[f"line {len(lines)}"] == "line 1 holds another record of the same name"
    for what in store.left_out:
        assert f"{path / what} cannot be read" in caplog.text
    assert str(store.path) not in caplog.text
    assert main(["report", str(path), "-o", str(report := tmp_path / "a.md")]) == 0
    assert "* line 2 could not be read and is left out: JSONDecodeError" in report.read_text()
    assert main(["compare", str(path), str(results), "-o", str(report)]) == 0
    assert f"* {path / name} is left out: schema 99" in report.read_text()
    assert str(store.path.parent / "pai-bench-records") not in report.read_text()


def test_a_record_that_is_too_deep_is_left_out(results: Path, tmp_path: Path) -> None:
    (results / "trials" / "x.json").write_text("[" * 100_000)
    assert len(list(store := Store(results))) == 9
    assert set(store.left_out) == {"trials/x.json"}
    assert archive.pack(results, tmp_path / "r.jsonl.xz") == 9


@pytest.mark.parametrize("name", ["records.xz", "plain.jsonl"])
def test_other_files_are_no_results(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(
        pb.UserError, match=rf"{name} is a file, not a results folder; one of records is called NAME\.jsonl\.xz"
    ):
        Store(tmp_path / name)
    written(tmp_path / "empty.jsonl.xz", [])
    with pytest.raises(pb.UserError, match=r"empty\.jsonl\.xz has no records"):
        Store(tmp_path / "empty.jsonl.xz")


def test_a_folder_of_results_is_read_itself(results: Path, tmp_path: Path) -> None:
    """Though a file of records, perhaps of an earlier time, lies beside them."""
    archive.pack(results, results / archive.NAME)
    (first, *_) = (results / "trials").glob("*.json")
    first.unlink()
    assert len(list(Store(results))) == 8


def test_lines_at_their_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, value in (("MOST", 3), ("LARGEST", 10), ("LONGEST", 5)):
        monkeypatch.setattr(archive, limit, value)
    assert list(archive.lines(io.BytesIO(b"ab\n\n12345"))) == [(1, b"ab\n"), (3, b"12345")]
    assert list(archive.lines(io.BytesIO(b"1234\n12345"))) == [(1, b"1234\n"), (2, b"12345")]
    for content, why in (
        (b"a\n\nb\nc", "more than 3 lines, or 10 bytes"),
        (b"1234\n1234\n1", "more than 3 lines, or 10 bytes"),
        (b"a\n123456", "line 2 has more than 5 bytes"),
    ):
        with pytest.raises(ValueError, match=why):
            list(archive.lines(io.BytesIO(content)))


def test_as_many_lines_may_be_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(archive, "MOST_LEFT_OUT", 2)
    good = json.dumps({"folder": "costs", "name": "x" * 240, "content": {"a": 1}}).encode()
    long = json.dumps({"folder": "costs", "name": "x" * 241, "content": {}}).encode()
    left_out = archive.extract(io.BytesIO(b"\n".join([good, b"{", long, good])), tmp_path)
    assert list(left_out) == ["line 2", "line 3"]  # the same record twice is one
    assert left_out["line 3"] == f"ValueError: it names the place costs/{'x' * 241}"
    assert (tmp_path / "costs" / f"{'x' * 240}.json").read_text() == '{"a": 1}'
    with pytest.raises(ValueError, match="more than 2 lines hold no record"):
        archive.extract(io.BytesIO(b"\n".join([good, b"{", b"{", b"{", good])), tmp_path)
    with pytest.raises(ValueError, match="line 1: JSONDecodeError"):
        archive.extract(io.BytesIO(b"{"), tmp_path)
    assert archive.extract(io.BytesIO(b""), tmp_path) == {}


def test_a_folder_is_packed_up_to_its_limits(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.jsonl.xz"
    assert archive.pack(results, path) == 9
    size = len(lzma.decompress(path.read_bytes()))
    for limit, most in (("LARGEST", size), ("MOST", 9)):
        with monkeypatch.context() as patch:
            patch.setattr(archive, limit, most)
            assert archive.pack(results, path) == 9
            patch.setattr(archive, limit, most - 1)
            with pytest.raises(pb.UserError, match=f"9 records of {size:,} bytes are too many for .*: divide"):
                archive.pack(results, path)
    for entry in archive.entries(results / "trials"):
        assert entry["content"]["mask"] is None
        assert entry["folder"] == "trials"


def test_a_name_that_is_too_long_for_a_file_is_refused() -> None:
    with pytest.raises(pb.UserError, match=r"results a+ cannot be read \(File name too long\)"):
        archive.is_archive(Path("a" * 300))
    assert not archive.is_archive(Path("gone"))
