"""Files that a user asks for: masks, weights, reports and records."""

import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pai_bench as pb
from pai_bench.cli.entry import main
from pai_bench.report.figures import style
from pai_bench.results import Store, archive
from pai_bench.support import outfile
from tests.report.records import drawn


def draw(path: Path) -> None:
    with style.canvas(path) as figure:
        figure.subplots()


def report(*options: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        store = Store("results", create=True)
        store.write(drawn(None, 0.0, 0, 0.9))
        code = main(["report", "results", "-o", str(path), *options])
        assert code in (0, 2)
        if code:
            raise pb.UserError

    return write


def compare(path: Path) -> None:
    report()(Path("other.md"))
    if main(["compare", "results", "results", "-o", str(path)]):
        raise pb.UserError


WRITERS: dict[str, Callable[[Path], object]] = {
    "x.safetensors": pb.Mask({"w": torch.tensor([True, False])}).save,
    "x.svg": draw,
    "x.md": report(),
    "y.md": compare,
    "x.csv": report(),
    "x": report("--format", "latex"),
    "x.jsonl.xz": lambda path: archive.pack(Path("results"), path),
}


@pytest.fixture(params=WRITERS)
def writer(request: pytest.FixtureRequest) -> tuple[Path, Callable[[Path], object]]:
    """The name of a file, and what writes it."""
    return Path(request.param), WRITERS[request.param]


@pytest.fixture
def _umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}


@pytest.mark.usefixtures("_umask")
def test_permissions_are_those_of_the_umask_or_of_the_earlier_file(
    writer: tuple[Path, Callable[[Path], object]],
) -> None:
    name, write = writer
    path = "deep" / ("er" / name)
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    content = path.read_bytes()
    assert content
    path.write_bytes(b"")
    path.chmod(0o604)
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert path.read_bytes() == content
    assert [one.name for one in path.parent.iterdir() if one.is_file()] == [path.name]


def test_symbolic_links_stay_and_their_target_is_written(writer: tuple[Path, Callable[[Path], object]]) -> None:
    name, write = writer
    target = Path("there/target").resolve()
    name.symlink_to("link")
    Path("link").symlink_to("there/target")
    for _ in range(2):  # a target that is not there yet, and one that is
        write(name)
        assert name.is_symlink()
        assert Path("link").is_symlink()
        assert target.stat().st_size > 10
        target.write_bytes(b"")


def make_device(path: Path) -> None:
    path.symlink_to("/dev/null")


def make_circle(path: Path) -> None:
    path.symlink_to(path.name)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.parametrize(
    "make", [os.mkfifo, make_device, make_socket, make_circle, lambda path: (path / "report.md").mkdir(parents=True)]
)
def test_what_is_no_file_is_refused(
    make: Callable[[Path], object],
    writer: tuple[Path, Callable[[Path], object]],
) -> None:
    name, write = writer
    make(name)
    before = name.lstat()
    if name.is_dir() and name.suffix in ("", ".csv"):  # a report is written into a folder, under a name of its own
        (name / f"report{name.suffix or '.tex'}").mkdir()
    with pytest.raises(pb.UserError):
        write(name)
    assert (name.lstat().st_mode, name.lstat().st_ino) == (before.st_mode, before.st_ino)
    assert not list(Path().glob(".*.tmp"))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (".", r"the mask cannot be written to \., which is a folder: name a file"),
        ("/dev/null", "which is a device, pipe or socket: name a file"),
        ("circle", "Too many levels of symbolic links"),
        ("file/below", "Not a directory"),
        ("a" * 300, "File name too long"),
        ("a\0b", "null byte"),
        ("\ud800", "surrogates not allowed"),
    ],
)
def test_messages(path: str, message: str) -> None:
    Path("file").touch()
    Path("circle").symlink_to("circle")
    with pytest.raises(pb.UserError, match=message):
        outfile.write(path, b"x", "the mask")
    assert files() == {"file": b""}


def test_the_longest_names(tmp_path: Path) -> None:
    for name in ("a" * 255, "\N{GRINNING FACE}" * 63):
        outfile.write(name, "x", "the mask")
        assert files() == {name: b"x"}
        Path(name).unlink()


def test_write_protected_files_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").write_text("kept")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write to any
    with pytest.raises(pb.UserError, match=r"cannot be written to file .*write-protected"):
        outfile.write("file", "x", "the mask")
    assert files() == {"file": b"kept"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_file_is_written_whole_or_not_at_all(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("figure.svg")
    draw(path)
    before = path.read_bytes()
    killed, writing, another = (Path(name) for name in (".figure.svg.1.tmp", ".figure.svg.2.tmp", ".figure.svh.1.tmp"))
    for one, age in ((killed, 3600.5), (writing, 3500), (another, 10_000)):
        one.touch()
        os.utime(one, times=(time.time() - age,) * 2)

    def interrupted(one: Path, to: Any) -> None:
        assert one.read_bytes() == before
        raise error

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(
        KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else pb.UserError, match=r"No space|^$"
    ):
        draw(path)
    assert files() == {"figure.svg": before, writing.name: b"", another.name: b""}


def test_weights_that_share_memory_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tied.py").write_text(
        "from torch import nn\n\n\ndef tied(shape, classes):\n"
        "    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Linear(10, 10), nn.Linear(10, 10))\n"
        "    net[3].weight = net[2].weight\n    return net\n"
    )
    options = ["--model", "./tied.py:tied", "--sparsity", "0.5", "-o", "new/m", "--save-weights", "new/w"]
    assert main(["prune", "--criterion", "random", *options]) == 0
    weights = load_file("new/w")
    assert torch.equal(weights["2.weight"], weights["3.weight"])
    assert pb.Mask.load("new/m").kept > 0


def test_results_are_on_the_disk_before_they_have_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be made again, such as a report, need not be."""
    seen: list[tuple[int, list[Path]]] = []
    monkeypatch.setattr(
        os, "fsync", lambda number: seen.append((os.fstat(number).st_size, [*Path("r/trials").glob("*.json")]))
    )
    outfile.write("report.md", "text", "the report")
    assert seen == []
    store = Store("r", create=True)
    store.write(one := drawn(None, 0.0, 0, 0.9))
    assert seen == [(len(one.to_json()), [])]
    assert [path.stem for path in Path("r/trials").glob("*.json")] == [one.identity]
