"""Names that no file can have, and files that nothing can be read from: one line and exit code 2, never a traceback."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pai_bench as pb
from pai_bench.cli.entry import main
from pai_bench.masks import Mask
from pai_bench.results import Store
from tests.report.records import drawn

SMALL = ["--criteria", "random", "--models", "lenet-300-100", "--sparsities", "0.5", "--seeds", "1", "--epochs", "0"]
PRUNE = ["prune", "--model", "lenet-300-100", "--criterion", "random", "--sparsity", "0.5"]
TINY = pb.Sweep(criteria=["random"], models=["lenet-300-100"], seeds=1, epochs=0, workers=1)
PLACES = [
    ["run", "{}"],
    ["run", "{}.toml"],
    ["run", *SMALL, "--out", "{}"],
    ["run", *SMALL, "--data", "{}"],
    ["run", *SMALL, "--data", "folder:{}"],
    ["run", *SMALL, "--data", "folder:a,{}"],
    ["run", *SMALL, "--data", "./{}.py:points"],
    ["run", *SMALL, "--data-dir", "{}"],
    ["run", *SMALL, "--models", "./{}.py:net"],
    ["run", *SMALL, "--criteria", "./{}.py:Mine"],
    ["run", "recipe.toml"],
    ["collapse", "{}"],
    ["collapse", "--criteria", "random", "--models", "lenet-300-100", "--out", "{}"],
    ["time", "--criteria", "random", "--models", "lenet-300-100", "--out", "{}"],
    ["report", "{}"],
    ["report", "{}.jsonl.xz"],
    ["report", "r", "-o", "{}"],
    ["report", "r", "-o", "{}.csv"],
    ["report", "r", "--timings", "{}"],
    ["compare", "r", "{}"],
    ["compare", "r", "r", "-o", "{}.md"],
    [*PRUNE, "-o", "{}"],
    [*PRUNE, "--criterion", "structured-random", "--shrink", "-o", "{}"],
    [*PRUNE, "--save-weights", "{}"],
    ["check", "./{}.py:Mine"],
]


def one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that is all that a command says before it ends with exit code 2."""
    try:
        code: object = main(arguments)
    except SystemExit as end:
        code = end.code
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pai-bench")
    return line


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000, "a\0b", "a/" * 3000], ids=["file", "path", "NUL", "folders"])
@pytest.mark.parametrize("arguments", PLACES, ids=" ".join)
def test_names_that_no_file_can_have(arguments: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Store("r", create=True).write(drawn(None, 0.0, 0, 0.9))
    escaped = name.replace("\0", "\\u0000")
    Path("recipe.toml").write_text(f'out = "{escaped}"\nepochs = 0\nseeds = 1\ncriteria = "random"')
    one_line([argument.format(name) for argument in arguments], capsys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = " + "[" * 5000 + "]" * 5000, "recipe r.toml cannot be read: its values are nested too deeply"),
        ("a = " + "{b=" * 5000 + "1" + "}" * 5000, "its values are nested too deeply"),
        ("criteria" + ".a" * 3000 + " = 1", "its values are nested too deeply"),
        ("epochs = " + "9" * 5000, "recipe r.toml is not TOML"),
        ('data = "a\\u0000b"', r"recipe r.toml, line 1: data = 'a\x00b' holds a NUL character"),
    ],
    ids=["lists", "tables", "keys", "digits", "NUL"],
)
def test_recipes_that_cannot_be_read(text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.toml").write_text(text)
    assert message in one_line(["run", "r.toml"], capsys)


def test_sweeps_that_no_memory_could_hold(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = "a sweep of 2,000,000,000 trials is too large, the most is 1,000,000: give fewer seeds"
    assert wanted in one_line(["run", "--seeds", "1000000000", "--sparsities", "0.5", "--dry-run"], capsys)
    assert "is too large" in one_line(["run", "--seeds", "9" * 30, "--dry-run"], capsys)
    Path("r.toml").write_text("epochs = 0\nseeds = 1000000000\n")
    assert "recipe r.toml, line 2: a sweep of 4,000,000,000 trials" in one_line(["run", "r.toml"], capsys)


@pytest.mark.parametrize(
    "call",
    [
        pb.Mask.load,
        pb.read_results,
        pb.load_data,
        lambda name: pb.load_data("digits", data_dir=name),
        lambda name: pb.load_data(f"folder:{name}"),
        lambda name: pb.load_data(f"folder:~{name}"),
        lambda name: pb.create_model(f"./~{name}.py:net", input_shape=(1,), num_classes=2),
        lambda name: pb.create_model(f"~{name}.py:net", input_shape=(1,), num_classes=2),
        lambda name: pb.get_criterion(f"~{name}.py:net"),
        pb.read_mask,
        pb.remake_mask,
        lambda name: pb.read_mask(f"{name}/trials/{name}.json"),
        lambda name: pb.read_mask("r", name),
        lambda name: pb.remake_mask("r", name),
        lambda name: pb.read_mask(name, "x"),
        lambda name: Store("r").get(name),
        lambda name: Store("r").get(f"../{name}"),
        lambda name: Store(f"{name}.jsonl.xz"),
        lambda name: Store(f"{name}\0", create=True),
        lambda name: pb.run(TINY, out=f"{name}\0"),
        lambda name: Mask({"w": torch.ones(1, dtype=torch.bool)}).save(f"{name}\0"),
    ],
)
@pytest.mark.parametrize("name", ["nobody-is-called-that", "x" * 5000, "a\0b", "\udcff"])
def test_odd_names_from_python(call: Callable[[str], object], name: str) -> None:
    Store("r", create=True).write(drawn(None, 0.0, 0, 0.9))
    with pytest.raises(pb.UserError) as raised:
        call(name)
    assert len(str(raised.value).splitlines()) == 1


def test_images_whose_names_are_not_utf8(capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(os.fsdecode(b"images\xff"))
    for part in ("train", "test"):
        for label in (b"cat\xfe", b"dog"):
            folder = root / part / os.fsdecode(label)
            folder.mkdir(parents=True)
            Image.fromarray(np.full((4, 4), len(label), np.uint8)).save(folder / os.fsdecode(b"a\xfd.png"), "png")
    data = pb.load_data(f"folder:{root}")
    assert data.label == "images?"
    assert data.train.targets.tolist() == [0, 1]
    (root / "train" / "dog" / os.fsdecode(b"b\xfd.png")).write_text("no image")
    message = one_line(["run", *SMALL, "--data", f"folder:{root}"], capsys)
    assert "cannot be read as an image" in message
