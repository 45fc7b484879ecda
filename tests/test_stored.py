"""Results are read as they were written, or named: odd texts and numbers, checksums, what is no file of a result."""

import base64
import dataclasses
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
import torch
from torch import nn

import pai_bench as pb
from pai_bench.catalog import resolve
from pai_bench.cli import main
from pai_bench.identity import digest, identify
from pai_bench.runner import Runner
from pai_bench.store import Layer, Record, Store, UnstorableError, archive, bits
from pai_bench.store.stored import LONGEST, sealed
from tests.report.records import drawn, fields_of
from tests.report.test_damage import benchmark, collapse, cost
from tests.test_odd_input import SMALL, one_line
from tests.test_runner import blobs, sweep

LINE = [*SMALL, "--workers", "1", "--lanes", "1"]


def changed(path: Path, **changes: Any) -> None:
    """Change fields of a file, and leave its checksum."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# what is written


def test_a_byte_that_is_no_utf8_in_the_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = os.fsdecode(b"r\xff")
    assert main(["run", *LINE, "--out", out]) == 0
    records = list(Store(out))
    assert len(records) == len(pb.read_results(out)) == 2
    assert r"r\udcff" in records[0].provenance["command"]
    monkeypatch.setattr(Runner, "run_together", None)  # nothing runs again
    assert main(["run", *LINE, "--out", out]) == 0
    assert not list(Path(out, "trials").glob("*.damaged"))
    assert main(["report", out]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_odd_values_are_written_as_plain_ones() -> None:
    odd: dict[str, Any] = {
        "error": "half \ud800",
        "test_accuracy": np.float32(0.5),
        "test_loss": float("nan"),
        "train_seconds": torch.tensor(2.5),
        "score_seconds": np.float64("inf"),
        "connected": np.bool_(True),
        "score_peak_bytes": np.int64(7),
        "first_cut": "layer\udcff",
    }
    record = dataclasses.replace(drawn("snip", 0.5, 0, 0.9), **odd)
    host = {**record.environment, "processor": "a cpu\udcfe"}
    record = dataclasses.replace(record, environment=host)
    store = Store("r", create=True)
    store.write(record)
    found = store.get(record.identity)
    expected = {
        "error": "half \\ud800",
        "test_accuracy": 0.5,
        "test_loss": None,
        "train_seconds": 2.5,
        "score_seconds": None,
        "connected": True,
        "score_peak_bytes": 7,
        "first_cut": "layer\\udcff",
    }
    assert {name: getattr(found, name) for name in odd} == expected
    assert found.environment["processor"] == "a cpu\\udcfe"


@pytest.mark.parametrize(
    "changes",
    [
        {"test_accuracy": float("nan")},
        {"test_loss": 1e305},
        {"epochs": object()},
        {"identity": "another"},
        {"error": "x" * LONGEST},
        {"trial": {**drawn("snip", 0.5, 0, 0.9).trial, "seed": 5}},
    ],
)
def test_what_could_not_be_read_again_is_not_written(changes: dict[str, Any]) -> None:
    store = Store("r", create=True)
    store.write(whole := drawn("snip", 0.5, 0, 0.9))
    with pytest.raises(UnstorableError, match="could not be read again, and is not stored"):
        store.write(dataclasses.replace(whole, **changes))
    assert list(store) == [whole]
    with pytest.raises(UnstorableError):
        store.write_cost(dataclasses.replace(cost(), seconds=float("nan")))
    with pytest.raises(UnstorableError):
        store.write_collapse(dataclasses.replace(collapse(), size=0))
    with pytest.raises(UnstorableError):
        store.write_benchmark(dataclasses.replace(benchmark(), seconds=-1.0))


def test_a_trial_whose_result_cannot_be_stored_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    final = Runner._final

    def none(self: Runner, model: Any, trial: Any, history: Any) -> tuple[float, float]:
        return final(self, model, trial, history) if trial.criterion else (0.0, float("nan"))

    monkeypatch.setattr(Runner, "_final", none)
    frame = pb.run(sweep(seeds=1, epochs=1), out="r")
    assert dict(zip(frame.criterion, frame.status, strict=True)) == {
        "dense": "failed",
        "snip": "done",
        "random": "done",
    }
    assert "could not be read again" in frame.error[0]
    assert len(pb.read_results("r")) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": [2**62 + 1]},
        {"sparsities": [1e-310]},
        {"label_noise": 1e-301},
        {"data": [dataclasses.replace(blobs(), name="a\udcff")]},
    ],
)
def test_settings_that_no_record_can_hold_are_refused_before_anything_runs(changes: dict[str, Any]) -> None:
    with pytest.raises(pb.UserError, match=r"could not be stored: .*; texts must be Unicode, numbers 0 or"):
        resolve(sweep(**changes))


class Odd(nn.Module):
    """A network whose layers have names that no file can hold."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.add_module("a\udcff\n", nn.Linear(shape[0], classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.get_submodule("a\udcff\n")(x)
        return found


def odd(shape: tuple[int, ...], classes: int) -> nn.Module:
    """`Odd`."""
    return Odd(shape, classes)


def test_odd_names_of_layers() -> None:
    pb.run(sweep(models=[odd], seeds=1, epochs=0), out="r")
    for record in Store("r"):
        assert [layer.name for layer in record.layers] == ["a\\udcff\n.weight"]
        assert list(pb.read_mask(record)) == ["a\\udcff\n.weight"]
    large = np.random.default_rng(0).random(bits.PLACES + 1) < 0.5
    content = bits.whole_file({"a\udcff": large})
    assert content is not None
    assert (bits.read_whole(content)["a\\udcff"] == large).all()
    with pytest.raises(pb.UserError, match="the mask cannot be written"):
        pb.Mask({"a\udcff": torch.ones(2, dtype=torch.bool)}).save("m.safetensors")


# what is read


def test_a_result_that_was_changed_is_named_and_set_aside(caplog: pytest.LogCaptureFixture) -> None:
    store = Store("r", create=True)
    store.write(intact := drawn("snip", 0.5, 0, 0.9))
    store.write(record := drawn("snip", 0.5, 1, 0.9))
    path = store.trials / f"{record.identity}.json"
    text = path.read_text()
    earlier = fields_of(text)
    assert json.loads(text)["checksum"] == sealed(earlier)["checksum"]
    damages = {
        "checksum": json.dumps(json.loads(text) | {"test_loss": 0.25}),
        "settings": json.dumps(earlier | {"trial": earlier["trial"] | {"seed": 2}}),  # of a file without a checksum
    }
    for why, damage in damages.items():
        path.write_text(damage)
        assert list(store) == [intact]
        with pytest.raises(pb.UserError, match=why):
            pb.read_mask(path)
        assert path.exists()
        assert store.read(record.identity) is None
        assert not path.exists()
        assert caplog.records[-1].getMessage().startswith(f"{path} is damaged (its ")
        assert why in caplog.records[-1].getMessage()
    for whole in (text, json.dumps(earlier), json.dumps(json.loads(text), sort_keys=True)):
        path.write_text(whole)
        assert store.read(record.identity) == record
        assert path.read_text() == whole


def test_other_results_are_held_to_their_names_and_checksums() -> None:
    store = Store("r", create=True)
    store.write_cost(cost())
    store.write_collapse(collapse())
    store.write_benchmark(benchmark())

    def count() -> list[int]:
        return [len(found) for found in (store.read_costs(), store.read_collapses(), store.read_benchmarks())]

    assert count() == [1, 1, 1]
    paths = [next(folder.glob("*.json")) for folder in (store.costs, store.collapses, store.benchmarks)]
    for path in paths:
        shutil.copy(path, path.with_name("copy-of-another.json"))
    assert count() == [1, 1, 1]
    assert all("not those that the file is named by" in why for why in store.left_out.values())
    for path in paths:
        changed(path, schema=0)
    assert count() == [0, 0, 0]
    assert all("checksum" in store.left_out[path.relative_to("r").as_posix()] for path in paths)


def test_a_file_of_records_holds_no_damaged_one_and_has_checksums_of_its_own() -> None:
    store = Store("r", create=True)
    for seed in range(4):
        store.write(drawn("snip", 0.5, seed, 0.9))
    first, second, third, _ = sorted(store.trials.glob("*.json"))
    changed(first, test_loss=0.25)
    second.write_text(json.dumps(fields_of(second.read_text())))
    changed(third, error=float("nan"))
    assert archive.pack(store.path, Path("a.jsonl.xz")) == 2
    lines = [json.loads(line) for line in lzma.decompress(Path("a.jsonl.xz").read_bytes()).splitlines()]
    assert ["checksum" in line["content"] for line in lines] == [False, True]
    assert len(list(Store("a.jsonl.xz"))) == 2
    lines[1]["content"]["test_loss"] = 0.25
    with lzma.open("a.jsonl.xz", "wt") as file:
        file.writelines(f"{json.dumps(line)}\n" for line in lines)
    assert len(list(left := Store("a.jsonl.xz"))) == 1
    assert "checksum" in next(iter(left.left_out.values()))


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
    record = dataclasses.replace(drawn("snip", 0.5, 0, 0.9), mask=text)
    store.write(record)
    with pytest.raises(pb.UserError, match="a mask of 95 weights in more than 12 bytes"):
        pb.read_mask(record)
    assert main(["report", "r"]) == 0
    assert main(["compare", "r", "r"]) == 0


def test_a_dense_reference_that_would_fill_the_memory() -> None:
    large = (Layer(name="a", size=2**40, kept=2**40, shape=(2**20, 2**20)),)
    mask = pb.read_mask(dataclasses.replace(drawn(None, 0.0, 0, 0.9), layers=large))
    assert mask["a"].shape == (2**20, 2**20)
    assert mask.size == 2**40
    for layer in (Layer(name="a", size=4, kept=4), Layer(name="a", size=4, kept=4, shape=(-2, -2))):
        with pytest.raises(pb.UserError, match="4 weights of a have the shape"):
            pb.read_mask(dataclasses.replace(drawn(None, 0.0, 0, 0.9), layers=(layer,)))


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
        bits.read_whole(content)


def test_a_whole_mask_that_is_no_file_or_too_long() -> None:
    store = Store("r", create=True)
    size = bits.PLACES + 8
    mask = {"a": np.random.default_rng(0).random(size) < 0.5}
    layers = (Layer(name="a", size=size, kept=int(mask["a"].sum()), shape=(size,)),)
    record = dataclasses.replace(drawn("snip", 0.5, 0, 0.9), layers=layers, mask=bits.pack(mask))
    store.write(dataclasses.replace(record, whole_mask=bits.whole_file(mask)))
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
    with pytest.raises(pb.UserError, match="part the folder"):
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
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_that_can_no_longer_be_written(
    damage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Root may write to any folder: what a read-only file system, or a full one, raises is raised by hand."""
    write, written = Store.write, []
    codes = {"read-only": errno.EROFS, "full": errno.ENOSPC}
    change, message = DAMAGES[damage]

    def then_damage(self: Store, record: Record) -> None:
        write(self, record)
        written.append(record.identity)
        if len(written) == 2:
            change(self.path)
            if damage in codes:

                def refused(*_: object, **__: object) -> None:
                    raise OSError(codes[damage], os.strerror(codes[damage]))

                monkeypatch.setattr(Path, "replace", refused)
                monkeypatch.setattr(Path, "unlink", refused)

    monkeypatch.setattr(Store, "write", then_damage)
    line = one_line(["run", *LINE, "--seeds", "3", "--out", "r"], capsys)
    assert line == f"pai-bench: results folder r can no longer be written ({message})"
    assert len(written) == 2
    if damage in codes:
        assert {record.identity for record in Store("r")} == set(written)
    else:  # nothing takes the place of what is gone
        assert not os.path.exists("r/trials")


def test_results_that_are_removed_while_a_sweep_runs_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = Store.write

    def then_remove(self: Store, record: Record) -> None:
        write(self, record)
        paths = list(self.trials.glob("*.json"))
        if len(paths) == 3:
            for path in paths[:2]:
                path.unlink()

    monkeypatch.setattr(Store, "write", then_remove)
    frame = pb.run(sweep(seeds=1, epochs=0, criteria=["random"], sparsities=[0.5, 0.7, 0.9]), out="r")
    assert len(frame) == 4
    assert "results folder r no longer holds 2 of 4 trials, such as blobs-" in caplog.text


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
