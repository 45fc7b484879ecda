"""Results that are no files or too large, and folders that change while a sweep runs, are named in a line."""

import base64
import errno
import json
import lzma
import os
import shutil
import socket
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import pai_bench as pb
from pai_bench.cli.entry import main
from pai_bench.results import Layer, Record, Store, archive, bits
from pai_bench.results.stored import LONGEST
from pai_bench.support.identity import digest, identify
from tests.cli.test_odd_input import SMALL, one_line
from tests.experiment.test_runner import sweep
from tests.report.records import altered, drawn

LINE = [*SMALL, "--workers", "1", "--lanes", "1"]


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def make_large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk


SPECIAL: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "socket": make_socket,
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "folder": lambda path: path.mkdir(),
    "circle": lambda path: path.symlink_to(path.name),
    "large": make_large,
    "deep": lambda path: path.write_text("[" * (LONGEST - 1)),
    "lists": lambda path: path.write_text("[" + "[]," * 10**5 + "1]"),
    "digits": lambda path: path.write_text("9" * 10**6),
}


@pytest.mark.parametrize("special", SPECIAL)
def test_what_is_no_file_of_a_result_is_named_and_left_out(
    special: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store("r", create=True)
    store.write(drawn("snip", 0.5, 0, 0.9))
    wanted = drawn("snip", 0.5, 1, 0.9).identity
    for folder in store.folders:
        folder.mkdir(exist_ok=True)
        SPECIAL[special](folder / f"{wanted}.json")
    assert len(pb.read_results("r")) == 1
    assert main(["report", "r", "-o", "x.md", "--records"]) == 0
    text = Path("x.md").read_text()
    for folder in store.folders:
        assert f"* {folder.name}/{wanted}.json could not be read and is left out: " in text
    caplog.clear()
    with pytest.raises(pb.UserError):
        pb.read_mask("r", wanted)
    if special == "circle":  # nothing that could be read or set aside by what it is
        with pytest.raises(pb.UserError, match="cannot be read"):
            store.read(wanted)
        return
    assert store.read(wanted) is None
    assert f"{wanted}.json is damaged (" in caplog.text
    assert os.path.lexists(store.trials / f"{wanted}.damaged")
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()])
def test_other_things_than_files_where_a_file_is_named(
    make: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    Store("r", create=True).write(drawn("snip", 0.5, 0, 0.9))
    for name in ("a.jsonl.xz", "m.safetensors", "t.json", "mine.py"):
        make(Path(name))
    with pytest.raises(pb.UserError, match="no mask can be read"):
        pb.Mask.load("m.safetensors")
    one_line(["report", "a.jsonl.xz"], capsys)
    one_line(["report", "r", "-o", "x.md", "--timings", "t.json"], capsys)
    one_line(["run", *SMALL, "--models", "./mine.py:net"], capsys)


def peak(call: Callable[[], object]) -> int:
    """Bytes that a call which fails has taken at most."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="mask"):
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_mask_that_would_fill_the_memory() -> None:
    text = base64.b64encode(zlib.compress(bytes(2**27))).decode()
    assert peak(lambda: bits.unpack(text, 100)) < 2**22
    store = Store("r", create=True)
    record = altered(drawn("snip", 0.5, 0, 0.9), mask=text)
    store.write(record)
    with pytest.raises(pb.UserError, match="a mask of 95 weights in more than 12 bytes"):
        pb.read_mask(record)
    assert main(["report", "r"]) == 0
    assert main(["compare", "r", "r"]) == 0


def test_a_dense_reference_that_would_fill_the_memory() -> None:
    large = (Layer(name="a", size=2**40, kept=2**40, shape=(2**20, 2**20)),)
    mask = pb.read_mask(altered(drawn(None, 0.0, 0, 0.9), layers=large))
    assert mask["a"].shape == (2**20, 2**20)
    assert mask.size == 2**40
    for layer in (Layer(name="a", size=4, kept=4), Layer(name="a", size=4, kept=4, shape=(-2, -2))):
        with pytest.raises(pb.UserError, match="4 weights of a have the shape"):
            pb.read_mask(altered(drawn(None, 0.0, 0, 0.9), layers=(layer,)))


def header(text: str) -> bytes:
    """A safetensors file of a header alone."""
    return len(text).to_bytes(8, "little") + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        safetensors.numpy.save({"a": np.zeros(0, np.uint8)}, {"shapes": json.dumps({"a": [2**32, 2**32]})}),
        safetensors.numpy.save({"a": np.zeros(1, np.uint8)}, {"shapes": json.dumps({"a": [-1, -8]})}),
        safetensors.numpy.save({"a": np.zeros(1, np.uint8)}, {"shapes": json.dumps({"a": [2.0, 4]})}),
        safetensors.numpy.save({"a": np.zeros(1, np.uint8)}, {"shapes": json.dumps({"a": "8"})}),
        safetensors.numpy.save({"a": np.zeros(1, np.float32)}, {"shapes": json.dumps({"a": [8]})}),
        safetensors.numpy.save({"a": np.zeros((1, 1), np.uint8)}, {"shapes": json.dumps({"a": [8]})}),
        safetensors.numpy.save({"a": np.zeros(1, np.uint8)}, {"shapes": "[" * 10**5}),
        safetensors.numpy.save({"a": np.zeros(1, np.uint8)}, {"shapes": "[]"}),
        safetensors.numpy.save({"a": np.zeros(1, np.uint8)}, {"shapes": '{"a": [8]}', "checksum": "0"}),
        safetensors.numpy.save({"a": np.zeros(1, np.uint8)}),
        header("[" * 10**5),
        header('{"__metadata__": []}'),
        header("[]"),
        header('{"a": {"dtype": "U8", "shape": [9000000000000], "data_offsets": [0, 9000000000000]}}'),
        (2**63).to_bytes(8, "little"),
    ],
)
def test_files_of_whole_masks_that_are_none(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        bits.read_mask_file(content)


def test_a_whole_mask_that_is_no_file_or_too_long() -> None:
    store = Store("r", create=True)
    size = bits.SAMPLE_SIZE + 8
    mask = {"a": np.random.default_rng(0).random(size) < 0.5}
    layers = (Layer(name="a", size=size, kept=int(mask["a"].sum()), shape=(size,)),)
    record = altered(drawn("snip", 0.5, 0, 0.9), layers=layers, mask=bits.pack(mask))
    store.write(altered(record, whole_mask=bits.mask_file(mask)))
    file = store.mask_of(record.identity)
    assert (pb.read_mask("r", record.identity)["a"].numpy() == mask["a"]).all()
    for make in (os.mkfifo, make_large, make_socket):
        file.unlink()
        make(file)
        with pytest.raises(pb.UserError, match=r"the mask of trial .* cannot be read: it (is|has more)"):
            pb.read_mask("r", record.identity)


def test_files_of_records_that_have_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    Store("r", create=True).write(drawn("snip", 0.5, 0, 0.9))
    archive.pack(Path("r"), Path("a.jsonl.xz"))
    whole = lzma.decompress(Path("a.jsonl.xz").read_bytes())
    for limit, value, more in (
        ("MOST", 100, b"\n" * 100),
        ("LARGEST", 10**5, b" " * 10**5),
        ("MOST_LEFT_OUT", 100, b"{\n" * 200),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(archive, limit, value)
            Path("a.jsonl.xz").write_bytes(lzma.compress(whole))
            assert len(list(Store("a.jsonl.xz"))) == 1
            Path("a.jsonl.xz").write_bytes(lzma.compress(whole + more))
            with pytest.raises(pb.UserError, match="more than"):
                Store("a.jsonl.xz")
    names = ["x" * 300, "a\0b", "\ud800", "..", "a/b", ""]
    entries = [{"folder": "trials", "name": name, "content": {}} for name in names]
    Path("a.jsonl.xz").write_bytes(lzma.compress(whole + b"".join(json.dumps(one).encode() + b"\n" for one in entries)))
    assert len(list(left := Store("a.jsonl.xz"))) == 1
    assert len(left.left_out) == len(names)
    monkeypatch.setattr(archive, "LARGEST", 10)
    with pytest.raises(pb.UserError, match="divide the folder"):
        archive.pack(Path("r"), Path("a.jsonl.xz"))


# a folder that changes while a sweep runs


def gone(out: Path) -> None:
    shutil.rmtree(out)


def trials_gone(out: Path) -> None:
    shutil.rmtree(out / "trials")


def a_file(out: Path) -> None:
    shutil.rmtree(out)
    out.touch()


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (gone, "trials/ is gone, and with it all results in it, 2 of them of this run"),
    "trials gone": (trials_gone, "trials/ is gone, and with it all results in it, 2 of them of this run"),
    "a file": (a_file, "trials/ is gone, and with it all results in it, 2 of them of this run"),
    "read-only": (lambda _out: None, "Read-only file system"),
    "full": (lambda _out: None, "No space left on device"),
    "over quota": (lambda _out: None, "Disk quota exceeded"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_that_can_no_longer_be_written(
    damage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Root may write to any folder: what a read-only file system, or a full one, raises is raised by hand."""
    write, written = Store.write, []
    codes = {"read-only": errno.EROFS, "full": errno.ENOSPC, "over quota": errno.EDQUOT}
    change, message = DAMAGES[damage]
    stored = "; 2 results of this run are stored: make room, and the same command runs the rest"
    cure = stored if damage in ("full", "over quota") else ""

    def then_damage(self: Store, record: Record, **options: Any) -> bool:
        assert write(self, record, **options)
        written.append(record.identity)
        if len(written) == 2:
            change(self.path)
            if damage in codes:

                def refused(*_: object, **__: object) -> None:
                    raise OSError(codes[damage], os.strerror(codes[damage]))

                for module, name in ((Path, "replace"), (Path, "unlink"), (os, "link")):
                    monkeypatch.setattr(module, name, refused)
        return True

    monkeypatch.setattr(Store, "write", then_damage)
    line = one_line(["run", *LINE, "--seeds", "3", "--out", "r"], capsys)
    assert line == f"pai-bench: results folder r can no longer be written ({message}){cure}"
    assert len(written) == 2
    if damage in codes:
        assert {record.identity for record in Store("r")} == set(written)
    else:  # nothing takes the place of what is gone
        assert not os.path.exists("r/trials")


def test_results_that_are_removed_while_a_sweep_runs_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = Store.write

    def then_remove(self: Store, record: Record, **options: Any) -> bool:
        assert write(self, record, **options)
        paths = list(self.trials.glob("*.json"))
        if len(paths) == 3:
            for path in paths[:2]:
                path.unlink()
        return True

    monkeypatch.setattr(Store, "write", then_remove)
    frame = pb.run(sweep(seeds=1, epochs=0, criteria=["random"], sparsities=[0.5, 0.7, 0.9]), out="r")
    assert len(frame) == 4
    removed = [identity for identity in frame.identity if not Store("r").holds(identity)]
    assert len(removed) == 2
    assert f"results folder r no longer holds 2 of 4 trials, such as {removed[0]}: they" in caplog.text


def test_a_damaged_record_that_cannot_be_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store("r", create=True)
    name = identify("a", {})
    assert name.endswith(digest({}))
    (store.trials / f"{name}.json").write_text("{")

    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(pb.UserError, match=r"is damaged \(.*, and cannot be set aside: Read-only file system\)"):
        store.read(name)
