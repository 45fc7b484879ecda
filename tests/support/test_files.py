"""Networks and data that functions in files make: found, known by their source, and mistakes in one line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pai_bench as pb
from pai_bench.cli.entry import main
from pai_bench.experiment.resolve import resolve
from pai_bench.models import find_model
from pai_bench.results import Store
from pai_bench.support import files

TEXT = """
import torch
from torch import nn

import pai_bench as pb

WIDTH = 8
COUNT = 3


def hidden(size):
    return nn.Sequential(nn.Linear(size, WIDTH), nn.ReLU())


def small(shape, classes):
    return nn.Sequential(hidden(shape[0]), nn.Linear(WIDTH, classes))


def other(shape, classes):
    return nn.Linear(shape[0], classes)


class Net(nn.Linear):
    def __init__(self, shape, classes):
        super().__init__(shape[0], classes)


network = nn.Linear(3, 2)


def raises(shape, classes):
    return {}["key"]


def number(shape, classes):
    return 3


def no_parameters():
    return network


def points():
    inputs = torch.randn(120, 3)
    targets = torch.arange(120) % 2
    return pb.DataSet("points", (inputs[:100], targets[:100]), (inputs[100:], targets[100:]))


def files_of(data_dir):
    return pb.DataSet(data_dir.name, *[(torch.zeros(4, 3), torch.arange(4) % 2)] * 2)


def tensors():
    return torch.zeros(3)


def divides():
    return 1 / 0


def place(path):
    return points()
"""
RUN = ["run", "--criteria", "snip", "--sparsities", "0.5", "--epochs", "1", "--seeds", "1", "--device", "cpu"]


def sweep(model: str = "./own.py:small", data: str = "./own.py:points", **keys: int) -> pb.Sweep:
    """A small sweep over what is in a file."""
    return pb.Sweep(models=[model], data=[data], criteria=["snip"], sparsities=[0.5], epochs=1, device="cpu", **keys)  # type: ignore[arg-type]  # numbers


@pytest.fixture(autouse=True)
def _own_file() -> None:
    Path("own.py").write_text(TEXT)


@pytest.mark.slow
def test_networks_and_data_of_a_file_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    absolute = f"{Path('own.py').resolve()}:Net"
    assert main([*RUN, "--models", f"./own.py:small,{absolute}", "--data", "./own.py:points"]) == 0
    frame = pb.read_results("results")
    assert {name.partition("@")[0] for name in frame.model} == {"small", "Net"}
    assert {name.partition("@")[0] for name in frame.data} == {"points"}
    assert set(frame.status) == {"done"}
    assert str(Path.cwd()) not in "".join(path.read_text() for path in Path("results").rglob("*.json"))
    assert main([*RUN, "--models", f"./own.py:small,{absolute}", "--data", "./own.py:points"]) == 0
    assert "4 of 4 trials are already stored" in capsys.readouterr().out
    named = ["--models", "own.py:small", "--data", "own.py:points", "--criteria", "snip"]
    assert main(["time", *named, "--rounds", "1", "--seconds", "0"]) == 0
    assert main(["collapse", *named, "--seeds", "1", "--points", "2"]) == 0
    assert main(["prune", "--model", "./own.py:small", "--data", "./own.py:points", "--sparsity", "0.5"]) == 0
    assert pb.Mask.load("mask.safetensors").size == 40
    for kind in ("models", "data", "criteria"):
        assert main(["list", kind]) == 0
        assert "./file.py:" in capsys.readouterr().out.rpartition("mask")[2]
    Path("r.toml").write_text('models = ["./own.py:Net"]\ndata = "./own.py:points"\nsparsities = [0.5]\nseeds = 1')
    assert main(["run", "r.toml", "--criteria", "snip", "--epochs", "1", "--dry-run"]) == 0
    assert "stored  points_" in capsys.readouterr().out


def test_what_is_in_a_file_from_python() -> None:
    model = pb.create_model("./own.py:small", input_shape=(3,), num_classes=2, seed=0)
    assert model(torch.zeros(5, 3)).shape == (5, 2)
    one, other = (pb.load_data("./own.py:points") for _ in range(2))
    assert one.name == other.name == f"points@{one.checksum[:8]}"
    drawn = torch.randn(120, 3, generator=torch.Generator().manual_seed(0))  # as stored results have it, in their name
    assert torch.equal(one.train.inputs, drawn[:100])
    assert one.label == "points"
    Path("there").mkdir()
    assert pb.load_data("./own.py:files_of", data_dir="there").label == "there"


@pytest.mark.slow
def test_worker_processes_find_what_is_in_a_file() -> None:
    frame = pb.run(sweep(seeds=2, workers=2, lanes=1), out="two")
    assert set(frame.status) == {"done"}
    assert {record.provenance.workers for record in Store("two")} == {2}


def test_data_that_are_others_in_each_process_are_not_given_to_workers() -> None:
    Path("chance.py").write_text(
        TEXT.replace("torch.randn(120, 3)", "torch.full((120, 3), float(__import__('os').getpid()))")
    )
    with pytest.raises(pb.UserError, match="makes other data in each process"):
        pb.run(sweep(data="./chance.py:points", seeds=2, workers=2, lanes=1), out="two")
    assert not list(Path("two").rglob("*.json"))


def name_of(function: str = "small") -> str:
    """The name under which results of a function in the file are stored."""
    return find_model(f"./own.py:{function}")[0]


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("WIDTH, classes)", "WIDTH, classes, bias=False)", True),
        ("nn.ReLU()", "nn.Tanh()", True),  # in what it calls
        ("WIDTH = 8", "WIDTH = 9", True),
        ("COUNT = 3", "COUNT = 4", False),
        ("nn.Linear(shape[0], classes)", "nn.Linear(shape[0], classes, bias=False)", False),
        ("network = nn.Linear(3, 2)", "nn.init = None", True),  # which may change anything
        ("def other", "# a comment\ndef other", False),
        ("def raises", "if __name__ == '__main__':\n    print(WIDTH)\n\n\ndef raises", False),
        ("def small", "@print_name\ndef small", True),
        ("def other", "hooks = []\n\n\n@hooks.append\ndef other", False),
        ("def small", "def other_small(WIDTH):\n    pass\n\n\ndef small", False),
        ("\n", "\r\n", False),
    ],
)
def test_a_network_is_known_by_the_source_that_it_uses(old: str, new: str, changes: bool) -> None:
    before = files.digest(Path("own.py"), "small")
    with Path("own.py").open("w", newline="") as file:
        file.write(TEXT.replace(old, new))
    assert (files.digest(Path("own.py"), "small") != before) == changes


@pytest.mark.parametrize(
    ("text", "edited"),
    [
        ("parts = []\n@parts.append\nclass Layer: width = 1\ndef small(): return parts[0]", "width = 2"),
        ("class Layer: width = 1\ndef small(): return globals()['Layer']", "width = 2"),
        ("a, b = 1, 1\ndef small(): return b", "a, b = 1, 2"),
        ("sizes = {}\nsizes['a'] = 1\ndef small(): return sizes", "sizes['a'] = 2"),
        ("width: int = 1\ndef small(n=width): return n", "width: int = 2"),
        ("def small(): return Later()\nclass Later: width = 1", "width = 2"),
    ],
)
def test_source_that_is_used_in_other_ways(text: str, edited: str) -> None:
    Path("own.py").write_text(text)
    before = files.digest(Path("own.py"), "small")
    changed = text.replace(edited[:-1] + "1", edited)
    assert changed != text
    Path("own.py").write_text(changed)
    assert files.digest(Path("own.py"), "small") != before


def test_a_changed_network_is_another_and_its_neighbours_stay() -> None:
    before = [trial.identity for model in ("small", "other") for trial in resolve(sweep(f"./own.py:{model}")).trials]
    Path("own.py").write_text(TEXT.replace("WIDTH = 8", "WIDTH = 16"))
    after = [trial.identity for model in ("small", "other") for trial in resolve(sweep(f"./own.py:{model}")).trials]
    half = len(before) // 2
    assert not set(before[:half]) & set(after[:half])
    assert before[half:] == after[half:]
    model = pb.create_model("./own.py:small", input_shape=(3,), num_classes=2)
    assert sum(parameter.numel() for parameter in model.parameters()) == 3 * 16 + 16 + 2 * 16 + 2


def test_files_beside_that_are_imported_count() -> None:
    Path("beside_layers").mkdir()
    Path("beside_layers/__init__.py").write_text("from .deep import Layer")
    Path("beside_layers/deep.py").write_text("from beside_base import Layer")
    Path("beside_base.py").write_text("from torch.nn import Linear as Layer")
    Path("own.py").write_text(
        "from beside_layers import Layer\n\n\ndef small(shape, classes):\n    return Layer(shape[0], classes)\n\n\n"
        "def other(shape, classes):\n    import beside_base\n    return beside_base.Layer(shape[0], classes)\n"
    )
    small, other = name_of(), name_of("other")
    assert isinstance(pb.create_model("./own.py:small", input_shape=(3,), num_classes=2), torch.nn.Linear)
    assert isinstance(pb.create_model("./own.py:other", input_shape=(3,), num_classes=2), torch.nn.Linear)
    Path("beside_layers/deep.py").write_text("from beside_base import Layer  # changed")
    assert name_of() != small
    assert name_of("other") == other
    Path("beside_base.py").write_text("from torch.nn import Linear as Layer  # changed")
    assert name_of("other") != other
    Path("beside_base.py").write_text("def Layer(:")
    with pytest.raises(pb.UserError, match=r"beside_base.py cannot be read: SyntaxError"):
        name_of("other")


def test_a_version_is_part_of_the_identity() -> None:
    plain = resolve(sweep()).trials[0]
    Path("own.py").write_text(f"{TEXT}\n\nsmall.version = 2\n")
    assert resolve(sweep()).trials[0].model.version == 2
    assert plain.model.version == 1
    for version in ("'2'", "property()"):
        Path("own.py").write_text(f"{TEXT}\n\nsmall.version = {version}\n")
        with pytest.raises(pb.UserError, match=r"the attribute version of small is .*, not a whole number"):
            resolve(sweep())


@pytest.mark.parametrize(
    ("flag", "name", "message"),
    [
        ("--models", "./nowhere.py:small", "no file nowhere.py to take the model 'small' from"),
        ("--data", "./nowhere.py:points", "no file nowhere.py to take the data set 'points' from"),
        ("--models", "./own.py", "./own.py is a file; name the model in it: ./own.py:NAME"),
        ("--data", "./own.py:", "name the data set in it: ./own.py:NAME"),
        ("--criteria", "./own.py", "name the criterion in it: ./own.py:NAME"),
        ("--models", "./own.py:smal", "unknown function in own.py 'smal': did you mean small"),
        ("--models", "./own.py:COUNT", "COUNT in own.py is no function that makes a model, but of type int"),
        ("--models", "./own.py:network", "network in own.py is no function that makes a model, but of type Linear"),
        ("--data", "./own.py:network", "network in own.py is no function that makes a data set, but of type Linear"),
        ("--models", "./own.py:raises", "KeyError: 'key' (own.py, line 32, in raises)"),
        ("--models", "./own.py:number", "model number: the function returns int, not an nn.Module"),
        ("--models", "./own.py:no_parameters", "must take the shape of an input and the number of classes: too many"),
        ("--data", "./own.py:tensors", "the function returns Tensor, not a DataSet"),
        ("--data", "./own.py:divides", "ZeroDivisionError: division by zero (own.py, line 58, in divides)"),
        ("--data", "./own.py:place", "is called with nothing, or with data_dir, and raises TypeError"),
        ("--models", "./breaks.py:small", "does not load: NameError: name 'nothing' is not defined (breaks.py, line"),
        ("--models", "./syntax.py:small", "syntax.py does not load: SyntaxError: "),
        ("--models", "./leaves.py:small", "leaves.py does not load: SystemExit: 0"),
        ("--models", "./folder.py:small", "folder.py cannot be read (it is a folder, not a file)"),
        ("--models", "./large.py:small", "large.py cannot be read (it has more than 16,777,216 bytes)"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(flag: str, name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("breaks.py").write_text("import torch\n\nnothing\n")
    Path("syntax.py").write_text("def small(:")
    Path("leaves.py").write_text("import sys\nsys.exit(0)")
    Path("folder.py").mkdir()
    with Path("large.py").open("wb") as file:
        file.truncate(2**24 + 1)
    assert main([*RUN, flag, name]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("pai-bench: ")
    assert said.count("\n") == 1
    Path("r.toml").write_text(f'seeds = 1\n{flag[2:]} = "{name}"')
    assert main(["run", "r.toml"]) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_goes_to_another_folder_takes_nobody_with_it(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    Path("moves.py").write_text(f"import os\nos.chdir({str(tmp_path / 'far')!r})\n{TEXT}")
    here = Path.cwd()
    for function in ("small", "other"):
        assert find_model(f"./moves.py:{function}")[0].startswith(f"{function}@")
    assert Path.cwd() == here


@pytest.mark.slow
def test_modules_of_the_current_folder_are_found() -> None:
    Path("in_this_folder.py").write_text(f"{TEXT}\n\nother.version = 3\n")
    command = [sys.executable, "-P", "-m", "pai_bench", *RUN, "--data", "./own.py:points", "--dry-run", "--models"]
    path = os.pathsep.join(part for part in sys.path if part)
    for name, message in (
        ("small", "2 trials"),
        ("smal", "has no attribute 'smal'"),
        ("network", "but of type Linear"),
    ):
        done = subprocess.run(
            [*command, f"module:in_this_folder:{name}"],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        assert message in done.stdout + done.stderr
    assert resolve(sweep("module:in_this_folder:other")).trials[0].model.version == 3


def test_a_file_imports_from_its_folder_first_and_others_from_there_last(monkeypatch: pytest.MonkeyPatch) -> None:
    here = str(Path.cwd())
    monkeypatch.setattr(sys, "path", before := ["/a", "/b"])
    for _ in range(2):
        with files.importing_from(Path.cwd()):
            assert sys.path[:3] == [here, "/a", "/b"]
        assert sys.path == ["/a", "/b", here]
    assert sys.path is before
    with files.importing_from(Path.cwd()):
        sys.path.remove(here)  # as what is imported may do
        sys.path.remove(here)
    assert sys.path == ["/a", "/b", here]


def test_names_have_eight_digits_of_their_source() -> None:
    assert re.fullmatch("small@[0-9a-f]{8}", name_of())


def test_a_user_error_that_a_file_raises_is_shown_as_it_is() -> None:
    Path("words.py").write_text("import pai_bench as pb\nraise pb.UserError('in its own words')")
    for _ in range(2):
        with pytest.raises(pb.UserError, match=r"^in its own words$"):
            files.load(Path("words.py"), "a model")
